"""Who calls, by an API key."""
from fastgw._core.exchange cimport Exchange, Hook


cdef class KeyAuth(Hook):
    cdef dict consumers
    cdef bytes header, query
    cdef bint forward
    cdef str challenge
    cdef int _refuse(self, Exchange ex, str code, str detail) except -1
    cdef int _hide(self, Exchange ex) except -1
