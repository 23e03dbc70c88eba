"""Stage `pool`: services, their endpoints and the connections kept to them. One set per worker.

An endpoint belongs to the engine, not to a plan: its connections survive reloads. The connection used last is
used first (LIFO), so that the rest can go idle and close. Waiters are served in order by whichever connection
comes first, one that is released or one that has just been opened; nobody waits for "his" connection.
"""
from collections import deque

from libc.stdint cimport int64_t
from libc.string cimport memset

from fastgw._core.clock cimport Timer, monotonic_ns, timer_detach
from fastgw._core.reactor cimport ChannelMaker, Reactor
from fastgw._core.exchange cimport CONTINUE, REPLIED, WAIT, Exchange, UpstreamStream

cdef enum:
    BEGINS = 16              # picks for an attempt: other workers may take what was left to an endpoint


cdef class PooledStream(UpstreamStream):
    cdef bint usable(self) noexcept:
        return True

    cdef int bind(self, Exchange ex) except -1:
        return 0

    cdef int drop(self) except -1:
        return 0


cdef class Opener:
    cdef PooledStream open(self, Endpoint endpoint):
        raise NotImplementedError

    cdef Endpoint endpoint(self, Reactor reactor, str name, str url, bytes host, tuple addresses, Limits limits,
                           ChannelMaker maker):
        return Endpoint(reactor, self, name, url, host, addresses, limits, maker)


cdef class Limits:
    """The pool settings of a service: counts per endpoint and worker, durations in nanoseconds."""

    def __init__(self, int max_connections=1024, int max_idle=256, int queue_size=1024,
                 int64_t queue_ns=1_000_000_000, int64_t idle_ns=60_000_000_000,
                 int64_t connect_ns=5_000_000_000, bint response_trailers=False, int proxy_protocol=0):
        self.max_connections = max_connections
        self.max_idle = max_idle
        self.queue_size = queue_size
        self.queue_ns = queue_ns
        self.idle_ns = idle_ns
        self.connect_ns = connect_ns
        self.response_trailers = response_trailers
        self.proxy_protocol = proxy_protocol


cdef class Endpoint(Timed):
    def __init__(self, Reactor reactor, Opener opener, str name, str url, bytes host, tuple addresses,
                 Limits limits, ChannelMaker maker=None):
        self.maker = maker
        self.reactor = reactor
        self.opener = opener
        self.name = name
        self.url = url
        self.host = host
        self.addresses = addresses
        self.limits = limits
        self.idle = []
        self.waiting = deque()
        self.opening = set()
        self.zone = ""
        self.labels = {}
        self.per_connection = 1
        self.since = monotonic_ns()
        self.health = self.breaker = -1
        memset(&self.timer, 0, sizeof(Timer))
        self.timer.owner = <void*>self

    def __dealloc__(self):
        timer_detach(&self.timer)

    def set_addresses(self, tuple addresses):
        """From name resolution; connections to old addresses go on until they are idle."""
        self.addresses = addresses

    def retire(self):
        """No plan names it any more: idle connections close, the others when they are released."""
        cdef PooledStream stream
        self.retired = True
        while self.idle:
            stream = self.idle.pop()
            self.connections -= 1
            stream.drop()

    def revive(self):
        self.retired = False

    @property
    def idle_count(self):
        return len(self.idle)

    @property
    def waiting_count(self):
        return len(self.waiting)

    cdef int checkout(self, Exchange ex, bint fresh) except -1:
        """CONTINUE: ex.up is bound. WAIT: driver.connected or pool_failed follows. REPLIED: no room."""
        cdef PooledStream stream
        if not fresh:
            while self.idle:
                stream = <PooledStream>self.idle.pop()
                if stream.usable():
                    self.busy += 1
                    self.reuses += 1
                    stream.reused = True
                    ex.endpoint = self
                    stream.bind(ex)
                    return CONTINUE
                self.connections -= 1
                stream.drop()
        if not self.addresses:
            return REPLIED
        if self.connections >= self.limits.max_connections:
            if len(self.waiting) - self.connecting * self.per_connection >= self.limits.queue_size:
                return REPLIED
        elif self.per_connection == 1 or len(self.waiting) >= self.connecting * self.per_connection:
            self._open()
        ex.endpoint = self
        self.waiting.append(ex)
        self._arm()
        return WAIT

    cdef int _open(self) except -1:
        self.connections += 1
        self.connecting += 1
        self.connects += 1
        self.opening.add(self.opener.open(self))
        return 0

    cdef int _arm(self) except -1:
        """Waiters beyond the connections under way are in the queue proper, and have a limit there."""
        cdef Exchange ex
        cdef int covered = self.connecting * self.per_connection
        if len(self.waiting) > covered:
            ex = self.waiting[covered]
            self.reactor.wheel.arm(&self.timer, ex.t_pool + self.limits.queue_ns)
        else:
            self.reactor.wheel.cancel(&self.timer)
        return 0

    cdef int on_timer(self, Timer *timer) except -1:
        cdef Exchange ex
        cdef int64_t now = self.reactor.now
        cdef int covered = self.connecting * self.per_connection
        cdef list late = []
        while len(self.waiting) > covered:
            ex = self.waiting[covered]
            if ex.t_pool + self.limits.queue_ns > now:
                break
            del self.waiting[covered]
            late.append(ex)
        self._arm()
        for ex in late:
            ex.driver.pool_failed(ex, "queue_timeout")
        return 0

    cdef int forget(self, Exchange ex) except -1:
        try:
            self.waiting.remove(ex)
        except ValueError:
            return 0
        return self._arm()

    cdef int _serve(self, PooledStream stream) except -1:
        cdef Exchange ex = self.waiting.popleft()
        self.busy += 1
        self._arm()
        stream.bind(ex)
        return ex.driver.connected(ex, stream)

    cdef int opened(self, PooledStream stream) except -1:
        self.connecting -= 1
        self.opening.discard(stream)
        stream.reused = False
        return self._available(stream)

    cdef int _available(self, PooledStream stream) except -1:
        if self.waiting:
            self.reuses += stream.reused             # 0 for the one it waited for to be opened
            return self._serve(stream)
        if self.retired or len(self.idle) >= self.limits.max_idle:
            self.connections -= 1
            return stream.drop()
        self.idle.append(stream)
        return 0

    cdef int open_failed(self, PooledStream stream, str code) except -1:
        """One attempt failed: the waiter at the head pays for it, the others have attempts of their own."""
        cdef Exchange ex
        self.connecting -= 1
        self.opening.discard(stream)
        self.connections -= 1
        self.connect_errors += 1
        if self.waiting:
            ex = self.waiting.popleft()
            self._arm()
            ex.driver.pool_failed(ex, code)
        return 0

    cdef int release(self, PooledStream stream, bint reusable) except -1:
        self.busy -= 1
        if reusable:
            stream.reused = True
            return self._available(stream)
        self.connections -= 1
        stream.drop()
        if len(self.waiting) > self.connecting and self.connections < self.limits.max_connections:
            self._open()
            self._arm()
        return 0

    cdef int lost_idle(self, PooledStream stream) except -1:
        """The upstream closed an idle connection, or it was idle for too long."""
        try:
            self.idle.remove(stream)
        except ValueError:
            return 0
        self.connections -= 1
        return 0

    def __repr__(self):
        return (f"<Endpoint {self.name}: {self.busy} busy, {len(self.idle)} idle, {self.connecting} connecting, "
                f"{len(self.waiting)} waiting>")


cdef class Picker:
    cdef Endpoint pick(self, Exchange ex):
        return None


cdef class Balancer(Picker):
    cdef Picker arrange(self, tuple endpoints, list weights):
        return self

    cdef Endpoint spare(self, list tried):
        return None

    cdef int begun(self, Exchange ex, Endpoint endpoint) except -1:
        return CONTINUE

    cdef object refusal(self):
        return None

    cdef int answered(self, Exchange ex) except -1:
        return 0

    cdef int failed(self, Exchange ex, str code) except -1:
        return 0

    cdef int left(self, Exchange ex) except -1:
        return 0


cdef class Service:
    """A named set of endpoints as one plan sees it. `weights` are whole numbers, one per endpoint."""

    def __init__(self, str name, tuple endpoints, weights=None, int slot=0, bytes host_header=None,
                 int64_t response_ns=30_000_000_000, int64_t idle_ns=60_000_000_000, Balancer balancer=None,
                 retry=None, tuple admissions=()):
        if balancer is None:
            from fastgw._core.balance import LoadBalancer    # it is made of what stands here

            balancer = LoadBalancer()
        self.name = name
        self.slot = slot
        self.host_header = host_header
        self.response_ns = response_ns
        self.idle_ns = idle_ns
        self.balancer = balancer
        self.retry = retry
        self.admissions = admissions or None
        self.set_endpoints(endpoints, weights)

    def set_endpoints(self, tuple endpoints, weights=None):
        """Other ones from the next pick on, as discovery tells them; those that stay keep their turn. What has been
        picked goes on: whoever calls this retires what is gone (`Engine.settle`)."""
        self.endpoints = endpoints
        self.picker = self.balancer.arrange(endpoints, list(weights or [1] * len(endpoints)))

    cdef Endpoint pick(self, Exchange ex):
        """The endpoint of the next attempt; None when there is none to ask."""
        if ex.attempts:
            return self._another(ex)
        return self.picker.pick(ex)

    cdef Endpoint begin(self, Exchange ex):
        """The same, and its balancer hears of the attempt where it wants to."""
        cdef Endpoint endpoint
        cdef int i
        for i in range(BEGINS):
            endpoint = self.pick(ex)
            if endpoint is None or not self.balancer.watched or self.balancer.begun(ex, endpoint) == CONTINUE:
                return endpoint
        return None

    cdef Endpoint _another(self, Exchange ex):
        """For a further attempt: one that was not tried yet, as long as there is one."""
        cdef Endpoint found
        cdef int i
        if ex.endpoint is not None:
            if ex.tried is None:
                ex.tried = []
            if ex.endpoint not in ex.tried:
                ex.tried.append(ex.endpoint)
        for i in range(3):
            found = self.picker.pick(ex)
            if found is not None and (ex.tried is None or found not in ex.tried):
                return found
        found = self.balancer.spare(ex.tried)
        if found is None:
            ex.tried = None              # all were: begin anew
            found = self.picker.pick(ex)
        return found

    def __repr__(self):
        return f"<Service {self.name}: {[endpoint.name for endpoint in self.endpoints]}>"
