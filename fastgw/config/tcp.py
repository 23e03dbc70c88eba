"""Listeners of `protocol: tcp` and the services they go to: which keys go together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastgw.config.errors import Finding, Path
from fastgw.config.routes import known_service
from fastgw.config.schema.server import Listener
from fastgw.config.schema.services import Service
from fastgw.config.schema.tcp import Tcp

HTTP_KEYS = {
    "": ("host", "tls", "protocol", "http2", "response_trailers", "circuit_breaker", "retry", "hedge", "concurrency"),
    "balance": ("sticky",),
    "pool": ("max_idle", "idle_timeout", "queue_size", "queue_timeout"),
    "timeouts": ("response", "idle", "header", "honour_client"),
}
"""Keys of a service that say something of requests, or of connections shared by many clients."""
TLS_KEYS = ("alpn", "hsts", "redirect_http")


def check_tcp(check: Any) -> None:
    """Everything about `protocol: tcp` of a `rooms.Check`."""
    for number, listener in enumerate(check.config.server.listeners):
        path: Path = ("server", "listeners", number)
        for finding in check_listener(check, listener, path):
            check.report(finding)
    for name, service in check.config.services.items():
        for finding in check_service(name, service) if service.tcp else check_http_service(name, service):
            check.report(finding)
    for route in check.config.routes:
        places: list[tuple[Path, str | None]] = [(("service",), route.service)]
        places += [(("split", number, "service"), share.service) for number, share in enumerate(route.split)]
        for place, name in places:
            if name in check.config.services and check.config.services[name].tcp:
                message = f"the service {name!r} has tcp:// endpoints, which nobody speaks HTTP to"
                expected = "a service of http:// endpoints, or a listener with `protocol: tcp`"
                check.report(Finding("conflict", ("routes", route.index, *place), message, expected))


def check_listener(check: Any, listener: Listener, path: Path) -> Iterable[Finding]:
    if listener.protocol == "http":
        if listener.tcp is not None:
            yield Finding("conflict", (*path, "tcp"), "the listener speaks HTTP", "`protocol: tcp` beside it")
        if listener.passthrough:
            message = "TLS that passes through is not HTTP for us"
            yield Finding("conflict", (*path, "tls"), message, "`protocol: tcp`, or `tls: {certificates: …}`")
        return
    if listener.tcp is None:
        yield Finding("missing_key", path, "nobody says where connections go", "tcp: {service: NAME}")
    else:
        yield from check_targets(check, listener.tcp, listener.passthrough, (*path, "tcp"))
    if "http2" in listener.model_fields_set:
        yield Finding("conflict", (*path, "http2"), "`protocol: tcp` knows no HTTP/2", "no `http2`", at_key=True)
    if listener.own_tls is not None:
        for key in TLS_KEYS:
            if key in listener.own_tls.model_fields_set and getattr(listener.own_tls, key):
                message = f"`{key}` is about HTTP, and the listener has `protocol: tcp`"
                yield Finding("conflict", (*path, "tls", key), message, f"no `{key}`", at_key=True)


def check_targets(check: Any, tcp: Tcp, passthrough: bool, path: Path) -> Iterable[Finding]:
    if passthrough and tcp.service is None and not tcp.sni:
        expected = "sni: [{names: [a.example.com], service: NAME}], or `service`"
        yield Finding("missing_key", path, "nobody says where connections go", expected)
    elif not passthrough and tcp.service is None:
        yield Finding("missing_key", path, "nobody says where connections go", "service: NAME")
    if not passthrough:
        for key in ("sni", "hello_timeout"):
            if key in tcp.model_fields_set:
                message = f"`{key}` is for TLS that passes through"
                yield Finding("conflict", (*path, key), message, "`tls: passthrough` beside `tcp`", at_key=True)
    places: list[tuple[Path, str]] = [((*path, "service"), tcp.service)] if tcp.service is not None else []
    places += [((*path, "sni", number, "service"), route.service) for number, route in enumerate(tcp.sni)]
    for place, name in places:
        known_service(check, name, place)
        yield from goes_to(check.config.services.get(name), name, place)
    seen: dict[str, int] = {}
    for number, route in enumerate(tcp.sni):
        for at, name in enumerate(route.names):
            if name in seen:
                message = f"the name {name!r} is already at sni[{seen[name]}]"
                yield Finding("conflict", (*path, "sni", number, "names", at), message, "each name once")
            seen.setdefault(name, number)


def goes_to(service: Service | None, name: str, place: Path) -> Iterable[Finding]:
    """What stands at `place` names a service: can connections go there?"""
    if service is None or service.tcp:
        return
    if service.discovery is None and all(endpoint.url.unix for endpoint in service.endpoints):
        return
    message = f"the service {name!r} has http endpoints"
    yield Finding("conflict", place, message, "a service of tcp://host:port or unix:/path endpoints")


def check_http_service(name: str, service: Service) -> Iterable[Finding]:
    path: Path = ("services", name, "proxy_protocol")
    if service.proxy_protocol is not None and service.https:
        message = "the PROXY protocol comes before TLS, which the gateway does not do towards https endpoints"
        yield Finding("conflict", path, message, "http:// or tcp:// endpoints", at_key=True)
    elif service.proxy_protocol is not None and service.protocol != "http/1.1":
        message = "a connection belongs to one client, and with HTTP/2 it is shared by many"
        yield Finding("conflict", path, message, "`protocol: http/1.1`", at_key=True)


def check_choice(service: Service, path: Path) -> Iterable[Finding]:
    """Balancing and health checks that look at requests."""
    for variable in service.balance.hash_on.variables:
        if variable.kind != "client.ip":
            message = f"{variable!r} has no value for tcp:// endpoints: there are no requests"
            yield Finding("conflict", (*path, "balance", "hash_on"), message, "${client.ip}")
    check = service.health_check
    if check is not None and check.type != "tcp" and check.port is None:
        message = f"nobody speaks {'gRPC' if check.type == 'grpc' else 'HTTP'} to tcp:// endpoints"
        yield Finding("conflict", (*path, "health_check"), message, "`type: tcp`, or a `port` where HTTP is spoken")


def check_service(name: str, service: Service) -> Iterable[Finding]:
    path: Path = ("services", name)
    yield from check_choice(service, path)
    others = {endpoint.url.scheme for endpoint in service.endpoints if not endpoint.url.unix} - {"tcp"}
    if service.discovery is not None and service.discovery.scheme != "tcp":
        others.add(service.discovery.scheme)
    if others:
        message = f"has tcp and {' and '.join(sorted(others))} endpoints"
        yield Finding("conflict", path, message, "one service for each", at_key=True)
    for room, keys in HTTP_KEYS.items():
        owner = getattr(service, room) if room else service
        for key in keys:
            if key in owner.model_fields_set and getattr(owner, key) is not None:
                message = f"`{key}` says nothing for tcp:// endpoints: each connection belongs to one client"
                place = (*path, room, key) if room else (*path, key)
                yield Finding("conflict", place, message, f"no `{key}`", at_key=True)
