"""The chain of policies of a route: how hooks written in Python take part in it."""
from fastgw._core.exchange cimport Exchange, Hook


cdef enum:
    DRIVE_REQUEST, DRIVE_AROUND, DRIVE_RESPONSE


cdef class PythonHook(Hook):
    cdef readonly object policy
    cdef object _request, _around, _response, _request_body, _response_body, _record
    cdef int _verdict(self, Exchange ex, object result) except -1
    cdef int _drive(self, Exchange ex, object coroutine, object value, int what) except -1
    cdef int _failed(self, Exchange ex, object error) except -1


cdef class Later:
    cdef Exchange ex
    cdef PythonHook hook
    cdef object generation
    cdef int bind(self, Exchange ex, PythonHook hook) except -1


cdef int apply_problem(Exchange ex, object problem) except -1
cdef int cancel_tasks(Exchange ex) except -1      # the Tasks of its hooks that wait
cdef int sending(Exchange ex) except -1           # hooks of PHASE_SEND
