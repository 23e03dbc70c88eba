"""What is sent again, when, and how much of it.

Only what cannot be seen by the client is repeated: nothing of an answer has left, the body is here to be sent again, and the
method is idempotent (RFC 9110 9.2.2), unless no connection came about, so that nothing was sent. Waits grow exponentially and
are drawn from the whole range below (full jitter), so that clients that failed together do not come back together. A
budget bounds what repeats add to the load of a service that is down already.
"""
import logging

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from fastgw._core.admission cimport failed, left
from fastgw._core.endure cimport keyed
from fastgw._core.exchange cimport REFUSED, S_POOL, Exchange
from fastgw._core.forwarding cimport random64
from fastgw._core.grpc cimport final_status
from fastgw._core.headers cimport Header
from fastgw._core.reactor cimport Reactor
from fastgw._core.record cimport W_RETRIES, W_RETRIES_BODY, W_RETRIES_BUDGET, Stats

from fastgw._core.headers import METHODS

logger = logging.getLogger("fastgw.retry")

cdef set told = set()             # names of routes; see say_too_large
cdef frozenset CONNECT = frozenset(("upstream_connect_failed", "upstream_connect_timeout", "upstream_tls_failed"))
cdef enum:
    GET = 0
    HEAD = 1
    PUT = 3
    DELETE = 4
    OPTIONS = 6

cdef double CAP = 100.0           # tokens at most: what was saved in quiet times does not make a storm


cdef class Budget:
    """`Budget(ratio, floor)`: repeats per request, and repeats a second that are free."""

    def __init__(self, double ratio=0.2, double floor=3.0):
        self.ratio = ratio
        self.floor = floor
        self.tokens = floor

    cdef void deposit(self, int64_t now) noexcept:
        self.tokens += self.ratio
        if self.tokens > CAP:
            self.tokens = CAP

    cdef bint withdraw(self, int64_t now) noexcept:
        if self.at and now > self.at:
            self.tokens += (now - self.at) * 1e-9 * self.floor
            if self.tokens > CAP:
                self.tokens = CAP
        self.at = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


cdef class Retry:
    """Keyword arguments: `attempts` altogether, `methods` by name, `statuses` and `grpc` as numbers, `connect`, `reset` and
    `timeout` of an attempt, waits and `per_try` in ns (0: the service's), `body` bytes that are kept to be sent again."""

    def __init__(self, Budget budget, *, int attempts=3, methods=("GET", "HEAD", "OPTIONS", "PUT", "DELETE"), statuses=(),
                 grpc=(), bint connect=True, bint reset=True, bint timeout=False, int64_t base_ns=25_000_000,
                 int64_t max_ns=1_000_000_000, int64_t per_try_ns=0, int64_t body=65536, bint trust_key=False):
        self.budget = budget
        self.attempts = attempts
        self.connect = connect
        self.reset = reset
        self.timeout = timeout
        self.trust_key = trust_key
        self.base_ns = base_ns
        self.max_ns = max_ns
        self.per_try_ns = per_try_ns
        self.body = body
        memset(self.statuses, 0, sizeof(self.statuses))
        for status in statuses:
            if not 400 <= status <= 599:
                raise ValueError(f"{status} is not a status of a failure")
            self.statuses[<int>status] = 1
        for method in methods:
            self.methods |= <uint32_t>1 << <int>METHODS.index(method)
        for status in grpc:
            self.grpc |= <uint32_t>1 << <int>status

    cdef int64_t wait(self, Exchange ex, str code, int64_t now) except -2:
        """ns until another try; -1: there is none."""
        cdef int64_t delay
        if ex.attempts >= self.attempts or not (self.wants_answer(ex) if code is None else self.wants_failure(ex, code)):
            return -1
        delay = self.delay(ex, code is None)
        return -1 if ex.total_at and now + delay >= ex.total_at else delay

    cdef bint repeatable(self, Exchange ex) noexcept:
        cdef int method = ex.request.method
        if method >= 0 and self.methods >> method & 1:
            return True
        if ex.grpc and self.grpc:
            return True                           # all calls are POST: whoever lists statuses says that they may be repeated
        return keyed(ex) or (self.trust_key and ex.request.find(b"idempotency-key", 15) != NULL)

    cdef bint wants_failure(self, Exchange ex, str code) except -1:
        if code in CONNECT:
            return self.connect
        if code == "upstream_reset":
            return self.reset and self.repeatable(ex)
        if code == "upstream_response_timeout":
            return self.timeout and self.repeatable(ex)
        return False

    cdef bint wants_answer(self, Exchange ex) noexcept:
        cdef int status = ex.response.status
        if ex.grpc and self.grpc and ex.empty:
            status = final_status(ex)
            return 0 <= status <= 16 and self.grpc >> status & 1
        return 400 <= status <= 599 and self.statuses[status] and self.repeatable(ex)

    cdef int64_t delay(self, Exchange ex, bint answered) noexcept:
        """The service's own Retry-After, when it sent one; else anything up to base x 2^(tries - 1)."""
        cdef int64_t most = self.base_ns << (ex.attempts - 1)
        cdef int64_t asked = 0
        cdef Header *h = ex.response.find(b"retry-after", 11) if answered else NULL
        cdef uint32_t i
        cdef char digit
        if h != NULL and 0 < h.value_len <= 9:
            for i in range(h.value_len):
                digit = ex.response.buf[h.value + i]
                if not c"0" <= digit <= c"9":
                    return -1                     # a date: too far to wait for, and no reason to come earlier
                asked = asked * 10 + (digit - c"0")
            asked *= 1_000_000_000
            return asked if asked <= self.max_ns else -1
        if most > self.max_ns:
            most = self.max_ns
        return <int64_t>(random64() % <unsigned long long>(most + 1))


cdef int begin_try(Exchange ex, int64_t now) except -1:
    cdef Retry retry = <Retry>ex.retry
    if ex.attempts == 0:
        retry.budget.deposit(now)
    if 0 < retry.per_try_ns < ex.response_ns:
        ex.response_ns = retry.per_try_ns
    if ex.replay_limit < retry.body:
        ex.replay_limit = retry.body
    return 0


cdef bint kept(Exchange ex) noexcept:
    return not ex.has_body or ex.request_buffer is not None or ex.bytes_in == 0 or ex.replay is not None


cdef bint silent(Exchange ex, int untouched) noexcept:
    cdef int method = ex.request.method
    if ex.head_sent or ex.attempts >= 2 or (ex.has_body and ex.request_buffer is None and ex.bytes_in):
        return False
    # RFC 9110 9.2.2: only idempotent methods may be sent again without the client knowing, unless the service
    # said that it did nothing (RFC 9113 8.7), or a client marked it as the same as before
    return untouched == REFUSED or method in (GET, HEAD, OPTIONS, PUT, DELETE) or keyed(ex)


cdef int rewind(Exchange ex) except -1:
    if ex.up is not None:
        ex.up.cancel(ex)
    if ex.has_body and ex.request_buffer is None and not ex.request_done:
        ex.down.hold_body(ex)                 # what comes while there is no upstream would be lost
    return 0


cdef int say_too_large(Exchange ex, Retry retry) except -1:
    """Once for each route: whoever configured retries is told that there are requests they are not for."""
    cdef str route = ex.route.name
    if route in told or len(told) >= 1000:
        return 0
    told.add(route)
    logger.warning("%s: a request was not sent again, its body is larger than the %d bytes of `retry.body` "
                   "(said once; fastgw_retries_denied_total{reason=\"body\"} counts)", route, retry.body)
    return 0


cdef bint repeat(Exchange ex, str code, Reactor reactor, Stats stats) except -1:
    """Another attempt, in a while, where `retry` wants that. `code`: how this one failed; None: by its answer."""
    cdef Retry retry = <Retry>ex.retry
    cdef bint allowed
    cdef int64_t wait = -1 if retry is None or ex.head_sent else retry.wait(ex, code, reactor.now)
    if wait < 0:
        return False
    if not kept(ex):
        stats.add_service(ex.service.slot, W_RETRIES_BODY)
        say_too_large(ex, retry)
        return False
    allowed = retry.budget.withdraw(reactor.now)
    stats.add_service(ex.service.slot, W_RETRIES if allowed else W_RETRIES_BUDGET)
    if not allowed:
        return False
    if ex.watched and code is not None:
        failed(ex, code)
    rewind(ex)
    if ex.watched:
        left(ex)
    ex.state = S_POOL
    ex.empty = False
    ex.connect_at = ex.hedge_at = 0           # what is sent again is not sent twice at a time
    ex.retry_at = reactor.now + wait
    reactor.wheel.arm(&ex.total, ex.retry_at)
    return True
