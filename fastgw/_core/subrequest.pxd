"""Requests the gateway itself makes to a service, on behalf of a policy."""
from libc.stdint cimport int64_t

from fastgw._core.exchange cimport Downstream, Exchange
from fastgw._core.respond cimport Relay


cdef class Collector(Downstream):
    cdef Relay relay
    cdef object future
    cdef bytearray body
    cdef int64_t limit
    cdef Exchange ex
    cdef object problem                   # the code of what went wrong, or None
