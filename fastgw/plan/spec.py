"""The cold half of a plan: plain data, compiled once per host, that each worker builds its own objects from.

It is made of small pickles, so that a worker can take it in without stalling its loop: one head, and the routes in
chunks. Nothing in it is a socket or a native object.
"""

from __future__ import annotations

import importlib.util
import math
import pickle
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastgw.config import Config
from fastgw.config.schema.address import Origin
from fastgw.config.schema.cache import Cache
from fastgw.config.schema.retry import GRPC_STATUSES
from fastgw.config.schema.routes import PolicyUse, Route
from fastgw.config.schema.services import Service
from fastgw.config.schema.stores import Stores
from fastgw.config.schema.websocket import WebSocket
from fastgw.plan.addresses import Address, known
from fastgw.plan.resilience import (
    BreakerSpec,
    Told,
    breaker_of,
    concurrency_of,
    hedge_of,
    ns,
    priorities_of,
    remaining_of,
    retry_of,
    service_breaker_of,
)  # fmt: skip
from fastgw.plan.routing import compile_router
from fastgw.plan.tcp import TcpSpec, compile_tcp
from fastgw.plan.tls import (
    RedirectSpec,
    Tickets,
    TlsSpec,
    UpstreamTlsSpec,
    compile_listeners,
    compile_redirects,
    compile_upstream,
    rotated,
)
from fastgw.policies._parts import parts_of

CHUNK = 16
NO_LIMIT = 2**31 - 1

Slots = Callable[[str], int]


@dataclass(slots=True)
class EndpointSpec:
    url: str
    name: str
    host: bytes
    weight: int
    addresses: tuple[Address, ...]
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0


@dataclass(slots=True)
class BalanceSpec:
    """Keyword arguments of _core.balance.LoadBalancer, and what it takes compiled: the parts of the key's template;
    name, attributes and constant `Secure` of the cookie; whether the state of endpoints is watched; the arguments of
    _core.health.Outliers."""

    options: dict[str, Any] = field(default_factory=dict)
    key: tuple[bytes | tuple[str, bytes], ...] | None = None
    cookie: tuple[bytes, bytes, bool] | None = None
    health: bool = False
    outliers: dict[str, Any] | None = None


@dataclass(slots=True)
class ServiceSpec:
    name: str
    slot: int
    endpoints: tuple[EndpointSpec, ...]
    host_header: bytes | None
    response_ns: int
    idle_ns: int
    limits: dict[str, int]
    tls: UpstreamTlsSpec | None = None
    discovered: bool = False
    protocol: str = "http/1.1"
    http2: dict[str, int] = field(default_factory=dict)
    balance: BalanceSpec = field(default_factory=BalanceSpec)
    retry: dict[str, Any] | None = None
    hedge: dict[str, Any] | None = None
    concurrency: dict[str, Any] | None = None
    breaker: BreakerSpec | None = None


@dataclass(slots=True)
class PolicySpecUse:
    """One policy instance: its class by the resolver's handler, its checked options, its identity over reloads."""

    key: str
    name: str
    handler: Any
    options: Any
    route: str | None
    place: str


@dataclass(slots=True)
class RouteSpec:
    """One route. `chain` are the shared policies (indexes into PlanSpec.policies), then `own`."""

    name: str
    slot: int
    param_names: tuple[str, ...]
    service: str | None
    split: tuple[tuple[str, int], ...]
    split_by: str | None
    rewrite: tuple[Any, ...] | None
    host_rewrite: bytes | None
    total_ns: int
    response_ns: int
    idle_ns: int
    connect_ns: int
    body_limit: int
    header_limit: int
    header_count: int
    chain: tuple[int, ...]
    own: tuple[PolicySpecUse, ...]
    retry: dict[str, Any] | None = None
    websocket: dict[str, Any] | None = None
    broadcast: dict[str, Any] | None = None
    remaining: Told = ()
    hedge: dict[str, Any] | None = None
    concurrency: dict[str, Any] | None = None
    breaker: dict[str, Any] | None = None


@dataclass(slots=True)
class PlanSpec:
    generation: int
    settings: dict[str, Any]
    services: tuple[ServiceSpec, ...]
    policies: tuple[PolicySpecUse, ...]
    router: bytes | memoryview
    chunks: Sequence[bytes | memoryview] = field(default_factory=list)
    routes: int = 0
    error_pages: dict[str, tuple[str, str]] = field(default_factory=dict)
    public: dict[str, str] = field(default_factory=dict)
    consumers: tuple[Any, ...] = ()
    plans: dict[str, Any] = field(default_factory=dict)
    config_dir: str = "."
    tls: dict[str, TlsSpec] = field(default_factory=dict)
    redirects: dict[str, RedirectSpec] = field(default_factory=dict)
    http2: dict[str, dict[str, int]] = field(default_factory=dict)
    proxy_protocol: dict[str, dict[str, Any]] = field(default_factory=dict)
    tcp: dict[str, TcpSpec] = field(default_factory=dict)
    stores: Stores = field(default_factory=Stores)
    cache: Cache | None = None
    priorities: dict[str, Any] | None = None
    arrivals: dict[str, int] = field(default_factory=dict)
    accepting: tuple[int, float] = (4096, 0.0)


def arrivals_of(config: Config) -> dict[str, int]:
    """The keyword arguments of _core.arrivals.Arrivals; empty for none."""
    rate, ban = config.server.limits.connection_rate, config.server.limits.connection_ban
    found: dict[str, int] = {}
    if rate is not None:
        found |= {"every_ns": max(1, ns(rate.per) // rate.rate), "burst": rate.burst or rate.rate}
    if ban is not None:
        found |= {"failures": ban.failures, "window_ns": ns(ban.per), "length_ns": ns(ban.length)}
    return found


def settings_of(config: Config) -> dict[str, Any]:
    """The keyword arguments of _core.settings.Settings."""
    server = config.server
    limits, timeouts = server.limits, server.timeouts
    return {
        "max_head": limits.header_size,
        "max_headers": limits.header_count,
        "max_target": limits.target_size,
        "pipelined": limits.pipelined,
        "max_connections": limits.connections,
        "max_per_address": limits.connections_per_address or 0,
        "body_limit": limits.body_size,
        "requests_per_connection": limits.requests_per_connection,
        "header_ns": ns(timeouts.header),
        "body_ns": ns(timeouts.body),
        "idle_ns": ns(timeouts.idle),
        "path_mode": server.path_normalization,
        "merge_slashes": server.merge_slashes,
        "x_forwarded": server.forwarded.x_forwarded,
        "forwarded": server.forwarded.forwarded,
        "via": b"fastgw" if server.forwarded.via else None,
        "trace": config.observability.tracing.enabled,
        "sample_rate": config.observability.tracing.sample_rate,
        "client_certs": any(tls.client_auth != "none" for one in server.listeners if (tls := one.own_tls) is not None),
        "server_header": server.server_header.encode() if server.server_header else None,
        "trusted_proxies": tuple(str(network) for network in server.trusted_proxies),
    }


def endpoint_of(
    origin: Origin, weight: int, zone: str = "", labels: Iterable[tuple[str, str]] = (), priority: int = 0
) -> EndpointSpec:
    url = str(origin)
    authority = url.partition("://")[2] or "localhost"
    host = authority.removesuffix(":443" if origin.scheme == "https" else ":80")
    name = url if origin.unix else authority
    return EndpointSpec(url, name, host.encode(), weight, known(origin), zone, dict(labels), priority)


def balance_of(config: Config, service: Service) -> BalanceSpec:
    given = service.balance
    options: dict[str, Any] = {
        "kind": given.type,
        "bounded": given.bounded_load or 0.0,
        "ring": given.algorithm == "ring",
        "decay_ns": ns(given.decay),
        "slow_start_ns": ns(given.slow_start),
        "min_healthy": given.min_healthy,
        "panic": given.panic == "any",
        "zone": config.server.zone,
        "labels": given.labels,
        "subset": given.subset,
    }
    parts = None
    if given.type == "consistent_hash":
        parts = parts_of(given.hash_on)
    cookie = None
    if given.sticky is not None:
        sticky = given.sticky
        attributes = f"; Path={sticky.path}; HttpOnly; SameSite={sticky.same_site.capitalize()}"
        if sticky.max_age is not None:
            attributes += f"; Max-Age={int(sticky.max_age)}"
        always = sticky.secure or sticky.same_site == "none"
        cookie = (sticky.cookie.encode(), attributes.encode(), always)
    outliers = None
    if service.outliers is not None:
        watch = service.outliers
        outliers = {
            "errors": watch.consecutive_errors,
            "failures": watch.consecutive_failures,
            "rates": watch.rates,
            "base_ns": ns(watch.ejection_time),
            "longest_ns": ns(watch.max_ejection_time),
            "share": watch.max_ejected,
            "grpc": tuple(GRPC_STATUSES.index(name) for name in watch.grpc_errors),
        }
    breaker = service.circuit_breaker is not None and service.circuit_breaker.scope == "endpoint"
    health = service.health_check is not None or outliers is not None or breaker
    return BalanceSpec(options, parts, cookie, health, outliers)


def http2_of(config: Config) -> dict[str, dict[str, int]]:
    """Listener's address → the keyword arguments of _core.h2.H2Codec, where HTTP/2 is spoken."""
    if importlib.util.find_spec("fastgw._core.h2") is None:
        return {}
    return {
        str(listener.bind): {
            "max_streams": listener.http2.max_concurrent_streams,
            "window": listener.http2.initial_window_size,
            "header_list": config.server.limits.header_size,
            "resets": listener.http2.resets,
            "spare_frames": listener.http2.spare_frames,
        }
        for listener in config.server.listeners
        if listener.http2.enabled and listener.protocol == "http"
    }


def proxy_protocol_of(config: Config) -> dict[str, dict[str, Any]]:
    """Listener's address → the keyword arguments of _core.prelude.ProxyGate."""
    return {
        str(listener.bind): {
            "trusted": tuple(str(network) for network in given.trusted_proxies),
            "required": given.required,
            "timeout_ns": ns(given.timeout),
        }
        for listener in config.server.listeners
        if (given := listener.proxy_protocol) is not None
    }


def upstream_http2_of(service: Service) -> dict[str, int]:
    """The keyword arguments of _core.h2_upstream.H2Opener, but for those that depend on the endpoint."""
    http2 = service.http2
    return {
        "max_streams": http2.max_concurrent_streams,
        "window": http2.initial_window_size,
        "ping_ns": ns(http2.ping_interval) if http2.ping_interval else 0,
        "pong_ns": ns(http2.ping_timeout),
    }


def service_of(config: Config, name: str, service: Service, slot: int) -> ServiceSpec:
    pool = service.pool
    limits = {
        "max_connections": pool.max_connections,
        "max_idle": pool.max_idle,
        "queue_size": pool.queue_size,
        "queue_ns": ns(pool.queue_timeout),
        "idle_ns": ns(pool.idle_timeout),
        "connect_ns": ns(service.timeouts.connect),
        "response_trailers": service.response_trailers,
        "proxy_protocol": {None: 0, "v1": 1, "v2": 2}[service.proxy_protocol],
    }
    return ServiceSpec(
        name,
        slot,
        tuple(
            endpoint_of(one.url, one.weight, one.zone, one.labels.items(), one.priority) for one in service.endpoints
        ),
        service.host.encode() if service.host else None,
        ns(service.timeouts.response),
        ns(service.timeouts.idle),
        limits,
        compile_upstream(service, config.tls.services.get(name)),
        service.discovery is not None,
        service.protocol,
        upstream_http2_of(service),
        balance_of(config, service),
        retry_of(service.retry),
        hedge_of(service.hedge),
        concurrency_of(config, service.concurrency),
        service_breaker_of(service),
    )


def use_of(use: PolicyUse, route: str | None, number: int) -> PolicySpecUse:
    key = f"{route or '*'}/{use.name}/{number}"
    return PolicySpecUse(key, use.name, use.spec.handler, use.options, route, f"{use.line}:{use.col}")


def uses_of(uses: Iterable[PolicyUse], route: str | None) -> tuple[PolicySpecUse, ...]:
    """Numbered among those of the same name, so that adding another policy moves no state."""
    counts: dict[str, int] = {}
    found = []
    for use in uses:
        number = counts[use.name] = counts.get(use.name, 0) + 1
        found.append(use_of(use, route, number))
    return tuple(found)


def rewrite_of(route: Route) -> tuple[Any, ...] | None:
    """What routing.make_rewrite takes, or None when the path goes on as it is."""
    if route.strip_prefix is None and route.add_prefix is None and route.rewrite is None:
        return None
    return (route.strip_prefix, route.add_prefix, route.rewrite)


def websockets_of(route: Route) -> dict[str, Any] | None:
    """The keyword arguments of _core.ws.Rules, or None where there are no WebSockets."""
    given = route.websocket
    if given is None and route.websocket_broadcast is not None:
        given = WebSocket()
    if given is None or not given.enabled:
        return None
    rules: dict[str, Any] = {
        "strict": route.websocket_broadcast is not None,
        "idle_ns": ns(given.idle_timeout),
        "max_age_ns": ns(given.max_age),
        "max_frame": given.max_frame or 0,
        "max_message": given.max_message or 0,
        "recheck": given.recheck,
    }
    if (messages := given.messages) is not None:
        rules["every_ns"] = math.ceil(round(messages.per * 1e9, 3) / messages.rate)
        rules["burst"] = messages.burst or messages.rate
        rules["limited"] = messages.direction
    if (ping := given.ping) is not None:
        rules.update(ping_ns=ns(ping.interval), pong_ns=ns(ping.timeout), pinged=ping.to)
    return rules


def broadcast_of(route: Route) -> dict[str, Any] | None:
    """The keyword arguments of _core.broadcast.Feed, or None where there is none."""
    given = route.websocket_broadcast
    if given is None:
        return None
    return {
        "source": given.source,
        "path": given.path.encode(),
        "queue": given.queue,
        "queue_size": given.queue_size,
        "slow": given.slow,
        "max_message": given.max_message,
        "retry_ns": ns(given.retry),
        "retry_max_ns": ns(given.max_retry),
    }


def route_of(config: Config, route: Route, slot: int) -> RouteSpec:
    timeouts = route.timeouts
    limits = route.limits
    total = timeouts.total if timeouts and timeouts.total is not None else config.server.timeouts.total
    name = str(route.name)
    return RouteSpec(
        name=name,
        slot=slot,
        param_names=route.pattern.captures if route.pattern else (),
        service=route.service,
        split=tuple((share.service, share.weight) for share in route.split),
        split_by=route.split_by,
        rewrite=rewrite_of(route),
        host_rewrite=route.rewrite_host.encode() if route.rewrite_host else None,
        total_ns=ns(total),
        response_ns=ns(timeouts.response) if timeouts else 0,
        idle_ns=ns(timeouts.idle) if timeouts else 0,
        connect_ns=ns(timeouts.connect) if timeouts else 0,
        body_limit=limits.body_size if limits and limits.body_size is not None else -1,
        header_limit=(limits and limits.header_size) or NO_LIMIT,
        header_count=(limits and limits.header_count) or NO_LIMIT,
        chain=tuple(i for i, use in enumerate(config.policies) if use.name not in route.without),
        own=uses_of(route.policies, name),
        websocket=websockets_of(route),
        broadcast=broadcast_of(route),
        retry=retry_of(route.retry),
        breaker=breaker_of(route.circuit_breaker),
        remaining=remaining_of(config, route),
        hedge=hedge_of(route.hedge),
        concurrency=concurrency_of(config, route.concurrency),
    )


def compile_spec(
    config: Config,
    *,
    generation: int = 1,
    route_slot: Slots = lambda name: 0,
    service_slot: Slots = lambda name: 0,
    tls_before: Mapping[str, TlsSpec | Tickets] | None = None,
) -> PlanSpec:
    """`route_slot` and `service_slot` give the metric slot of a name, the same one over plans; 0 is "other".

    `tls_before` is the `tls` of the spec that runs: its ticket keys go on.
    """
    spec = PlanSpec(
        generation=generation,
        settings=settings_of(config),
        arrivals=arrivals_of(config),
        accepting=(config.server.limits.backlog, config.server.limits.defer_accept or 0.0),
        services=tuple(
            service_of(config, name, service, service_slot(name)) for name, service in config.services.items()
        ),
        policies=uses_of(config.policies, None),
        router=compile_router(config),
        routes=len(config.routes),
        error_pages={key: (page.content_type, page.body) for key, page in config.server.error_pages.items()},
        public={entry.path: entry.endpoint for entry in config.server.public_endpoints},
        consumers=config.consumers,
        plans=config.plans,
        tls=compile_listeners(config, tls_before or {}),
        redirects=compile_redirects(config),
        http2=http2_of(config),
        proxy_protocol=proxy_protocol_of(config),
        tcp=compile_tcp(config),
        stores=config.stores,
        cache=config.cache,
        priorities=priorities_of(config),
    )
    chunk: list[RouteSpec] = []
    chunks: list[bytes] = []
    for route in config.routes:
        chunk.append(route_of(config, route, route_slot(str(route.name))))
        if len(chunk) == CHUNK:
            chunks.append(pickle.dumps(chunk, pickle.HIGHEST_PROTOCOL))
            chunk = []
    if chunk:
        chunks.append(pickle.dumps(chunk, pickle.HIGHEST_PROTOCOL))
    spec.chunks = chunks
    return spec


def with_tls(spec: PlanSpec, config: Config, rotate: Container[str] = ()) -> PlanSpec:
    """The same plan, one generation on, with what `config.tls` holds now. `rotate`: listeners with a new ticket key.

    `config` is the one the plan was compiled from; its routes are not looked at.
    """
    tls = {
        name: rotated(one) if name in rotate else one for name, one in compile_listeners(config, spec.tls).items()
    }
    services = tuple(
        replace(service, tls=compile_upstream(config.services[service.name], config.tls.services.get(service.name)))
        for service in spec.services
    )
    return replace(spec, generation=spec.generation + 1, tls=tls, services=services)
