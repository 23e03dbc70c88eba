"""The hot half of `coalesce`: flights and those who wait for them."""
from libc.stdint cimport int64_t

from fastgw._core.clock cimport Timed, Timer, Wheel
from fastgw._core.exchange cimport Exchange, Hook
from fastgw._core.headers cimport Head
from fastgw._core.reactor cimport Handler


cdef class Coalesce


cdef class Flight(Timed):
    cdef Coalesce home
    cdef bytes key
    cdef Exchange leader
    cdef dict waiters                  # exchange → its generation, in order of arrival
    cdef Timer timer
    cdef Wheel wheel
    cdef bint sharing                  # the head is here and may be shared
    cdef bint over
    cdef int status
    cdef bytes lines, body
    cdef list chunks
    cdef int64_t size


cdef class Release(Handler):
    cdef Coalesce home


cdef class Coalesce(Hook):
    cdef tuple headers
    cdef frozenset key_headers
    cdef bint across, failing
    cdef int64_t max_body, timeout
    cdef int max_waiters
    cdef dict flights                  # key → Flight
    cdef dict flying                   # exchange → Flight, of leaders and of those who wait
    cdef list released                 # (exchange, generation, verdict, flight or None, code or None)
    cdef Release release
    cdef bytes key_of(self, Exchange ex)
    cdef bint _shareable(self, Head head) except -1
    cdef int _hand_on(self, Flight flight) except -1
    cdef int scatter(self, Flight flight) except -1
    cdef int fail(self, Flight flight, str code) except -1
    cdef int _land(self, Flight flight, int verdict, str code) except -1
    cdef int _close(self, Flight flight) except -1
    cdef int _resume(self, Exchange ex, generation, int verdict, Flight flight, str code) except -1
    cdef int run_released(self) except -1
    cdef int _reply(self, Exchange ex, Flight flight, str code) except -1
