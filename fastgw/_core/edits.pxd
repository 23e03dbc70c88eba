"""Header edits of a policy."""
from fastgw._core.exchange cimport Exchange, Hook
from fastgw._core.headers cimport Head
from fastgw._core.template cimport Compiled


cdef class Edit:
    cdef bytes lower, name, lines
    cdef int count
    cdef Compiled value
    cdef int apply(self, Head head, Exchange ex) except -1


cdef class HeaderEdits(Hook):
    cdef tuple on_request, on_response
