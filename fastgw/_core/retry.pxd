"""What is sent again, when, and how much of it."""
from libc.stdint cimport int64_t, uint32_t

from fastgw._core.exchange cimport Exchange
from fastgw._core.reactor cimport Reactor
from fastgw._core.record cimport Stats


cdef class Budget:
    """How many of a service's requests may be repeats, in one worker."""
    cdef readonly double ratio, floor, tokens
    cdef int64_t at
    cdef void deposit(self, int64_t now) noexcept         # a request began
    cdef bint withdraw(self, int64_t now) noexcept        # one is sent again; False: not now


cdef class Retry:
    cdef readonly int attempts
    cdef readonly Budget budget
    cdef readonly bint connect, reset, timeout, trust_key
    cdef readonly int64_t base_ns, max_ns, per_try_ns, body
    cdef char statuses[600]
    cdef uint32_t methods, grpc
    cdef int64_t wait(self, Exchange ex, str code, int64_t now) except -2     # code None: by its answer
    cdef bint repeatable(self, Exchange ex) noexcept       # by its method
    cdef bint wants_failure(self, Exchange ex, str code) except -1
    cdef bint wants_answer(self, Exchange ex) noexcept
    cdef int64_t delay(self, Exchange ex, bint answered) noexcept      # ns; -1: longer than it may be


cdef int begin_try(Exchange ex, int64_t now) except -1     # an attempt begins, where ex.retry holds
cdef bint kept(Exchange ex) noexcept                       # what came of its body is here to be sent again
cdef bint silent(Exchange ex, int untouched) noexcept      # once more without `retry`: nobody can see that it is
cdef int rewind(Exchange ex) except -1                     # lets go of the upstream, before another attempt

# Whether another attempt will be made, in a while. `code`: how this one failed; None: by its answer.
cdef bint repeat(Exchange ex, str code, Reactor reactor, Stats stats) except -1
