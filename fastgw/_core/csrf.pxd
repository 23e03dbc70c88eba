"""Whether a request that changes something comes from a page of another site."""
from fastgw._core.exchange cimport Exchange, Hook
from fastgw._core.headers cimport Head, Header


cdef class Csrf(Hook):
    cdef frozenset trusted               # origins, bytes in lower case
    cdef tuple patterns                  # cors.OriginPattern
    cdef bint sockets
    cdef object report
    cdef bint _is_trusted(self, Head head, Header *origin) except -1
    cdef int _cross(self, Exchange ex, str how) except -1
