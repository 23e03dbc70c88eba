"""Conditions and ranges of a request, against a kept answer."""
from libc.stdint cimport int64_t, uint64_t

from fastgw._core.headers cimport Head

cdef enum:
    RANGES = 16              # of one request; with more it gets the whole

cdef enum RangeAnswer:
    WHOLE = 0                # there is none, it is not valid, or not to be followed
    UNSATISFIABLE = -1

ctypedef struct Range:
    uint64_t first, length

cdef bint etag_listed(const char *p, size_t n, const char *etag, size_t k) noexcept nogil     # weak comparison
cdef bint not_modified(Head request, int count, const char *etag, size_t n, int64_t modified) noexcept
cdef bint still_holds(Head request, const char *etag, size_t n, int64_t modified) noexcept    # If-Range
cdef int ranges_of(const char *p, size_t n, uint64_t size, Range *ranges) noexcept nogil      # how many; RangeAnswer
