"""Which route takes a request, and why the others do not: the same question the router answers, with reasons.

The choice is the native router's own answer; the reasons are worked out here, in its order of precedence.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import re2

from fastgw._core.rewrite import rewritten
from fastgw._core.route import agent_class, lookup
from fastgw._core.target import normalize_target
from fastgw.config import Config
from fastgw.config.schema.routes import Route, ValueMatch
from fastgw.plan.routing import make_rewrite, make_router, specificity

KIND_RANK = {"literal": 0, "regex": 1, "param": 2, "rest": 4}


@dataclass(slots=True)
class Asked:
    """A request as it is asked about. `path` is normalised; `query` None when there is none."""

    method: str
    host: str
    path: str
    query: str | None
    headers: tuple[tuple[str, str], ...] = ()
    address: str = "127.0.0.1"

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclass(slots=True)
class Candidate:
    """A route whose host and path fit, or nearly; `failed` is the first predicate that does not hold, or None."""

    route: Route
    failed: str | None


@dataclass(slots=True)
class Explanation:
    asked: Asked | None
    status: int
    candidates: list[Candidate] = field(default_factory=list)
    others: int = 0
    chosen: Route | None = None
    captures: tuple[str, ...] = ()
    target: str = ""
    allowed: str = ""


def ask(config: Config, method: str, url: str, headers: Sequence[tuple[str, str]], address: str) -> Asked | None:
    """None when the gateway refuses the target."""
    if "#" in url:
        return None
    parts = urlsplit(url if "://" in url else f"http://localhost{url}")
    target = (parts.path or "/") + (f"?{parts.query}" if "?" in url else "")
    server = config.server
    found = normalize_target(target.encode(), server.path_normalization, server.merge_slashes, method)
    if found is None:
        return None
    path, query = found
    host = next((value for name, value in headers if name.lower() == "host"), parts.hostname or "")
    return Asked(method, host, path.decode(), None if query is None else query.decode(), tuple(headers), address)


def host_rank(route: Route, host: str) -> tuple[int, int] | None:
    """(0, 0) exact, (1, -length) wildcard, (2, 0) any; None when it does not fit."""
    if not route.host:
        return (2, 0)
    name = host.lower().rstrip(".")
    ranks = []
    for wanted in route.host:
        if wanted == name:
            ranks.append((0, 0))
        elif wanted.startswith("*.") and name.endswith(wanted[1:]):
            ranks.append((1, -len(wanted)))
    return min(ranks) if ranks else None


def path_fits(route: Route, path: str) -> bool:
    pattern = route.pattern
    assert pattern is not None
    if pattern.kind == "regex":
        return re2.fullmatch(pattern.regex, path) is not None
    if pattern.kind == "exact":
        if path == pattern.literal:
            return True
        return route.trailing_slash != "strict" and path.rstrip("/") == pattern.literal.rstrip("/") != ""
    if pattern.kind == "prefix":
        return path == pattern.literal or path.startswith(pattern.literal + "/")
    given = path[1:].split("/")
    rest = pattern.segments[-1].kind == "rest"
    wanted = pattern.segments[:-1] if rest else pattern.segments
    if route.trailing_slash != "strict" and not rest and len(given) == len(wanted) + 1 and given[-1] == "":
        given = given[:-1]
    if len(given) < len(wanted) or (not rest and len(given) != len(wanted)):
        return False
    for segment, value in zip(wanted, given, strict=False):
        if segment.kind == "literal" and segment.text != value:
            return False
        if segment.kind == "param" and not value:
            return False
        if segment.kind == "regex" and (not value or re2.fullmatch(segment.text, value) is None):
            return False
    return True


def path_rank(route: Route) -> tuple[tuple[int, ...], ...]:
    """Per segment literal, parameter with a regex, parameter, whole-path regex, prefix."""
    pattern = route.pattern
    assert pattern is not None
    if pattern.kind == "regex":
        return ((3,),)
    if pattern.kind == "template":
        return tuple((KIND_RANK[segment.kind],) for segment in pattern.segments)
    literals = tuple((0,) for _ in pattern.literal.split("/")[1:])
    return (*literals, (4,)) if pattern.kind == "prefix" else literals


def value_fits(match: ValueMatch, values: Sequence[str]) -> bool:
    if match.op == "present":
        return bool(values)
    if match.op == "absent":
        return not values
    if match.op == "exact":
        return match.value in values
    return any(re2.fullmatch(match.value, value) is not None for value in values)


def cookies_of(asked: Asked) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in asked.values("cookie"):
        for pair in line.split(";"):
            name, _, value = pair.strip().partition("=")
            found.setdefault(name, []).append(value)
    return found


def wanted_method(asked: Asked) -> str:
    """A CORS pre-flight asks for the route of the request that is to come."""
    if asked.method == "OPTIONS" and asked.values("origin"):
        return (asked.values("access-control-request-method") or [asked.method])[0]
    return asked.method


def first_failure(route: Route, asked: Asked) -> str | None:
    """The first of the predicates beside host and path that does not hold."""
    for match in route.headers:
        if not value_fits(match, asked.values(match.name)):
            return f"header {match.name} {describe(match)}"
    query: dict[str, list[str]] = {}
    for name, value in parse_qsl(asked.query or "", keep_blank_values=True):
        query.setdefault(name, []).append(value)
    for match in route.query:
        if not value_fits(match, query.get(match.name, [])):
            return f"query {match.name} {describe(match)}"
    cookies = cookies_of(asked)
    for match in route.cookies:
        if not value_fits(match, cookies.get(match.name, [])):
            return f"cookie {match.name} {describe(match)}"
    if route.user_agent is not None:
        agent = (asked.values("user-agent") or [""])[0]
        if route.user_agent.startswith("~"):
            if not asked.values("user-agent") or re2.fullmatch(route.user_agent[1:].strip(), agent) is None:
                return f"user_agent {route.user_agent}"
        elif agent_class(agent.encode()) != route.user_agent:
            return f"user_agent is not {route.user_agent}"
    if route.client_ip:
        address = ipaddress.ip_address(asked.address)
        if not any(address.version == network.version and address in network for network in route.client_ip):
            return f"client_ip {asked.address} is in none of {', '.join(map(str, route.client_ip))}"
    method = wanted_method(asked)
    if route.methods and method not in route.methods and not (method == "HEAD" and "GET" in route.methods):
        return f"method {method} is none of {', '.join(route.methods)}"
    return None


def describe(match: ValueMatch) -> str:
    words = {"exact": f"is not {match.value!r}", "regex": f"does not match {match.value!r}"}
    return words.get(match.op, "is not there" if match.op == "present" else "is there")


def explain(config: Config, asked: Asked | None) -> Explanation:
    if asked is None:
        return Explanation(None, 400)
    host = asked.host.partition(":")[0] if not asked.host.startswith("[") else asked.host
    fitting = []
    for route in config.routes:
        rank = host_rank(route, host)
        if rank is not None and path_fits(route, asked.path):
            fitting.append((rank, path_rank(route), -specificity(route), route.index, route))
    fitting.sort(key=lambda item: item[:4])
    found = Explanation(asked, 404)
    found.candidates = [Candidate(item[4], first_failure(item[4], asked)) for item in fitting]
    found.others = len(config.routes) - len(fitting)
    router = make_router(config)
    for _ in router.compile(re2.compile):
        pass
    status, index, captures, allowed = lookup(
        router, asked.method, asked.host, asked.path, asked.query or "", asked.headers, asked.address
    )
    found.status, found.captures, found.allowed = status, tuple(captures), allowed
    if index >= 0:
        found.chosen = config.routes[index]
        found.target = target_of(found.chosen, asked, captures)
    return found


def target_of(route: Route, asked: Asked, captures: Sequence[str]) -> str:
    """What goes to the service as the request target."""
    plain = asked.path if asked.query is None else f"{asked.path}?{asked.query}"
    if route.strip_prefix is None and route.add_prefix is None and route.rewrite is None:
        return plain
    names = route.pattern.captures if route.pattern else ()
    rewrite = make_rewrite((route.strip_prefix, route.add_prefix, route.rewrite), names)
    places = []
    at = 0
    for value in captures:
        at = max(asked.path.find(value, at), 0)
        places.append((at, len(value)))
        at += len(value)
    return rewritten(rewrite, asked.path, asked.query, places)


def as_data(config: Config, found: Explanation) -> dict[str, Any]:
    """For JSON, and for the text that the verb prints."""
    data: dict[str, Any] = {"status": found.status, "other_routes": found.others}
    data["candidates"] = [
        {"route": c.route.name, "line": c.route.line, "failed": c.failed, "chosen": c.route is found.chosen}
        for c in found.candidates
    ]
    route = found.chosen
    if route is not None:
        names = route.pattern.captures if route.pattern else ()
        data["route"] = route.name
        data["captures"] = dict(zip(names, found.captures, strict=False))
        data["policies"] = [{"name": use.name, "line": use.line} for use in config.chain(route)]
        if route.service:
            data["service"] = route.service
        if route.split:
            data["split"] = [{"service": share.service, "weight": share.weight} for share in route.split]
        data["target"] = found.target
    if found.allowed:
        data["allow"] = found.allowed
    return data
