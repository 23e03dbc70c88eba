"""concurrency: letting an attempt through and hearing of its end, with a number and with a limit that is learnt."""
from libc.stdint cimport int64_t

from fastgw._core.admission cimport Ticket
from fastgw._core.concurrency cimport Concurrency, Gradient
from fastgw._core.exchange cimport CONTINUE
from fastgw._core.probe cimport Probe


cdef int attempts(Concurrency limit, long n) except -1:
    cdef Probe probe = Probe(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    cdef Ticket ticket
    cdef long i
    cdef int64_t now = 0
    for i in range(n):
        ticket = Ticket.__new__(Ticket)
        assert limit.admit(probe.exchange, ticket, now) == CONTINUE
        now += 1_000_000 + i % 4096
        limit.answered(probe.exchange, ticket, now)
        limit.left(probe.exchange, ticket)
    return 0


def fixed(long n):
    attempts(Concurrency(None, most=100), n)


def learnt(long n):
    attempts(Concurrency(None, gradient=Gradient()), n)


CASES = [("an attempt within a number", fixed), ("an attempt within a learnt limit", learnt)]
