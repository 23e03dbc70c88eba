"""PlanSpec → the native Plan of one worker, in slices.

`build` is a generator: it yields whenever it has worked for some tens of microseconds, so that a worker can
take in ten thousand routes between requests. Nothing changes for requests until the plan is adopted.
"""

from __future__ import annotations

import html
import logging
import pickle
import socket
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from fastgw._core.accept import Codec
from fastgw._core.balance import Cookie, Load, LoadBalancer, StickyCookie
from fastgw._core.bans import BanTable
from fastgw._core.breaker import CircuitTable
from fastgw._core.cache_store import Storage
from fastgw._core.engine import Engine
from fastgw._core.exchange import Exchange, Problem, Reply, Route
from fastgw._core.h1 import H1Codec, RedirectCodec
from fastgw._core.health import HealthTable, Outliers
from fastgw._core.holds import HoldTable
from fastgw._core.key_auth import KeyTable
from fastgw._core.limit_counts import LimitCounts
from fastgw._core.plan import Plan
from fastgw._core.policy import PythonHook
from fastgw._core.pool import Endpoint, Limits, Opener, Service
from fastgw._core.prelude import ProxyGate
from fastgw._core.priorities import Priorities
from fastgw._core.retry import Budget
from fastgw._core.settings import Settings
from fastgw._core.template import Compiled
from fastgw.plan.protection import arrivals_by, socket_rules
from fastgw.plan.resilience import BreakerSpec, KeptLimits, breaker_by, concurrency_by, hedge_by, remaining_by, retry_by
from fastgw.plan.routing import load_router, make_rewrite, make_split
from fastgw.plan.spec import CHUNK, EndpointSpec, PlanSpec, PolicySpecUse, RouteSpec, ServiceSpec, endpoint_of
from fastgw.plan.tcp import TcpSpec
from fastgw.plan.tls import UpstreamTlsSpec
from fastgw.policies.base import BuildContext, Policy, Shared
from fastgw.upstreams.discovery.base import EndpointSet

logger = logging.getLogger("fastgw.plan")

SLICE = 0.00003
"""Seconds of work at a time: what a request may have to wait for it."""
CIRCUITS = 1024
"""Of a worker that shares its circuit breakers with nobody."""
MANY = 20_000
"""Routes. Of more, more are taken at a time, so that a build comes to its end in seconds."""

PublicAnswer = Callable[[str, Exchange], Reply | Problem | Awaitable[Reply | Problem | None] | None]


@dataclass(slots=True)
class Host:
    """What a worker gives to every plan it builds.

    shared        things policies keep over plans
    bucket_table  token buckets shared by all workers of the host; None for a private table
    bans          addresses that are kept out, by all workers of the host; likewise
    cache         answers that all workers of the host share; likewise
    holds         requests under way by key, and
    limit_counts  what became of requests at limits, likewise
    public        answers `server.public_endpoints`: called with the kind (health, ready, metrics)
    strict        raise when a policy cannot be built, instead of making its route refuse
    discovered    service → its endpoints as discovery told them last; see `discover`
    live          service → the native services of that name that plans hold, and what they were made from
    health        the state of endpoints, shared by all workers of the host; None: nobody is ever down
    circuits      that of circuit breakers, likewise; None: this worker has its own
    loads         service → what the balancers of its plans share
    keys          API keys that are managed while the gateway runs
    limits        limits of requests under way, which plans share too
    """

    shared: Shared = field(default_factory=Shared)
    bucket_table: Any = None
    bans: BanTable | None = None
    cache: Storage | None = None
    holds: HoldTable | None = None
    limit_counts: LimitCounts | None = None
    public: PublicAnswer | None = None
    health: HealthTable | None = None
    circuits: CircuitTable | None = None
    strict: bool = False
    discovered: dict[str, EndpointSet] = field(default_factory=dict)
    live: dict[str, WeakKeyDictionary[Service, ServiceSpec]] = field(default_factory=dict)
    loads: WeakValueDictionary[str, Load] = field(default_factory=WeakValueDictionary)
    keys: KeyTable = field(default_factory=KeyTable)
    limits: KeptLimits = field(default_factory=WeakValueDictionary)


def endpoints_of(
    engine: Engine, given: ServiceSpec, found: EndpointSet | None
) -> tuple[tuple[Endpoint, ...], list[int]]:
    """The native endpoints of a service and their weights: as discovery `found` them, or as the file has them."""
    specs = given.endpoints if found is None else [endpoint_of(*one) for one in found.endpoints]
    limits = Limits(**given.limits)
    endpoints = tuple(native_endpoint(engine, given, spec, limits) for spec in specs)
    return endpoints, [spec.weight for spec in specs]


def native_endpoint(engine: Engine, service: ServiceSpec, given: EndpointSpec, limits: Limits) -> Endpoint:
    """Connections are shared with the plan before where the way they are made is the same."""
    common = (service.name, given.name, given.url, given.host, given.addresses, limits)
    tls = service.tls if given.url.startswith("https://") else None
    opener = http2_opener(engine, service, tls is not None)
    identity = None if opener is None else (service.protocol, *service.http2.values())
    if limits.proxy_protocol and not given.url.startswith("tcp://"):
        from fastgw._core.private import PrivateOpener

        opener, identity = PrivateOpener(engine.reactor), ("proxy_protocol", limits.proxy_protocol)
    if tls is None:
        endpoint = engine.endpoint(*common, identity=identity, opener=opener)
    else:
        make = partial(upstream_maker, tls, tls.server_name or host_of(given.host))
        endpoint = engine.endpoint(*common, identity=(tls.identity, identity), make=make, opener=opener)
    endpoint.zone, endpoint.labels, endpoint.priority = given.zone, given.labels, given.priority
    if not service.balance.health:
        endpoint.down = endpoint.open = False        # nobody will say that it is up again
    return endpoint


def http2_opener(engine: Engine, service: ServiceSpec, secure: bool) -> Opener | None:
    """None for endpoints that HTTP/1.1 is spoken to."""
    if service.protocol == "http/1.1" or (service.protocol == "auto" and not secure):
        return None
    from fastgw._core.h2_upstream import H2Opener

    negotiate = service.protocol == "auto"
    return H2Opener(engine.opener, negotiate=negotiate, demand=secure and not negotiate, **service.http2)


def discover(engine: Engine, host: Host, changed: Mapping[str, EndpointSet | None]) -> None:
    """Brings endpoints that were found to all plans that live, and to those to come. What vanished drains; what stays
    keeps its connections. None for a service that is not discovered any more: what it has, it keeps."""
    for name, found in changed.items():
        if found is None:
            host.discovered.pop(name, None)
            continue
        host.discovered[name] = found
        used: set[Endpoint] = set()
        for service, given in list(host.live.get(name, {}).items()):
            endpoints, weights = endpoints_of(engine, given, found)
            service.set_endpoints(endpoints, weights)
            used.update(endpoints)
        engine.settle(name, used)


class Refusal(Policy):
    """Stands in the place of a policy that could not be built: its routes refuse, they never open."""

    name = "refusal"

    def __init__(self, failed: str) -> None:
        self.failed = failed

    def request(self, exchange: Exchange) -> Problem:
        return Problem(503, "policy_unavailable", f"The policy {self.failed} of this route cannot be built.", side=2)


class PublicEndpoint(Policy):
    """`server.public_endpoints`: an answer of the admin listener on the public ones."""

    name = "public_endpoint"

    def __init__(self, kind: str, answer: PublicAnswer) -> None:
        self.kind = kind
        self.answer = answer

    def request(self, exchange: Exchange) -> Any:
        return self.answer(self.kind, exchange)


class ErrorPage:
    """An own body for an error; `{status}`, `{code}` and `{request_id}` in it are filled in."""

    __slots__ = ("body", "content_type", "is_html")

    def __init__(self, content_type: str, body: str) -> None:
        self.content_type = content_type
        self.body = body
        self.is_html = "html" in content_type

    def render(self, problem: Problem, exchange: Exchange) -> bytes:
        request_id = html.escape(exchange.id) if self.is_html else exchange.id
        text = self.body.replace("{status}", str(problem.status)).replace("{code}", problem.code)
        return text.replace("{request_id}", request_id).encode()


def host_of(authority: bytes) -> bytes:
    """Without a port, and without the brackets of an IPv6 address."""
    host = authority[1:].partition(b"]")[0] if authority.startswith(b"[") else authority.partition(b":")[0]
    return host


def upstream_maker(spec: UpstreamTlsSpec, server_name: bytes) -> Any:
    from fastgw._core.tls_client import ClientContext, UpstreamTls

    return UpstreamTls(ClientContext(spec), server_name)


class Builder:
    """One build: holds what has been made so far."""

    def __init__(self, spec: PlanSpec, engine: Engine, host: Host) -> None:
        self.spec = spec
        self.engine = engine
        self.host = host
        self.services: dict[str, Service] = {}
        self.sticky: set[str] = set()
        self.shared_chain: list[Any] = []
        self.outermost: set[Any] = set()
        self.inspecting: dict[Any, Policy] = {}
        self.hearing: set[Any] = set()
        self.routes: list[Route] = []
        self.http2 = {service.name for service in spec.services if service.protocol != "http/1.1"}
        self.grpc: Any = None
        self.of_plan = Shared()
        self.hedges = {service.name: service.hedge for service in spec.services if service.hedge is not None}
        self.budgets = {name: Budget(**hedge["budget"]) for name, hedge in self.hedges.items()}

    def context(self, use: PolicySpecUse) -> BuildContext:
        extra: dict[str, Any] = {}
        if self.host.bucket_table is not None:
            extra["bucket_table"] = self.host.bucket_table
        if self.host.bans is not None:
            extra["bans"] = self.host.bans
        if self.host.holds is not None:
            extra["holds"] = self.host.holds
        if self.host.limit_counts is not None:
            extra["limit_counts"] = self.host.limit_counts
        return BuildContext(
            consumers=self.spec.consumers,
            plans=self.spec.plans,
            keys=self.host.keys,
            shared=self.host.shared,
            of_plan=self.of_plan,
            route_name=use.route,
            config_dir=self.spec.config_dir,
            policy_key=use.key,
            stores=self.spec.stores,
            cache=self.host.cache,
            levels=self.spec.cache,
            **extra,
        )

    def hook(self, use: PolicySpecUse) -> Any:
        """The hook of one policy. What cannot be built refuses."""
        try:
            policy = use.handler(use.options, self.context(use))
            native = policy.hook()
        except Exception as error:
            if self.host.strict:
                raise
            # the message may quote an option, and an option may be a secret
            logger.error("the policy %s (%s) cannot be built: %s", use.name, use.place, type(error).__name__)
            policy, native = Refusal(use.name), None
        made = native if native is not None else PythonHook(policy, Policy)
        if getattr(policy, "strays", False):
            self.hearing.add(made)
        if getattr(policy, "inspects", ()):
            self.inspecting[made] = policy
        if getattr(use.handler, "outermost", False):
            self.outermost.add(made)
        return made

    def balancer(self, given: ServiceSpec) -> LoadBalancer:
        """What it knows of requests under way, and its tables, are the worker's: they outlive a plan."""
        balance = given.balance
        breaker = given.breaker if given.breaker is not None and given.breaker.scope == "endpoint" else None
        return LoadBalancer(
            **balance.options,
            key=Compiled(balance.key) if balance.key is not None else None,
            cookie=Cookie(*balance.cookie) if balance.cookie is not None else None,
            seed=socket.gethostname().encode(),
            load=self.host.loads.setdefault(given.name, Load()),
            service=given.name,
            health=self.host.health if balance.health else None,
            outliers=Outliers(**balance.outliers) if balance.outliers is not None else None,
            breaker=self.breaker(breaker, given.name) if breaker is not None else None,
        )

    def service(self, given: ServiceSpec) -> Service:
        found = self.host.discovered.get(given.name) if given.discovered else None
        endpoints, weights = endpoints_of(self.engine, given, found)
        service = Service(
            given.name,
            endpoints,
            weights=weights,
            slot=given.slot,
            host_header=given.host_header,
            response_ns=given.response_ns,
            idle_ns=given.idle_ns,
            balancer=self.balancer(given),
            retry=retry_by(given.retry),
            admissions=self.admissions(given),
        )
        if given.balance.cookie is not None:
            self.sticky.add(given.name)
        if given.discovered:
            self.host.live.setdefault(given.name, WeakKeyDictionary())[service] = given
        return service

    def breaker(self, given: BreakerSpec, service: str, name: str = "") -> Any:
        """Its state is shared by all workers of the host."""
        if self.host.circuits is None:
            self.host.circuits = CircuitTable(bytearray(CircuitTable.size(CIRCUITS)))
        return breaker_by(self.host.circuits, given, service, name)

    def admissions(self, given: ServiceSpec) -> tuple[Any, ...]:
        """Who is asked before each attempt at a service; the breaker is first: what it refuses takes no place."""
        limits = concurrency_by(self.engine, self.host.limits, "service", given.name, given.concurrency)
        if given.breaker is None or given.breaker.scope == "endpoint":
            return limits
        return (self.breaker(given.breaker, given.name), *limits)

    def route_admissions(self, given: RouteSpec) -> tuple[Any, ...]:
        """The same for each attempt of a route."""
        limits = concurrency_by(self.engine, self.host.limits, "route", given.name, given.concurrency)
        if given.breaker is None:
            return limits
        return (self.breaker(BreakerSpec("route", given.breaker), "", given.name), *limits)

    def grpc_hook(self) -> Any:
        """One for all routes: it keeps nothing of an exchange."""
        if self.grpc is None:
            from fastgw._core.grpc import GrpcHook

            self.grpc = GrpcHook(self.engine.reactor, self.engine.stats)
        return self.grpc

    def codecs(self) -> dict[str, Any]:
        """By listener: what its connections speak, where that is not plain HTTP."""
        found: dict[str, Any] = {}
        for name, options in self.spec.http2.items():
            from fastgw._core.h2 import H2Codec

            found[name] = H1Codec(H2Codec(**options))
        for name, given in self.spec.tcp.items():
            found[name] = self.tunnels(name, given)
        for name, spec in self.spec.tls.items():
            from fastgw._core.tls_server import Handshakes, TlsCodec

            gate = self.engine.kept.setdefault(("handshakes", name), Handshakes())
            if name in self.spec.tcp:
                found[name] = TlsCodec(spec, found[name], None, gate)
            else:
                found[name] = TlsCodec(spec, self.engine.h1, found[name].h2 if name in found else None, gate)
        for name, redirect in self.spec.redirects.items():
            found[name] = RedirectCodec(redirect.port, redirect.listener, self.engine.ports)
        return found

    def tunnels(self, name: str, given: TcpSpec) -> Codec:
        """A listener of `protocol: tcp`. How many connections it has is counted over plans."""
        from fastgw._core.tunnel import TunnelCodec, Tunnels

        count = self.engine.kept.setdefault(("tunnels", name), Tunnels())
        names = None if given.names is None else {name: self.services[wanted] for name, wanted in given.names.items()}
        service = None if given.service is None else self.services[given.service]
        return TunnelCodec(service, count, names=names, **given.options)

    def gates(self) -> dict[str, Any]:
        """By listener: what looks at a socket before it is a connection."""
        return {name: ProxyGate(**options) for name, options in self.spec.proxy_protocol.items()}

    def route(self, given: RouteSpec) -> Route:
        chain = [self.shared_chain[i] for i in given.chain]
        chain += [self.hook(use) for use in given.own]
        if not self.outermost.isdisjoint(chain):
            chain.sort(key=lambda hook: hook not in self.outermost)
        asked = {given.service, *(name for name, _ in given.split)}
        if not asked.isdisjoint(self.http2):
            chain.append(self.grpc_hook())
        chain += remaining_by(self.engine, given.remaining)
        if not asked.isdisjoint(self.sticky):
            chain.append(StickyCookie())
        split = None
        if given.split:
            split = make_split(
                tuple(self.services[name] for name, _ in given.split),
                tuple(weight for _, weight in given.split),
                given.split_by,
            )
        return Route(
            given.name,
            index=len(self.routes),
            slot=given.slot,
            param_names=given.param_names,
            chain=tuple(chain),
            service=self.service_of(given),
            split=split,
            rewrite=make_rewrite(given.rewrite, given.param_names) if given.rewrite else None,
            host_rewrite=given.host_rewrite,
            total_ns=given.total_ns,
            response_ns=given.response_ns,
            idle_ns=given.idle_ns,
            connect_ns=given.connect_ns,
            body_limit=given.body_limit,
            header_limit=given.header_limit,
            header_count=given.header_count,
            retry=retry_by(given.retry),
            hedge=hedge_by(given.hedge, asked, self.hedges, self.budgets),
            admissions=self.route_admissions(given),
            websocket=socket_rules(given.websocket, [one for hook in chain if (one := self.inspecting.get(hook))]),
        )

    def service_of(self, given: RouteSpec) -> Service | None:
        """Who answers on a route: its service, or a stream of it that many listen to."""
        if given.service is None:
            return None
        service = self.services[given.service]
        if given.broadcast is None:
            return service
        from fastgw._core.broadcast import Feed

        # the same over plans where nothing of it has changed: its sockets and its stream go on
        feeds = self.engine.kept.setdefault("feeds", WeakValueDictionary())
        key = (given.name, given.service, *given.broadcast.items())
        feed = feeds.get(key)
        if feed is None:
            feed = feeds[key] = Feed(self.engine.relay, given.name, **given.broadcast)
        feed.service = service
        return Service(f"{given.service} (broadcast)", (feed,))

    def public_routes(self) -> dict[bytes, Route]:
        """Served before any other route, on every host, by GET and HEAD."""
        answer = self.host.public
        if answer is None:
            return {}
        return {
            path.encode(): Route(f"public:{kind}", chain=(PythonHook(PublicEndpoint(kind, answer), Policy),))
            for path, kind in self.spec.public.items()
        }

    def strays(self) -> Route | None:
        """For policies that stand before every route, and count requests that none takes."""
        chain = tuple(hook for hook in self.shared_chain if hook in self.hearing)
        return Route("", chain=chain) if chain else None

    def finish(self, router: Any) -> Plan:
        arrivals = arrivals_by(self.spec.arrivals, self.host.bucket_table, self.host.bans)
        plan = Plan(
            router,
            self.routes,
            Settings(**self.spec.settings, arrivals=arrivals),
            self.services,
            {key: ErrorPage(*page) for key, page in self.spec.error_pages.items()},
            self.spec.generation,
            self.public_routes(),
            self.codecs(),
            self.gates(),
        )
        if self.spec.priorities is not None:
            plan.priorities = Priorities(**self.spec.priorities)
        plan.strays = self.strays()
        return plan


def build(spec: PlanSpec, engine: Engine, host: Host) -> Generator[None, None, Plan]:
    """Yields after every slice of work; returns the Plan (StopIteration.value)."""
    builder = Builder(spec, engine, host)
    slice_ = SLICE * max(1.0, len(spec.chunks) * CHUNK / MANY)
    until = time.monotonic() + slice_
    for given in spec.services:
        service = builder.services[given.name] = builder.service(given)
        while not service.balancer.fill():
            yield
        if time.monotonic() > until:
            yield
            until = time.monotonic() + slice_
    for use in spec.policies:
        builder.shared_chain.append(builder.hook(use))
        yield
    until = time.monotonic() + slice_
    for chunk in spec.chunks:
        for route in pickle.loads(chunk):
            builder.routes.append(builder.route(route))
            if time.monotonic() > until:
                yield
                until = time.monotonic() + slice_
    router = yield from load_router(spec.router)
    return builder.finish(router)


def build_now(spec: PlanSpec, engine: Engine, host: Host) -> Plan:
    """The same without pauses: at start, and in one process."""
    steps = build(spec, engine, host)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            plan: Plan = stop.value
            return plan
