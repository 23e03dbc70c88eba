"""Authenticators composed: any of them, or all."""
from fastgw._core.exchange cimport Consumer, Exchange, Hook


cdef class Composition(Hook):
    cdef tuple members
    cdef tuple excluded
    cdef int _go(self, Exchange ex, int i, list refusals, int verdict, Consumer consumer, object claims) except -1
    cdef int _wait(self, Exchange ex, int i, list refusals, Consumer consumer, object claims) except -1


cdef class AllOf(Composition):
    pass


cdef class AnyOf(Composition):
    cdef readonly bint optional
    cdef Consumer anonymous
    cdef tuple apart
    cdef int _passed(self, Exchange ex, int i, list refusals) except -1
    cdef int _refused(self, Exchange ex, list refusals) except -1
