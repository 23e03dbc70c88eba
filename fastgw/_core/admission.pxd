"""Who is asked before an attempt whether it may go on, and hears what became of it."""
from libc.stdint cimport int64_t

from fastgw._core.exchange cimport Exchange


cdef class Ticket:
    """One exchange at one Admission, for one attempt."""
    cdef Admission by
    cdef Ticket below                     # of who was asked before
    cdef bint waiting                     # it was told to wait
    cdef int64_t at                       # ns: when it was asked
    cdef int64_t mark                     # the Admission's own, 0 to begin with
    cdef Py_ssize_t place                 # the same
    cdef int64_t charged                  # the same, ns


cdef class Admission:
    """One of a route or a service: a circuit breaker, a limit of requests under way."""
    # CONTINUE. WAIT: ex.driver.resume(ex, CONTINUE or REPLIED) follows, unless `left` comes first. REPLIED: not now.
    cdef int admit(self, Exchange ex, Ticket ticket, int64_t now) except -1
    # After REPLIED: a Problem.
    cdef object refusal(self, Exchange ex, Ticket ticket)
    # ex.response has the head of the answer.
    cdef int answered(self, Exchange ex, Ticket ticket, int64_t now) except -1
    # A code of codes.py, in the place of the answer or after its head; it may be no fault of the service's (`blames`).
    cdef int failed(self, Exchange ex, Ticket ticket, str code) except -1
    # The attempt is over: once after each CONTINUE or WAIT (then ticket.waiting says so), the last of all.
    cdef int left(self, Exchange ex, Ticket ticket) except -1


cdef bint blames(Exchange ex, str code) except -1       # does it say anything about the service?

# For the relay, where ex.watched says that anybody wants to know; the balancer hears it too.
cdef int admit(Exchange ex, int64_t now) except -1      # Verdict: asks those of the route, then those of the service
cdef object refusal(Exchange ex)                        # after REPLIED
cdef bint waits(Exchange ex) noexcept
cdef int answered(Exchange ex, int64_t now) except -1
cdef int failed(Exchange ex, str code) except -1
cdef int left(Exchange ex) except -1
