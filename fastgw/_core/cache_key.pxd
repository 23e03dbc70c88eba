"""What an answer is found by."""
from libc.stdint cimport uint32_t, uint64_t

from fastgw._core.exchange cimport Exchange
from fastgw._core.headers cimport Head
from fastgw._core.template cimport Compiled

cdef enum:
    MAX_NAME = 16384         # bytes; what has a longer one is not cached
    MAX_VARY = 16            # names in Vary; with more it is not kept


cdef class Keys:
    cdef bytes zone
    cdef Compiled extra                   # added to host, path and query; or None
    cdef bint query                       # the query counts
    cdef tuple ignored                    # names of parameters that do not, `utm_*` for all that begin so
    cdef bint personal                    # who asks belongs to the name
    cdef char *buf
    cdef uint32_t n                       # of the name that was made last
    cdef uint32_t plain                   # of it: host, path and query
    cdef int make(self, Exchange ex) except -1                      # 1: `buf`, `n`; 0: too long
    cdef int for_target(self, Exchange ex, const char *target, size_t n) except -1       # the same of another URL
    cdef int vary(self, Head request, const char *names, size_t n, uint64_t nonce, uint32_t base) except -1
    cdef int identity(self, Exchange ex, uint32_t base) except -1
    cdef int _tail(self, Exchange ex, uint32_t at) except -1
    cdef int _put(self, const char *p, size_t n) except -1
    cdef int _filtered_query(self, const char *p, size_t n) except -1
    cdef bint _kept(self, const char *p, size_t n) except -1

cdef bint identified(Exchange ex) noexcept                          # the request says who asks
cdef bytes varying(Head head)                                       # names of Vary, in lower case and order; None: `*`
