"""Answers the gateway gives by itself."""
from fastgw._core.exchange cimport Exchange, Hook
from fastgw._core.template cimport Compiled


cdef class StaticReply(Hook):
    cdef int status, count
    cdef bytes body, content_type, lines
    cdef tuple filled


cdef class Redirect(Hook):
    cdef int status
    cdef Compiled location
    cdef bint keep_path, keep_query
