"""Who is asked before an attempt whether it may go on, and hears what became of it.

A route and a service may have some, asked in this order: those of the route, those of the service. Each says go on, not
now, or wait. Who said go on, or wait, hears of the attempt until `left`; so does the balancer where it wants to. Without
any there is nothing: neither a ticket nor a question.

An Admission that makes exchanges wait resumes them from its `left` (of another one), which may end at once and come to
`left` again: it goes through its queue in a loop there, not in depth.
"""
cimport cython
from libc.stdint cimport int64_t

from fastgw._core.exchange cimport CONTINUE, REPLIED, WAIT, Exchange
from fastgw._core.pool cimport Service

from fastgw._core.exchange import Problem


@cython.final
@cython.freelist(256)
@cython.no_gc
cdef class Ticket:
    pass


cdef class Admission:
    cdef int admit(self, Exchange ex, Ticket ticket, int64_t now) except -1:
        return CONTINUE

    cdef object refusal(self, Exchange ex, Ticket ticket):
        return Problem(503, "overloaded", side=2)

    cdef int answered(self, Exchange ex, Ticket ticket, int64_t now) except -1:
        return 0

    cdef int failed(self, Exchange ex, Ticket ticket, str code) except -1:
        return 0

    cdef int left(self, Exchange ex, Ticket ticket) except -1:
        return 0


cdef bint blames(Exchange ex, str code) except -1:
    """False for a queue, a policy, the client: nothing is known of the service then."""
    if code == "route_timeout":
        return not ex.head_arrived               # else it answers, and the client may be the slow one
    return code.startswith("upstream_") and code != "upstream_body_too_large"


cdef int admit(Exchange ex, int64_t now) except -1:
    cdef object first = ex.route.admissions if ex.instead is None else None
    cdef object then = (<Service>ex.service).admissions
    cdef int mine = 0 if first is None else len(<tuple>first)
    cdef int many = mine + (0 if then is None else len(<tuple>then))
    cdef int verdict
    cdef Ticket ticket
    if ex.ticket is not None:
        (<Ticket>ex.ticket).waiting = False
    while ex.asked < many:
        ticket = Ticket.__new__(Ticket)
        ticket.by = <Admission>((<tuple>first)[ex.asked] if ex.asked < mine else (<tuple>then)[ex.asked - mine])
        ticket.below = <Ticket>ex.ticket
        ticket.at = now
        ex.ticket = ticket
        ex.asked += 1
        ex.watched = True
        verdict = ticket.by.admit(ex, ticket, now)
        if verdict != CONTINUE:
            ticket.waiting = verdict == WAIT
            return verdict
    return CONTINUE


cdef object refusal(Exchange ex):
    cdef Ticket ticket = <Ticket>ex.ticket
    ex.ticket = ticket.below
    return ticket.by.refusal(ex, ticket)


cdef bint waits(Exchange ex) noexcept:
    return ex.ticket is not None and (<Ticket>ex.ticket).waiting


cdef int answered(Exchange ex, int64_t now) except -1:
    cdef Ticket ticket = <Ticket>ex.ticket
    if ex.picked is not None:
        (<Service>ex.service).balancer.answered(ex)
    while ticket is not None:
        ticket.by.answered(ex, ticket, now)
        ticket = ticket.below
    return 0


cdef int failed(Exchange ex, str code) except -1:
    cdef Ticket ticket = <Ticket>ex.ticket
    if ex.picked is not None:
        (<Service>ex.service).balancer.failed(ex, code)
    while ticket is not None:
        if not ticket.waiting:
            ticket.by.failed(ex, ticket, code)
        ticket = ticket.below
    return 0


cdef int left(Exchange ex) except -1:
    cdef Ticket ticket
    ex.watched = False
    ex.asked = 0
    if ex.picked is not None:
        (<Service>ex.service).balancer.left(ex)
    while ex.ticket is not None:
        ticket = <Ticket>ex.ticket
        ex.ticket = ticket.below
        ticket.by.left(ex, ticket)
    return 0
