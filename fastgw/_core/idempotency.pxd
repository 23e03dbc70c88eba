"""The native half of `idempotency`: what is written down of an answer while it passes."""
from libc.stdint cimport int64_t

from fastgw._core.endure cimport Enduring
from fastgw._core.exchange cimport Exchange


cdef class Recording:
    cdef object claim                           # the policy's own
    cdef int status
    cdef bytes lines                            # of the head, as they stood when the answer came to this policy
    cdef list chunks
    cdef int64_t size
    cdef bint head                              # seen
    cdef bint over                              # too large to be kept
    cdef bint ours                              # a failure: the gateway's own answer
    cdef bint told


cdef class IdempotencyHook(Enduring):
    cdef dict live                              # exchange → Recording
    cdef int64_t max_answer
    cdef bint again
    cdef int _over(self, Exchange ex, Recording recording) except -1
    cdef int _add(self, Exchange ex, Recording recording, bytes piece) except -1
