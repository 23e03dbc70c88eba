"""How many requests of a service or a route may be under way at once, and what becomes of those beyond.

An Admission: each attempt is let through, waits in a queue, or is refused. The queue (fair_queue.pyx) has a bound in number
and in time; whoever leaves, leaves it. Those that may go on, and those that have to go, do so after the piece of work in
which that was found, not within. As long as nobody waits nobody is asked who he is.

A hedge never waits: it would be a second place for the same request. Retries and copies of requests (mirror) wait behind
everybody else.

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
from fastgw._core.fair_queue cimport LEVELS, FairQueue
from fastgw._core.forwarding cimport random64
from fastgw._core.hedge cimport BINS, Race, bin_of, end_of
from fastgw._core.plan cimport Plan
from fastgw._core.priorities cimport Priorities, Tenants
from fastgw._core.reactor cimport Handler, Reactor

from fastgw._core.exchange import Problem

logger = logging.getLogger("fastgw.concurrency")

cdef enum:
    ENTERED = 1              # Ticket.mark: it counts
    SAMPLED = 2              # it counts, and its time was looked at
    WAITING = 3              # Ticket.place is its place in the queue
    REFUSED = 16             # + Shed; Ticket.place is its class
    AT_ONCE = 64             # so many are refused before others have their turn

REASON_NAMES = ("full", "timeout", "displaced", "delay")
WAIT_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LAST_CLASSES = ("retry", "mirror")

cdef int64_t[13] BOUNDS = [int(bound * 1e9) for bound in WAIT_BOUNDS]
cdef tuple CODE_OF = ("service_overloaded", "service_queue_timeout", "service_queue_shed", "service_queue_delay")

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
    """`most` at once, or what `gradient` learns; `room` may wait, each for `patience` ns.

    `classes`: names of the classes, the most important one first. `shares`: by name of a class (or of LAST_CLASSES) the share
    of the limit that it may have. `tenants`: whose requests get fair shares. `target` and `interval` in ns, 0 for no
    CoDel. `retry_after` in seconds.
    """

    def __init__(self, Reactor reactor, *, int most=0, Gradient gradient=None, int room=0, int64_t patience=1_000_000_000,
                 tuple classes=("default",), shares=(), Tenants tenants=None, int64_t target=0, int64_t interval=0,
                 int retry_after=1):
        cdef int i
        if most < 1 and gradient is None:
            raise ValueError("a limit is 1 at least")
        self.reactor = reactor
        self.most = most
        self.gradient = gradient
        self.room = room
        self.patience = patience
        self.classes = classes + LAST_CLASSES
        if len(self.classes) > LEVELS:
            raise ValueError("too many classes")
        self.tenants = tenants
        self.retry_after = str(retry_after)
        given = dict(shares)
        for i in range(len(self.classes)):
            self.shares[i] = given.get(self.classes[i], 1.0)
            self.shared = self.shared or self.shares[i] < 1
        self.queue = FairQueue(len(self.classes), room, target, interval) if room else None
        self.dropped = deque()

    @property
    def limit(self):
        return self.limit_now()

    @property
    def queued(self):
        return 0 if self.queue is None else self.queue.count

    def view(self, int most):
        """By class who waits, who was refused and how long they waited; and the `most` tenants of whom most wait.

        `waited` are counts up to each of WAIT_BOUNDS seconds, and beyond; not cumulative."""
        cdef int i, k
        waiting = [0] * len(self.classes) if self.queue is None else self.queue.waiting()
        found = []
        for i in range(len(self.classes)):
            found.append({
                "name": self.classes[i], "waiting": waiting[i],
                "sheds": {REASON_NAMES[k]: self.sheds[i * REASONS + k] for k in range(REASONS)},
                "waited": [self.waits[i * WAITS + k] for k in range(WAITS)], "waited_seconds": self.waited_ns[i] / 1e9,
            })
        rows = [] if self.queue is None or self.tenants is None else self.queue.longest(most)
        tenants = [
            {"class": self.classes[level], "name": name.decode("utf-8", "replace"), "waiting": waiting_, "in_flight": running}
            for level, name, waiting_, running in rows
        ]
        return found, tenants

    cdef int limit_now(self) noexcept:
        return self.most if self.gradient is None else <int>self.gradient.limit

    cdef int bound(self, int level) noexcept:
        """How many may be under way for one of that class to come in."""
        cdef int limit = self.limit_now()
        return max(1, <int>(limit * self.shares[level])) if self.shared else limit

    # ------------------------------------------------------------------ an attempt

    cdef int level_of(self, Exchange ex) except -1:
        """Of the classes in self.classes."""
        cdef int last = len(self.classes) - 1
        cdef Plan plan = <Plan>ex.plan
        if ex.attempts and not ex.fresh and ex.instead is None:
            return last - 1                               # neither a connection that was dead, nor a fallback
        if ex.detached and ex.route is not None and ex.route.name.startswith("mirror:"):
            return last
        if plan is None or plan.priorities is None or last < 3:
            return 0
        return min((<Priorities>plan.priorities).level_of(ex), last - 2)

    cdef int _enter(self, Ticket ticket, int64_t now) except -1:
        self.in_flight += 1
        ticket.at = now
        ticket.mark = ENTERED
        return 0

    cdef int admit(self, Exchange ex, Ticket ticket, int64_t now) except -1:
        if not self.shared:
            if (self.queue is None or self.queue.count == 0) and self.in_flight < self.limit_now():
                self._enter(ticket, now)
                return CONTINUE
            if self.queue is None and not self.dropped:
                return self._refuse(ticket, self.level_of(ex), FULL)
        return self._ask(ex, ticket, now)

    cdef int _ask(self, Exchange ex, Ticket ticket, int64_t now) except -1:
        """Some wait, or there is no place, or not for everybody."""
        cdef FairQueue queue = self.queue
        cdef int level = self.level_of(ex), weight = 1, waiter
        cdef uint64_t key = 0
        cdef bytes name = None
        if self.in_flight < self.bound(level) and (queue is None or queue.first_level() > level):
            self._enter(ticket, now)
            return CONTINUE
        if queue is None or type(ex.driver) is Race:
            return self._refuse(ticket, level, FULL)
        if self.tenants is not None:
            name = self.tenants.name_of(ex)
            key = <uint64_t><int64_t>hash(name)           # SipHash, with a key of this process
            weight = self.tenants.weight_of(ex)
            name = b"#%08x" % (key & 0xffffffffu) if self.tenants.secret else name[:100]
        if queue.count >= self.room:
            waiter = queue.victim(key, level, weight)
            if waiter < 0:
                return self._refuse(ticket, level, FULL)
            self._shed(waiter, DISPLACED)
        ticket.at = now
        ticket.place = queue.push(key, name, level, weight, now, (ex, ticket))
        ticket.mark = WAITING
        if queue.count == 1:
            self._arm()
        return WAIT

    cdef int _refuse(self, Ticket ticket, int level, int why) except -1:
        ticket.mark = REFUSED + why
        ticket.place = level
        return REPLIED

    cdef object refusal(self, Exchange ex, Ticket ticket):
        cdef int why = ticket.mark - REFUSED
        self.refused += 1
        self.sheds[ticket.place * REASONS + why] += 1
        members = {"priority": self.classes[ticket.place]} if len(self.classes) > 3 else None
        return Problem(503, CODE_OF[why], None, {"Retry-After": self.retry_after}, side=2, members=members)

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
        if ticket.mark == WAITING:
            self.queue.remove(ticket.place)
            return self._arm()
        if ticket.mark != ENTERED and ticket.mark != SAMPLED:
            return 0                                      # one of `dropped`, who are looked at again; or never let in
        self.in_flight -= 1
        if ticket.charged:
            self.queue.over(ticket.place, ticket.charged, max(self.reactor.now - ticket.at, 0))
        return self._free()

    # ------------------------------------------------------------------ those who wait

    cdef int _wake(self) except -1:
        cdef Wake wake
        if not self.waking:
            self.waking = True
            wake = Wake()
            wake.home = self
            self.reactor.later(wake)
        return 0

    cdef int _free(self) except -1:
        if self.queue is not None and self.queue.count and self.in_flight < self.limit_now():
            return self._wake()
        return 0

    cdef int _arm(self) except -1:
        """For the first of those who wait. Without one nothing holds a limit that its plan has let go."""
        cdef int oldest = self.queue.oldest()
        if oldest >= 0:
            if self.late is None:
                self.late = Late()
                self.late.home = self
            self.reactor.wheel.arm(&self.late.timer, self.queue.waiters[oldest].at + self.patience)
        elif self.late is not None:
            self.reactor.wheel.unlink(&self.late.timer)
            self.late = None
        return 0

    cdef int _waited(self, int level, int64_t took) except -1:
        cdef int i = 0
        while i < WAITS - 1 and took > BOUNDS[i]:
            i += 1
        self.waits[level * WAITS + i] += 1
        self.waited_ns[level] += took
        return 0

    cdef int _shed(self, int waiter, int why) except -1:
        """It is told later: its answer may bring the next request of its connection here."""
        cdef FairQueue queue = self.queue
        cdef int level = queue.flows[queue.waiters[waiter].flow].level
        cdef Ticket ticket
        self._waited(level, self.reactor.now - queue.waiters[waiter].at)
        what = queue.remove(waiter)
        ticket = <Ticket>what[1]
        ticket.mark = REFUSED + why
        ticket.place = level
        self.dropped.append(what)
        return self._wake()

    cdef int _refuse_dropped(self) except -1:
        cdef int i
        for i in range(AT_ONCE):
            if not self.dropped:
                return 0
            ex, ticket = self.dropped.popleft()
            if waiting(<Exchange>ex, <Ticket>ticket):
                self._go(<Exchange>ex, REPLIED)
        return self._wake()

    cdef int _next(self) except -2:
        """The waiter that may go on now, or -1."""
        cdef FairQueue queue = self.queue
        cdef bint shed = False
        cdef int level, waiter
        while queue.count:
            level = queue.first_level()
            while level < queue.levels and (queue.level[level].waiting == 0 or self.in_flight >= self.bound(level)):
                level += 1
            if level == queue.levels:
                break
            waiter = queue.next(level, self.reactor.now, &shed)
            if not shed:
                return waiter
            self._shed(waiter, DELAYED)
        return -1

    cdef int run_waiting(self) except -1:
        cdef FairQueue queue = self.queue
        cdef Ticket ticket
        cdef int waiter, flow
        cdef int64_t charged
        self.waking = False
        while True:
            waiter = self._next()
            if waiter < 0:
                break
            flow = queue.go(waiter)
            level = queue.flows[flow].level
            ex, ticket = queue.remove(waiter)
            charged = queue.charge(flow)
            ticket.mark = 0
            if not waiting(<Exchange>ex, ticket):
                queue.over(flow, charged, charged)
                continue
            self._waited(level, self.reactor.now - ticket.at)
            self._enter(ticket, self.reactor.now)
            ticket.place = flow
            ticket.charged = charged
            self._go(<Exchange>ex, CONTINUE)
        self._refuse_dropped()
        return self._arm()

    cdef int run_late(self) except -1:
        cdef FairQueue queue = self.queue
        cdef int oldest = queue.oldest()
        while oldest >= 0 and queue.waiters[oldest].at + self.patience <= self.reactor.now:
            self._shed(oldest, TOO_LATE)
            oldest = queue.oldest()
        self._refuse_dropped()
        return self._arm()

    def _go(self, Exchange ex, int verdict):
        try:
            ex.driver.resume(ex, verdict)
        except Exception as error:
            # one that fails must not keep the others waiting
            logger.error("resuming %s failed", ex, exc_info=error)
            ex.driver.fail(ex, "internal_error", None)

    def __repr__(self):
        return f"<Concurrency {self.in_flight} of {self.limit_now()}, {self.queued} waiting>"
