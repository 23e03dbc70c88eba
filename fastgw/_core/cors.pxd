"""The hot half of `cors`."""
from fastgw._core.exchange cimport Exchange, Hook
from fastgw._core.headers cimport Head, Header


cdef class OriginPattern:
    cdef bytes scheme, host, port
    cdef bint subdomains, any_port
    cdef bint match(self, const char *p, size_t n) noexcept


cdef class Cors(Hook):
    cdef frozenset exact
    cdef bytes first                   # the only exact origin, when there is one
    cdef tuple patterns
    cdef bint any_origin, credentials, reflect_headers, private_network
    cdef bytes extra                   # ready lines after Allow-Origin
    cdef int extra_count
    cdef bytes preflight_lines
    cdef bint any_method
    cdef bint _allowed(self, const char *p, size_t n) except -1
    cdef int _answer(self, Exchange ex, Header *origin, Header *method) except -1
    cdef int _origin(self, Head head, const char *p, size_t n) except -1
    cdef bint _varies(self, Head head) noexcept
