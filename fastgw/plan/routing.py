"""The routing half of a plan: checked routes → the native table, rewrites and splits."""

from __future__ import annotations

import ipaddress
from collections.abc import Generator, Iterator
from typing import Any

import re2

from fastgw._core.rewrite import Rewrite
from fastgw._core.route import Router
from fastgw._core.split import Split
from fastgw.config import Config
from fastgw.config.pattern import Capture
from fastgw.config.schema.routes import Route

Predicate = tuple[str, str, bytes, bytes]


MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
"""IPv4 addresses as the router compares them: RFC 4291 2.5.5.2."""


def networks(route: Route) -> bytes:
    """17 bytes per network: the address as IPv6 (IPv4 mapped) and the prefix length."""
    packed = b""
    given: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for network in route.client_ip:
        if isinstance(network, ipaddress.IPv6Network) and network.supernet_of(MAPPED) and network != MAPPED:
            given += network.address_exclude(MAPPED)      # ::/0 is all of IPv6, and none of IPv4
        else:
            given.append(network)
    for network in given:
        address, length = network.network_address.packed, network.prefixlen
        if isinstance(network, ipaddress.IPv4Network):
            address, length = bytes(10) + b"\xff\xff" + address, length + 96
        packed += address + bytes([length])
    return packed


def predicates_of(route: Route) -> list[Predicate]:
    """What must hold beside host, path and method."""
    found: list[Predicate] = []
    for kind, matches in (("header", route.headers), ("query", route.query), ("cookie", route.cookies)):
        found += [(kind, m.op, m.name.encode(), m.value.encode()) for m in matches]
    agent = route.user_agent
    if agent is not None and agent.startswith("~"):
        found.append(("agent", "regex", b"", agent[1:].strip().encode()))
    elif agent is not None:
        found.append(("agent_class", "exact", b"", agent.encode()))
    if route.client_ip:
        found.append(("address", "exact", b"", networks(route)))
    return found


def specificity(route: Route) -> int:
    """The number of predicates: routes of one path with more of them come first."""
    return (
        len(route.headers)
        + len(route.query)
        + len(route.cookies)
        + (route.user_agent is not None)
        + bool(route.client_ip)
        + bool(route.methods)
    )


def segments_of(route: Route) -> tuple[str, list[tuple[str, Any]]]:
    """(kind, segments) as Router.add takes them."""
    pattern = route.pattern
    assert pattern is not None
    if pattern.kind == "regex":
        return "regex", []
    if pattern.kind == "exact":
        return "exact", [("literal", part.encode()) for part in pattern.literal[1:].split("/")]
    if pattern.kind == "prefix":
        return "prefix", [("literal", part.encode()) for part in pattern.literal.split("/")[1:]]
    segments: list[tuple[str, Any]] = []
    kind = "exact"
    for segment in pattern.segments:
        if segment.kind == "literal":
            segments.append(("literal", segment.text.encode()))
        elif segment.kind == "rest":
            kind = "prefix"
        else:
            segments.append(("regex", segment.text) if segment.kind == "regex" else ("param", None))
    return kind, segments


def in_order(config: Config) -> Iterator[Route]:
    """As the router takes them: more predicates first, then as they stand in the file."""
    return iter(sorted(config.routes, key=lambda route: -specificity(route)))


def make_router(config: Config) -> Router:
    router = Router()
    for route in in_order(config):
        assert route.pattern is not None
        kind, segments = segments_of(route)
        router.add(
            route.index,
            [host.encode() for host in route.host],
            segments,
            kind,
            route.methods,
            predicates_of(route),
            route.trailing_slash,
            route.pattern.regex or None,
        )
    return router


def compile_router(config: Config) -> bytes:
    """The routing table as bytes, for PlanSpec."""
    return make_router(config).dump()


def load_router(data: bytes | memoryview) -> Generator[None, None, Router]:
    """The table from its bytes; yields between the regexes it compiles."""
    router = Router.load(data)
    yield from router.compile(re2.compile)
    return router


def load_router_now(data: bytes | memoryview) -> Router:
    steps = load_router(data)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            router: Router = stop.value
            return router


def make_rewrite(given: tuple[Any, ...], captures: tuple[str, ...]) -> Rewrite:
    """From (strip_prefix, add_prefix, rewrite) of a route."""
    strip, add, template = given
    if template is None:
        return Rewrite((strip or "").encode(), (add or "").encode())

    def parts(items: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(captures.index(p.name) if isinstance(p, Capture) else p.encode() for p in items)

    return Rewrite(path=parts(template.path), query=parts(template.query))


def make_split(services: tuple[Any, ...], weights: tuple[int, ...], by: str | None) -> Split:
    return Split(services, weights, by)
