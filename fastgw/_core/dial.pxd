"""Stage `upstream`: a connection to an endpoint while it is made."""
from fastgw._core.clock cimport Timer
from fastgw._core.pool cimport PooledStream
from fastgw._core.reactor cimport Channel, Reactor


cdef class Dialed(PooledStream):
    """Tries the endpoint's addresses in turn, within its connect timeout; `established` when one answers."""
    cdef Reactor reactor
    cdef Channel channel                  # None: closed, or nothing answered
    cdef Timer timer
    cdef int tried
    cdef bint tls_failed
    cdef int dial(self) except -1
    cdef int _next_address(self) except -1
    cdef int dial_overdue(self) except -1         # on_timer while `connecting`
    cdef int established(self) except -1
    cdef int give_up(self) except -1              # closes what there is
