"""The hot half of `decompress`: bodies without their encodings, for policies that read them."""
from libc.stdint cimport int64_t, uint32_t

from fastgw._core.body cimport Stage
from fastgw._core.exchange cimport Exchange, Hook
from fastgw._core.headers cimport Head
from fastgw._core.offload cimport Job, Offload
from fastgw._core.record cimport Stats


cdef class Decompress(Hook):
    cdef frozenset codings            # that are undone, bytes
    cdef int layers
    cdef int64_t limit                # bytes of a request's body as it comes
    cdef object decode                # (body, codings) → bytes
    cdef object stream                # codings → feed(bytes), end()
    cdef object failed                # what they raised → a Problem, of a request's or a response's body
    cdef bint requests, responses, original, strip
    cdef str accepted                 # for Accept-Encoding of a refusal
    cdef Offload offload
    cdef tuple named(self, Head head)


cdef class Work(Job):
    cdef Decompress home
    cdef Exchange ex
    cdef uint32_t generation
    cdef bytes body, out
    cdef tuple codings


cdef class Decoder(Stage):
    cdef Decompress home
    cdef Stats stats
    cdef object stream
    cdef bytes rest                   # not looked at yet: the client is slower
    cdef bint ended, over, working
    cdef int _go_on(self, bint within) except -1
