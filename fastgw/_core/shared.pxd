"""Stage `pool`: endpoints whose connections carry many exchanges at once."""
from fastgw._core.dial cimport Dialed
from fastgw._core.exchange cimport Exchange
from fastgw._core.pool cimport Endpoint
from fastgw._core.upstream cimport H1Opener


cdef class SharedConnection(Dialed):
    cdef bint gone, counted               # closed; among the endpoint's connections
    cdef bint room(self) noexcept                 # for one more
    cdef bint quiet(self) noexcept                # carries nothing
    cdef int carry(self, Exchange ex) except -1   # ex.up is bound
    cdef int part(self) except -1                 # no more; closes when those under way are through


cdef class SharedEndpoint(Endpoint):
    cdef list shared                      # SharedConnection that take more
    cdef H1Opener fallback                # for those that agree on HTTP/1.1
    cdef int most                         # exchanges of one connection, as configured
    cdef bint plain                       # the last one agreed on HTTP/1.1
    cdef int room_made(self, SharedConnection connection) except -1
    cdef int ready(self, SharedConnection connection) except -1
    cdef int parted(self, SharedConnection connection) except -1
    cdef int plain_ready(self, SharedConnection connection) except -1
