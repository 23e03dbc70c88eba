"""How many requests of a service or a route may be under way at once, and what becomes of those beyond.

An Admission: each attempt is let through, waits in a queue, or is refused. The queue is first in, first out, with a bound
in number and in time; whoever leaves, leaves it. Those that may go on do so after the piece of work in which another one
ended, not within.

The limit is a number, or is learnt (Gradient): the time that answers take now, compared with the time that they take when
the service has next to nothing to do. As long as both are nearly the same the limit grows by its square root, so that it is
tried out how much more goes; when answers take longer, something queues at the service, and the limit shrinks in
proportion. It is the gradient controller of Envoy's adaptive concurrency filter. What an answer takes without load is
measured anew from time to time, with the least limit for a number of requests; at times that are jittered, so that not all
workers and gateways do it together.
"""
import logging
from collections import deque

from libc.math cimport sqrt
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from fastgw._core.admission cimport Admission, Ticket
from fastgw._core.clock cimport Timed, Timer, timer_detach
from fastgw._core.exchange cimport CONTINUE, REPLIED, S_POOL, WAIT, Exchange
from fastgw._core.forwarding cimport random64
from fastgw._core.hedge cimport BINS, bin_of, end_of
from fastgw._core.reactor cimport Handler, Reactor

from fastgw._core.exchange import Problem

logger = logging.getLogger("fastgw.concurrency")

cdef enum:
    ENTERED = 1              # Ticket.mark: it counts
    FULL = 2                 # there was no room, nor in the queue
    TOO_LATE = 3             # it waited for too long
    SAMPLED = 4              # it counts, and its time was looked at

cdef frozenset OVERDUE = frozenset(("upstream_response_timeout", "upstream_connect_timeout", "route_timeout"))


cdef class Gradient:
    """`least` and `most` of the limit; `window` and `interval` in ns; `percentile` and `buffer` as shares: how much longer
    than `ideal` an answer may take without meaning anything. `probes` answers tell what is ideal, every `interval` plus up
    to `jitter` of it. `now` is when it begins."""

    def __init__(self, *, double least=3, double most=1000, int64_t window=100_000_000, double percentile=0.5,
                 double buffer=0.25, int64_t interval=60_000_000_000, int probes=50, double jitter=0.15):
        if not 1 <= least <= most:
            raise ValueError("the least limit is 1, and not more than the most")
        self.least = least
        self.most = most
        self.window = window
        self.share = percentile
        self.buffer = buffer
        self.interval = interval
        self.probes = probes
        self.jitter = jitter
        self.before = least
        self._probe(0)

    cdef int _probe(self, int64_t now) except -1:
        self.probing = True
        self.limit = self.least
        self.total = 0
        memset(self.bins, 0, sizeof(self.bins))
        return 0

    cdef int64_t _percentile(self) noexcept:
        cdef uint32_t seen = 0, wanted = <uint32_t>(self.total * self.share)
        cdef int i
        for i in range(BINS):
            seen += self.bins[i]
            if seen > wanted:
                break
        return end_of(i)

    cdef int observe(self, int64_t took, int64_t now, int in_flight) except -1:
        """An answer's head took so long, with so many under way. 1: the limit may have changed."""
        cdef double gradient, next
        self.bins[bin_of(took)] += 1
        self.total += 1
        if self.probing:
            if self.total < self.probes:
                return 0
            self.ideal = self._percentile()
            self.probing = False
            self.limit = self.before
            self.probe_at = now + self.interval + <int64_t>(
                self.interval * self.jitter * (random64() >> 11) / <double>(1 << 53))
        elif now >= self.probe_at:
            self.before = self.limit
            return self._probe(now) or 1
        elif now < self.window_at:
            return 0
        else:
            self.sampled = self._percentile()
            gradient = self.ideal * (1 + self.buffer) / self.sampled
            gradient = 0.5 if gradient < 0.5 else 2.0 if gradient > 2.0 else gradient
            next = self.limit * gradient + sqrt(self.limit)
            if next < self.limit or in_flight * 2 >= self.limit:      # what is not made use of need not grow
                self.limit = self.least if next < self.least else self.most if next > self.most else next
        self.window_at = now + self.window
        self.total = 0
        memset(self.bins, 0, sizeof(self.bins))
        return 1

    def add(self, int64_t took, int64_t now, int in_flight):
        """For tests and benchmarks."""
        return self.observe(took, now, in_flight)


cdef inline bint waiting(Exchange ex, Ticket ticket) noexcept:
    """Not where its time ran out and a policy is busy with the answer to that."""
    return ex.state == S_POOL and ex.ticket is ticket and ticket.waiting


cdef class Wake(Handler):
    """Lets those go on that waited, outside of the call that made room."""
    cdef int on_ready(self) except -1:
        return self.home.run_waiting()


cdef class Late(Timed):
    def __cinit__(self):
        memset(&self.timer, 0, sizeof(Timer))
        self.timer.owner = <void*>self

    def __dealloc__(self):
        timer_detach(&self.timer)

    cdef int on_timer(self, Timer *timer) except -1:
        cdef Late alive = self
        return alive.home.run_late()


cdef class Concurrency(Admission):
    """`most` at once, or what `gradient` learns; `room` may wait, each for `patience` ns."""

    def __init__(self, Reactor reactor, *, int most=0, Gradient gradient=None, int room=0, int64_t patience=1_000_000_000):
        if most < 1 and gradient is None:
            raise ValueError("a limit is 1 at least")
        self.reactor = reactor
        self.most = most
        self.gradient = gradient
        self.room = room
        self.patience = patience
        self.queue = deque()

    @property
    def limit(self):
        return self.limit_now()

    @property
    def queued(self):
        return len(self.queue)

    cdef int limit_now(self) noexcept:
        return self.most if self.gradient is None else <int>self.gradient.limit

    # ------------------------------------------------------------------ an attempt

    cdef int _enter(self, Ticket ticket, int64_t now) except -1:
        self.in_flight += 1
        ticket.at = now
        ticket.mark = ENTERED
        return 0

    cdef int admit(self, Exchange ex, Ticket ticket, int64_t now) except -1:
        if not self.queue and self.in_flight < self.limit_now():
            self._enter(ticket, now)
            return CONTINUE
        if len(self.queue) < self.room:
            ticket.at = now
            self.queue.append((ex, ticket))
            if len(self.queue) == 1:
                self._arm()
            return WAIT
        ticket.mark = FULL
        return REPLIED

    cdef object refusal(self, Exchange ex, Ticket ticket):
        cdef str why = "It waited for too long." if ticket.mark == TOO_LATE else None
        self.refused += 1
        return Problem(503, "service_overloaded", why, {"Retry-After": "1"}, side=2)

    cdef int answered(self, Exchange ex, Ticket ticket, int64_t now) except -1:
        if self.gradient is not None and ticket.mark == ENTERED:
            ticket.mark = SAMPLED
            if self.gradient.observe(max(now - ticket.at, 1), now, self.in_flight):
                return self._free()
        return 0

    cdef int failed(self, Exchange ex, Ticket ticket, str code) except -1:
        """Who does not answer in time took that long at least; what fails at once says nothing about load."""
        if code in OVERDUE:
            return self.answered(ex, ticket, self.reactor.now)
        return 0

    cdef int left(self, Exchange ex, Ticket ticket) except -1:
        if ticket.waiting:
            try:
                self.queue.remove((ex, ticket))
            except ValueError:
                return 0
            return self._arm()
        self.in_flight -= 1
        return self._free()

    # ------------------------------------------------------------------ those who wait

    cdef int _free(self) except -1:
        cdef Wake wake
        if self.queue and not self.waking and self.in_flight < self.limit_now():
            self.waking = True
            wake = Wake()
            wake.home = self
            self.reactor.later(wake)
        return 0

    cdef int _arm(self) except -1:
        """For the first of those who wait. Without one nothing holds a limit that its plan has let go."""
        cdef Ticket ticket
        if self.queue:
            if self.late is None:
                self.late = Late()
                self.late.home = self
            ticket = <Ticket>self.queue[0][1]
            self.reactor.wheel.arm(&self.late.timer, ticket.at + self.patience)
        elif self.late is not None:
            self.reactor.wheel.unlink(&self.late.timer)
            self.late = None
        return 0

    cdef int run_waiting(self) except -1:
        self.waking = False
        while self.queue and self.in_flight < self.limit_now():
            ex, ticket = self.queue.popleft()
            if waiting(<Exchange>ex, <Ticket>ticket):
                self._enter(<Ticket>ticket, self.reactor.now)
                self._go(<Exchange>ex, CONTINUE)
        return self._arm()

    cdef int run_late(self) except -1:
        cdef Ticket ticket
        while self.queue:
            ex, ticket = self.queue[0]
            if ticket.at + self.patience > self.reactor.now:
                break
            self.queue.popleft()
            if waiting(<Exchange>ex, ticket):
                ticket.mark = TOO_LATE
                self._go(<Exchange>ex, REPLIED)
        return self._arm()

    def _go(self, Exchange ex, int verdict):
        try:
            ex.driver.resume(ex, verdict)
        except Exception as error:
            # one that fails must not keep the others waiting
            logger.error("resuming %s failed", ex, exc_info=error)
            ex.driver.fail(ex, "internal_error", None)

    def __repr__(self):
        return f"<Concurrency {self.in_flight} of {self.limit_now()}, {len(self.queue)} waiting>"
