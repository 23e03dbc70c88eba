"""The id of an exchange, told to both sides."""
from fastgw._core.exchange cimport Exchange, Hook
from fastgw._core.headers cimport Head


cdef class RequestId(Hook):
    cdef bytes header, lower
    cdef bint accept, tell
    cdef size_t limit
    cdef bint _from_proxy(self, Exchange ex) except -1
    cdef int _write(self, Exchange ex, Head head) except -1
