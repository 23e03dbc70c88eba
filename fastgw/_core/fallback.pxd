"""What answers in the place of a service that does not."""
from libc.stdint cimport int64_t

from fastgw._core.exchange cimport Exchange, Hook
from fastgw._core.respond cimport Relay
from fastgw._core.static_reply cimport StaticReply


cdef class Fallback(Hook):
    cdef bint circuit_open, timeout, failed
    cdef char statuses[600]
    cdef str service                      # None: only the reply
    cdef StaticReply reply                # None: only the service
    cdef int64_t total_ns, body
    cdef bint wanted(self, Exchange ex) except -1
    cdef int _count(self, Exchange ex, Relay relay, int word) except -1
