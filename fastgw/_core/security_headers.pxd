"""Headers that tell browsers what they must not do with an answer."""
from fastgw._core.exchange cimport Exchange, Hook
from fastgw._core.headers cimport Head


cdef class SecurityHeaders(Hook):
    cdef tuple names                     # bytes, in lower case
    cdef tuple lines                     # bytes: the line of each, with its CRLF
    cdef tuple removed                   # bytes, in lower case
    cdef bytes hsts                      # the line that goes over TLS only, or None
    cdef bint replace
    cdef int _put(self, Head head, bytes name, bytes line) except -1
