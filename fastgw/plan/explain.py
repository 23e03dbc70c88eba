"""Which route takes a request, and why the others do not: the same question the router answers, with reasons.

The choice is the native router's own answer, and so are the reasons: each path, predicate and list of methods is put
to a router that has nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import re2

from fastgw._core.rewrite import rewritten
from fastgw._core.route import Router, lookup
from fastgw._core.target import normalize_target
from fastgw.config import Config
from fastgw.config.fields import format_duration
from fastgw.config.schema.routes import Route, ValueMatch
from fastgw.config.schema.services import Service
from fastgw.plan.compress_words import compress_words
from fastgw.plan.limit_words import limit_words, quota_words
from fastgw.plan.precedence import Key, Precedence
from fastgw.plan.resilience import breakers_of
from fastgw.plan.resilience_words import resilience_words
from fastgw.plan.routing import make_rewrite, make_router, predicates_of, segments_of
from fastgw.plan.sockets import socket_words
from fastgw.plan.upstream_words import upstream_words
from fastgw.policies._limits import RateLimitOptions
from fastgw.policies.cache import CacheOptions
from fastgw.policies.compress import CompressOptions
from fastgw.policies.mirror import MirrorOptions
from fastgw.policies.quota import QuotaOptions


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


def holds(asked: Asked, segments: list[tuple[str, Any]], kind: str, **what: Any) -> int:
    """The status that a router with this and nothing else answers: 200 or 308 when it fits, else 404 or 405."""
    router = Router()
    given = {"hosts": (), "methods": (), "predicates": [], **what}
    router.add(0, given.pop("hosts"), segments, kind, given.pop("methods"), given.pop("predicates"), **given)
    for _ in router.compile(re2.compile):
        pass
    status, _, _, _ = lookup(
        router, asked.method, asked.host, asked.path, asked.query or "", asked.headers, asked.address
    )
    return status


def fits(route: Route, asked: Asked, order: Precedence) -> Key | None:
    """The place of a route among those whose host and path fit; None when its own do not."""
    pattern = route.pattern
    assert pattern is not None
    begin = pattern.literal.rstrip("/") + "/"
    if pattern.kind != "regex" and not (asked.path + "/").startswith(begin):
        return None                           # nearly all routes: no router is made for them
    kind, segments = segments_of(route)
    found = []
    for host in route.host or ("",):
        hosts = (host.encode(),) if host else ()
        how = {"hosts": hosts, "regex": pattern.regex or None}
        if holds(asked, segments, kind, **how) == 200:
            found.append(order.key(route, host))
        elif holds(asked, segments, kind, slash=route.trailing_slash, **how) in (200, 308):
            found.append(order.key(route, host, other_slash=True))
    return min(found, default=None)


def first_failure(route: Route, asked: Asked) -> str | None:
    """The first of the predicates beside host and path that does not hold; the method is the last, because with it
    alone the answer is 405."""
    for predicate, words in zip(predicates_of(route), descriptions(route, asked), strict=True):
        if holds(asked, [], "prefix", predicates=[predicate]) != 200:
            return words
    if route.methods and holds(asked, [], "prefix", methods=route.methods) != 200:
        return f"method {wanted_method(asked)} is none of {', '.join(route.methods)}"
    return None


def descriptions(route: Route, asked: Asked) -> list[str]:
    """What to say when one of the predicates does not hold, in the order of `predicates_of`."""
    found = []
    for kind, matches in (("header", route.headers), ("query", route.query), ("cookie", route.cookies)):
        found += [f"{kind} {match.name} {describe(match)}" for match in matches]
    if route.user_agent is not None:
        regex = route.user_agent.startswith("~")
        found.append(f"user_agent {'does not match' if regex else 'is not'} {route.user_agent}")
    if route.client_ip:
        found.append(f"client_ip {asked.address} is in none of {', '.join(map(str, route.client_ip))}")
    return found


def wanted_method(asked: Asked) -> str:
    """A CORS pre-flight asks for the route of the request that is to come."""
    if asked.method == "OPTIONS" and asked.values("origin"):
        return (asked.values("access-control-request-method") or [asked.method])[0]
    return asked.method


def describe(match: ValueMatch) -> str:
    words = {"exact": f"is not {match.value!r}", "regex": f"does not match {match.value!r}"}
    return words.get(match.op, "is not there" if match.op == "present" else "is there")


def explain(config: Config, asked: Asked | None) -> Explanation:
    if asked is None:
        return Explanation(None, 400)
    order = Precedence(config)
    fitting = [(key, route) for route in config.routes if (key := fits(route, asked, order)) is not None]
    fitting.sort(key=lambda item: item[0])
    found = Explanation(asked, 404)
    found.candidates = [Candidate(route, first_failure(route, asked)) for _, route in fitting]
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
    # where the same text stands first will do: captures may lie within each other
    places = [(asked.path.find(value), len(value)) for value in captures]
    return rewritten(rewrite, asked.path, asked.query, places)


def choice(service: Service) -> str:
    """How one of its endpoints is chosen, and what leaves one out, in words."""
    balance = service.balance
    words: list[str] = [balance.type]
    if balance.type == "consistent_hash":
        words[0] += f"{' (ring)' if balance.algorithm == 'ring' else ''} on {balance.hash_on}"
    if balance.sticky is not None:
        words.append(f"cookie {balance.sticky.cookie}")
    if balance.labels:
        words.append("with " + ", ".join(f"{name}={value}" for name, value in balance.labels.items()))
    if balance.subset:
        words.append(f"a subset of {balance.subset}")
    check = service.health_check
    if check is not None:
        asked = {
            "http": f"GET {check.path}",
            "grpc": f"grpc.health.v1 ({check.service or 'the whole endpoint'})",
        }.get(check.type, "a TCP connection")
        words.append(f"checked by {asked} every {format_duration(check.interval)}")
    if service.outliers is not None:
        words.append("outliers are ejected")
    words.append("any of them when none is healthy" if balance.panic == "any" else "503 when none is healthy")
    if not (check or service.outliers):
        words.pop()                                  # nobody is ever known not to be
    return "; ".join(words)


def mirror(options: MirrorOptions) -> str:
    """Where copies of the route's requests go, in words."""
    bound = f"at most {options.max_in_flight} at a time in each worker"
    share = "all" if options.share == 1 else f"{options.share * 100:.4g}%"
    compared = "; answers are compared" if options.compare is not None else ""
    return f"{share} of the requests to {options.service}; {bound}{compared}"


def cached(options: CacheOptions, route: Route, asked: Asked, second: bool = False) -> str:
    """What an answer to this is found by in the cache, and what would become of it, in words. `second`: with a second
    level."""
    if asked.method not in ("GET", "HEAD"):
        what = "is answered here: it forgets" if asked.method == "PURGE" and options.purge else "goes to the service"
        return f"{asked.method} {what}"
    query = f"?{asked.query}" if asked.query and options.query else ""
    key = f"{asked.host.lower()}{asked.path}{query}"
    if options.ignore_query and query:
        key += f" without {', '.join(options.ignore_query)}"
    extra = [f"key {options.key}"] if options.key is not None else []
    extra += ["who asks"] if options.per_identity else []
    extra += [f"zone {options.zone or route.name}"]
    directives = ",".join(asked.values("cache-control")).lower()
    if options.honour_clients and ("no-cache" in directives or "no-store" in directives):
        become = "the client wants it from the service"
    elif options.honour_clients and "only-if-cached" in directives:
        become = "kept answers only, or 504"
    elif any(asked.values(name) for name in ("authorization",)) and not options.per_identity:
        become = "kept for all only with public, s-maxage or must-revalidate"
    else:
        become = "fresh answers leave from memory"
        become += ", or come from Redis, where all hosts keep them" if second and options.wait else ""
    return f"{key} ({', '.join(extra)}); {become}"


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
        asked = [route.service] if route.service else [share.service for share in route.split]
        data["endpoint"] = [f"{name}: {choice(config.services[name])}" for name in asked]
        data |= upstream_words(config, route)
        data["resilience"] = resilience_words(config, route)
        limited = (use.options for use in config.chain(route) if isinstance(use.options, RateLimitOptions))
        quotas = (use.options for use in config.chain(route) if isinstance(use.options, QuotaOptions))
        if words := [quota_words(options) for options in quotas]:
            data["quotas"] = words
        if limits := limit_words(limited, found.asked.method if found.asked else "", route.name or ""):
            data["limits"] = limits
        if mirrors := [mirror(use.options) for use in config.chain(route) if isinstance(use.options, MirrorOptions)]:
            data["mirror"] = mirrors
        second = config.cache.second_level is not None
        if kept := [cached(use.options, route, found.asked, second) for use in config.chain(route)
                    if isinstance(use.options, CacheOptions) and found.asked is not None]:  # fmt: skip
            data["cache"] = kept
        if encoded := [compress_words(use.options, found.asked.method, found.asked.headers)
                       for use in config.chain(route)
                       if isinstance(use.options, CompressOptions) and found.asked is not None]:  # fmt: skip
            data["compress"] = encoded
        if sockets := socket_words(route):
            data["websocket"] = sockets
        if breakers := breakers_of(config, route):
            data["circuit_breaker"] = breakers
        data["target"] = found.target
    if found.allowed:
        data["allow"] = found.allowed
    return data
