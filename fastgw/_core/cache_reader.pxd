"""The body of a kept answer, on its way to a client."""
from libc.stdint cimport uint64_t

from fastgw._core.cache_conditional cimport RANGES, Range
from fastgw._core.cache_store cimport Found, Storage
from fastgw._core.exchange cimport Exchange, UpstreamStream
from fastgw._core.respond cimport Relay


cdef class Reader(UpstreamStream):
    cdef Relay relay
    cdef Storage storage
    cdef Found found                      # pinned until the last byte is out
    cdef Exchange ex
    cdef Range ranges[RANGES]
    cdef int count, now_at                # of ranges
    cdef uint64_t sent                    # of the range that is being sent
    cdef list between                     # what stands before each part, and after the last; None: there is one part
    cdef bint pumping
    cdef int begin(self, Exchange ex) except -1
    cdef int pump(self) except -1
    cdef int _over(self) except -1
