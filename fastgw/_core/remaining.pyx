"""The time a service has left, told to it with each attempt: what nobody waits for any more need not be worked on.

A hook that stands last in the chain of the routes that have `timeouts.header`. The number is whole milliseconds until the
gateway gives the attempt up: the least of what is left of the whole request, and of the time to an answer's first byte.
gRPC has a header of its own for that: grpc.pyx.
"""
from libc.stdint cimport int64_t, uint32_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.exchange cimport CONTINUE, PHASE_REQUEST, PHASE_SEND, REPLIED, Exchange, Hook
from fastgw._core.headers cimport Head, Header
from fastgw._core.policy cimport apply_problem
from fastgw._core.pool cimport Service
from fastgw._core.reactor cimport Reactor

from fastgw._core.exchange import Problem

cdef int64_t MILLISECOND = 1_000_000


cdef int64_t parse_milliseconds(const char *p, uint32_t n) noexcept:
    """1 to 9 digits, and not zero, in nanoseconds; -1 for anything else."""
    cdef int64_t value = 0
    cdef uint32_t i
    if n < 1 or n > 9:
        return -1
    for i in range(n):
        if not c"0" <= p[i] <= c"9":
            return -1
        value = value * 10 + (p[i] - c"0")
    return value * MILLISECOND if value else -1


cdef int put_number(char *o, int64_t value) noexcept:
    """A number above zero in decimal; bytes written."""
    cdef char digits[20]
    cdef int n = 0, i
    while value:
        digits[n] = c"0" + value % 10
        value //= 10
        n += 1
    for i in range(n):
        o[i] = digits[n - 1 - i]
    return n


cdef class RemainingTime(Hook):
    """`RemainingTime(reactor, b"X-Request-Timeout", honour, services)`"""

    def __init__(self, Reactor reactor, bytes header, bint honour=False, services=None):
        self.name = "remaining_time"
        self.reactor = reactor
        self.header = header
        self.lower = header.lower()
        self.honour = honour
        self.services = None if services is None else frozenset(services)
        self.phases = PHASE_SEND | (PHASE_REQUEST if honour else 0)

    cdef int request(self, Exchange ex) except -1:
        """How long the client will wait is how long the gateway works for it, if that is less than its own time."""
        cdef Head head = ex.request
        cdef const char *name = PyBytes_AS_STRING(self.lower)
        cdef size_t n = PyBytes_GET_SIZE(self.lower)
        cdef Header *h = head.find(name, n)
        cdef int64_t asked
        if h == NULL:
            return CONTINUE
        asked = parse_milliseconds(head.buf + h.value, h.value_len)
        if asked < 0 or head.count_of(name, n) != 1:
            apply_problem(ex, Problem(400, "bad_request", f"{self.header.decode()} is not a number of milliseconds."))
            return REPLIED
        if ex.total_at == 0 or ex.t_start + asked < ex.total_at:
            ex.total_at = ex.t_start + asked
            self.reactor.wheel.arm(&ex.total, ex.total_at)
        return CONTINUE

    cdef int send(self, Exchange ex) except -1:
        cdef char text[20]
        cdef int64_t left = ex.response_ns
        if self.services is not None and (<Service>ex.service).name not in self.services:
            return 0
        ex.request.remove_name(PyBytes_AS_STRING(self.lower), PyBytes_GET_SIZE(self.lower))
        if ex.upgrading:
            return 0                              # a WebSocket has no end that is known
        if ex.total_at and ex.total_at - self.reactor.now < left:
            left = ex.total_at - self.reactor.now
        ex.request.append(PyBytes_AS_STRING(self.header), PyBytes_GET_SIZE(self.header), text,
                          put_number(text, max(left // MILLISECOND, 1)))
        return 0
