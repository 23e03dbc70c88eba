"""What of a request's target goes to the upstream."""
from libc.stdint cimport int32_t, uint32_t

from fastgw._core.exchange cimport Exchange


cdef class Rewrite:
    cdef bytes strip, add
    cdef tuple path_parts, query_parts    # bytes, or the index of a capture
    cdef bint template, has_query
    cdef int apply(self, Exchange ex) except -1
    cdef int _template(self, Exchange ex) except -1
