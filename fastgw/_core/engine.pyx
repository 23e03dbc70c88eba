"""The data plane of one worker: a reactor, a relay, listeners and endpoints.

An Engine works in any asyncio loop that has `add_reader`; uvloop is not required. It is not thread-safe: every
method is called in the loop's thread.
"""
import logging
import socket as _socket
from weakref import WeakSet

from fastgw._core.accept cimport Connection, Listener
from fastgw._core.clock cimport Timer
from fastgw._core.h1 cimport H1Codec
from fastgw._core.plan cimport Plan
from fastgw._core.pool cimport Endpoint, Limits, Opener
from fastgw._core.reactor cimport Handler, Reactor
from fastgw._core.record cimport Stats
from fastgw._core.respond cimport Relay
from fastgw._core.trial cimport Trial
from fastgw._core.upstream cimport H1Opener

logger = logging.getLogger("fastgw.engine")


def _report(error):
    logger.error("a connection handler failed; its connection was closed", exc_info=error)


cdef class Engine:
    """`Engine(loop, stats)`; then `adopt(plan)` and `listen(socket)`."""

    def __init__(self, loop, Stats stats):
        self.loop = loop
        self.stats = stats
        self.reactor = Reactor(loop, _report)
        self.relay = Relay(self.reactor, stats)
        self.opener = H1Opener(self.reactor)
        self.h1 = H1Codec()
        self.listeners = {}
        self.clients = set()
        self.preludes = set()
        self.per_address = {}
        self.endpoints = {}
        self.kept = {}
        self.plans = WeakSet()
        self.ports = {}
        if hasattr(loop, "drive_with"):
            loop.drive_with(self.reactor)
        else:
            self.reactor.start()

    # ------------------------------------------------------------------ plans

    @property
    def plan(self):
        return self.relay.plan

    def adopt(self, Plan plan):
        """Exchanges that begin from now on use this plan; those under way keep theirs."""
        cdef Endpoint endpoint
        used = set()
        self.end_trial()
        self.plans.add(plan)
        for service in plan.services.values():
            for endpoint in service.endpoints:
                used.add(endpoint)
        self.relay.plan = plan
        self.relay.services = plan.services
        self._settle(used, None)

    def begin_trial(self, Trial trial):
        """From now on the plan in force gives a share of its exchanges to another one."""
        if trial.old is not self.relay.plan or trial.old.trial is not None:
            raise RuntimeError("a trial is of the plan in force, and there is one at a time")
        self.plans.add(trial.new)
        trial.sink = self.relay.access_log
        self.relay.access_log = trial
        trial.old.trial = trial

    def end_trial(self):
        """The plan in force serves alone again. What began on the other one ends there; adopt either of them to
        let endpoints go that are not used any more."""
        cdef Trial trial
        if self.relay.plan is not None and self.relay.plan.trial is not None:
            trial = self.relay.plan.trial
            self.relay.plan.trial = None
            self.relay.access_log = trial.sink

    def settle(self, str service, used):
        """The endpoints of a service that are in use from now on, after discovery told others: the rest retires."""
        self._settle(used, service)

    def _settle(self, used, service):
        cdef Endpoint endpoint
        for key, endpoint in list(self.endpoints.items()):
            if service is not None and key[0] != service:
                continue
            if endpoint in used:
                endpoint.revive()
            else:
                endpoint.retire()
                if endpoint.connections == 0:
                    del self.endpoints[key]

    def endpoint(self, str service, str name, str url, bytes host, tuple addresses, Limits limits, identity=None,
                 make=None, Opener opener=None):
        """The endpoint of a service by its url: the same object over plans, with its connections.

        `addresses` is a tuple of (address family, raw sockaddr bytes); see `sockaddr()`. `make()` gives the
        ChannelMaker of a new one, `opener` makes its connections (None: HTTP/1.1); endpoints of another `identity`
        have connections of their own.
        """
        cdef Endpoint found = self.endpoints.get((service, url, identity))
        cdef Opener maker
        if found is None:
            maker = self.opener if opener is None else opener
            found = maker.endpoint(
                self.reactor, name, url, host, addresses, limits, None if make is None else make())
            self.endpoints[service, url, identity] = found
        else:
            found.limits = limits
            if addresses:
                found.set_addresses(addresses)
        return found

    def known_endpoints(self):
        """All endpoints, also those that a plan brought which is not adopted yet."""
        return list(self.endpoints.values())

    def set_addresses(self, str url, tuple addresses):
        """New addresses from name resolution for every endpoint of that url."""
        cdef Endpoint endpoint
        for key, endpoint in self.endpoints.items():
            if key[1] == url:
                endpoint.set_addresses(addresses)

    # ------------------------------------------------------------------ listeners

    def listen(self, sock, name=None):
        """Accepts on a bound, listening, non-blocking socket from now on; an id for `unlisten`."""
        cdef Listener listener
        if self.relay.plan is None:
            raise RuntimeError("adopt a plan before listening")
        unix = sock.family == _socket.AF_UNIX
        sock.setblocking(False)
        if not unix:
            # accepted sockets inherit it: no system call per connection
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        listener = Listener(self.reactor, self.relay, self.h1, name or str(sock.getsockname()), unix,
                            self.clients, self.preludes, self.per_address)
        if not unix:
            self.ports[listener.name] = sock.getsockname()[1]
        listener.start(sock.fileno())
        self.next_listener += 1
        self.listeners[self.next_listener] = (listener, sock)
        return self.next_listener

    def unlisten(self, int lid):
        """Takes what waits in the accept queue and stops accepting there; established connections go on.

        The socket stays open: it is the caller's.
        """
        cdef Listener listener
        listener, sock = self.listeners.pop(lid)
        if listener.fd >= 0 and not self.closed:
            self.reactor.outside()
            listener.on_event(0)
        listener.stop()
        return sock

    # ------------------------------------------------------------------ life

    def retire(self, double spread=0.0):
        """As `drain`, but an idle HTTP/1.1 connection stays until its next request, which is told `Connection: close`:
        for when another gateway serves at the same address. `drain` follows."""
        self._leave(True, spread)

    def drain(self, double spread=0.0):
        """Stops accepting, closes idle connections, answers the others with `Connection: close`.

        WebSockets are closed too, spread over so many seconds: their clients do not come back all at once.
        """
        self._leave(False, spread)

    cdef int _leave(self, bint patient, double spread) except -1:
        cdef Connection connection
        self.reactor.outside()
        self.relay.draining = True
        self.relay.patient = patient
        for lid in list(self.listeners):
            self.unlisten(lid)
        if not patient:
            self._cut_preludes()
        for connection in list(self.clients):
            connection.drain()
        self.relay.leave_sockets(spread)
        return 0

    def _cut_preludes(self):
        """Sockets that are no connections yet become ones where all they wait for is there, or are closed."""
        cdef Handler prelude
        for prelude in list(self.preludes):
            prelude.on_event(0)
            prelude.crash()

    def close(self):
        """Closes everything at once."""
        cdef Connection connection
        cdef Endpoint endpoint
        if self.closed:
            return
        self.closed = True
        for lid in list(self.listeners):
            self.unlisten(lid)
        self._cut_preludes()
        for connection in list(self.clients):
            connection.on_broken()
        for endpoint in self.endpoints.values():
            endpoint.retire()
        self.reactor.close()

    @property
    def connections(self):
        return len(self.clients)

    @property
    def arriving(self):
        """Sockets that are no connections yet: their prelude is not here."""
        return len(self.preludes)

    @property
    def active(self):
        return self.relay.active

    def set_access_log(self, sink):
        """`sink(exchange)` after each exchange, in the loop's thread; None for none."""
        if self.relay.plan is not None and self.relay.plan.trial is not None:
            self.relay.plan.trial.sink = sink
        else:
            self.relay.access_log = sink

    def snapshot(self):
        """Gauges: connections, active exchanges, and each endpoint's pool."""
        cdef Endpoint endpoint
        pools = []
        for (service, url, _), endpoint in self.endpoints.items():
            pools.append({
                "service": service, "endpoint": endpoint.name, "url": url,
                "addresses": len(endpoint.addresses), "connections": endpoint.connections,
                "busy": endpoint.busy, "idle": endpoint.idle_count, "connecting": endpoint.connecting,
                "waiting": endpoint.waiting_count, "connects": endpoint.connects,
                "connect_errors": endpoint.connect_errors, "reuses": endpoint.reuses, "retired": endpoint.retired,
            })
        return {"connections": len(self.clients), "active": self.relay.active,
                "generation": self.relay.plan.generation if self.relay.plan is not None else 0, "pools": pools,
                "plans": len(self.plans)}
