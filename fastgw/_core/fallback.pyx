"""What answers in the place of a service that does not: another service, a static reply, or the one and then the other.

Both are given when the first service has failed for good, after its retries, and nothing of an answer has left. The
answer has X-Fallback, so that nobody takes it for the service's own.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset

from fastgw._core.exchange cimport CONTINUE, PHASE_AROUND, REPLIED, Exchange, Hook
from fastgw._core.plan cimport Plan
from fastgw._core.pool cimport Service
from fastgw._core.record cimport W_FALLBACK_REPLY, W_FALLBACK_SERVICE
from fastgw._core.respond cimport Relay
from fastgw._core.retry cimport kept
from fastgw._core.static_reply cimport StaticReply

cdef frozenset TIMEOUTS = frozenset(("upstream_response_timeout", "upstream_connect_timeout", "route_timeout"))
cdef frozenset FAILURES = frozenset((
    "upstream_connect_failed", "upstream_reset", "upstream_protocol_error", "upstream_headers_too_large",
    "upstream_truncated", "upstream_tls_failed", "no_endpoint", "pool_exhausted", "queue_timeout", "service_overloaded",
))


cdef class Fallback(Hook):
    """Keyword arguments: `circuit_open`, `timeout` and `failed`: of what; `statuses` of answers; `service` by name, with
    `total_ns` for its answer and `body` bytes of the request that are kept for it; `reply`."""

    def __init__(self, *, bint circuit_open, bint timeout, bint failed, statuses=(), str service=None, int64_t total_ns=0,
                 int64_t body=0, StaticReply reply=None):
        self.name = "fallback"
        self.phases = PHASE_AROUND
        self.circuit_open = circuit_open
        self.timeout = timeout
        self.failed = failed
        memset(self.statuses, 0, sizeof(self.statuses))
        for status in statuses:
            if not 400 <= status <= 599:
                raise ValueError(f"{status} is not a status of a failure")
            self.statuses[<int>status] = 1
        self.service = service
        self.total_ns = total_ns
        self.body = body
        self.reply = reply

    cdef int around(self, Exchange ex) except -1:
        if self.service is not None and ex.replay_limit < self.body:
            ex.replay_limit = self.body
        return CONTINUE

    cdef bint wanted(self, Exchange ex) except -1:
        cdef int status = ex.response.status
        if ex.local:
            return (self.circuit_open and ex.code == "circuit_open") or (self.timeout and ex.code in TIMEOUTS) \
                or (self.failed and ex.code in FAILURES)
        return 400 <= status <= 599 and self.statuses[status]

    cdef int _count(self, Exchange ex, Relay relay, int word) except -1:
        """For the service that did not answer."""
        if ex.service is not None:
            relay.stats.add_service((<Service>ex.service).slot, word)
        return 0

    cdef int around_done(self, Exchange ex) except -1:
        cdef Relay relay = <Relay>ex.driver
        cdef str used = <str>ex.fallback
        if not self.wanted(ex):
            if used is not None and not ex.local:
                ex.response.add("X-Fallback", used)
            return CONTINUE
        if self.service is not None and used is None and kept(ex) and not ex.upgrading:
            self._count(ex, relay, W_FALLBACK_SERVICE)
            ex.instead = (<Plan>ex.plan).services[self.service]
            ex.fallback = "service " + self.service
            # the time of the first may be over: this is the fallback's own
            ex.total_at = relay.reactor.now + self.total_ns
            relay.reactor.wheel.arm(&ex.total, ex.total_at)
            ex.redispatch = True
            return CONTINUE
        if self.reply is None:
            return CONTINUE
        self._count(ex, relay, W_FALLBACK_REPLY)
        ex.fallback = "reply"
        self.reply.request(ex)
        ex.response.add("X-Fallback", "reply")
        return REPLIED
