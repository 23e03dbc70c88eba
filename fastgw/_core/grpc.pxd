"""gRPC as it passes: deadlines, the size of messages, the status at the end."""
from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastgw._core.exchange cimport Exchange, Hook
from fastgw._core.headers cimport Head
from fastgw._core.reactor cimport Reactor
from fastgw._core.record cimport Stats


ctypedef struct Messages:
    # Where a stream of length-prefixed messages is.
    uint8_t prefix[5]
    uint32_t have                         # bytes of the prefix
    uint32_t rest                         # bytes of the message that are still to come


cdef class GrpcHook(Hook):
    cdef Reactor reactor
    cdef Stats stats


cdef bint is_grpc(Head head) noexcept
# Follows a piece of a body; False when a message in it is longer than `limit` (-1: none).
cdef bint messages_fit(Messages *messages, const char *p, size_t n, int64_t limit) noexcept
# `grpc-status` of the trailers, or of an answer of trailers alone; -1 when there is none
cdef int final_status(Exchange ex) noexcept
# The status and its reason as trailers, for an answer that had begun.
cdef Head end_with(str code)
