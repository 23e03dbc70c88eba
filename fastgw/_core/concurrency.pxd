"""How many requests may be under way at once."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgw._core.admission cimport Admission, Ticket
from fastgw._core.clock cimport Timed, Timer
from fastgw._core.exchange cimport Exchange
from fastgw._core.hedge cimport BINS
from fastgw._core.reactor cimport Handler, Reactor


cdef class Gradient:
    """A limit that is learnt from how long answers take."""
    cdef readonly double limit
    cdef readonly double least, most, share, buffer, jitter
    cdef readonly int64_t window, interval
    cdef readonly uint32_t probes
    cdef readonly int64_t ideal           # ns: what an answer takes when next to nothing is under way; 0: not known
    cdef readonly int64_t sampled         # ns: of the last window
    cdef readonly bint probing            # it is being found out, so next to nothing is let through
    cdef double before                    # the limit to go on with afterwards
    cdef uint32_t bins[BINS]
    cdef uint32_t total
    cdef int64_t window_at, probe_at
    cdef int observe(self, int64_t took, int64_t now, int in_flight) except -1
    cdef int64_t _percentile(self) noexcept
    cdef int _probe(self, int64_t now) except -1


cdef class Wake(Handler):
    cdef Concurrency home


cdef class Late(Timed):
    cdef Concurrency home
    cdef Timer timer


cdef class Concurrency(Admission):
    cdef readonly Gradient gradient       # None: `most` holds always
    cdef readonly int most, room
    cdef readonly int64_t patience        # ns that one may wait
    cdef readonly int in_flight
    cdef readonly uint64_t refused
    cdef Reactor reactor
    cdef object queue                     # deque of (Exchange, Ticket)
    cdef Late late                        # while somebody waits
    cdef bint waking
    cdef object __weakref__
    cdef int limit_now(self) noexcept
    cdef int _enter(self, Ticket ticket, int64_t now) except -1
    cdef int _free(self) except -1
    cdef int _arm(self) except -1
    cdef int run_waiting(self) except -1
    cdef int run_late(self) except -1
