"""A recorded access log against another configuration: what would be routed or refused otherwise.

Only what a line holds is known. Where a route asks for something that was not recorded (a header, a cookie, the query),
the answer is "undecidable", never a guess: the request is put to one router in which such predicates hold, and to one
that does not have those routes, and only what both say is an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import re2

from fastgw._core.route import Router, lookup
from fastgw._core.target import normalize_target
from fastgw.config import Config
from fastgw.config.schema.routes import Route
from fastgw.plan.routing import Predicate, in_order, predicates_of, segments_of

MAX_ROUTERS = 64
MAX_ANSWERS = 100_000
MAX_KINDS = 10_000
OTHER = ("other", "more kinds of differences than are told apart")
AGENT = "user-agent"


@dataclass(slots=True)
class Group:
    """Requests with the same difference. `example` is one of them, `line` where it stands in the log."""

    kind: str
    words: str
    count: int
    example: str
    line: int


@dataclass(slots=True)
class Report:
    """`lines` of the log, of which `unreadable` are no JSON records of requests."""

    lines: int = 0
    same: int = 0
    unreadable: int = 0
    groups: dict[tuple[str, str], Group] = field(default_factory=dict)

    def count(self, *kinds: str) -> int:
        return sum(group.count for group in self.groups.values() if group.kind in kinds)

    @property
    def different(self) -> int:
        return sum(group.count for group in self.groups.values() if group.kind != "undecidable")

    def ranked(self) -> list[Group]:
        return sorted(self.groups.values(), key=lambda group: (-group.count, group.kind, group.words))

    def add(self, kind: str, words: str, example: str) -> None:
        key = (kind, words)
        if key not in self.groups and len(self.groups) >= MAX_KINDS:
            key = OTHER
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group(*key, 0, example, self.lines)
        group.count += 1


@dataclass(slots=True)
class Outcome:
    """`unknown`: what would have to be known. `status` 200, or that of the router's refusal."""

    status: int = 0
    route: Route | None = None
    public: str = ""
    unknown: str = ""


def known_in(record: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """What a line tells, as (kind, name)."""
    known = {("header", str(name).lower()) for name in record.get("headers") or ()}
    known |= {("cookie", str(name)) for name in record.get("cookies") or ()}
    for name, kinds in (
        ("query", ("query",)),
        ("client", ("address",)),
        ("user_agent", ("agent", "agent_class")),
        ("host", ("host",)),
    ):
        if name in record:
            known |= {(kind, "") for kind in kinds}
    if "user_agent" in record:
        known.add(("header", AGENT))
    if "referer" in record:
        known.add(("header", "referer"))
    return frozenset(known)


def each(recorded: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Names and values; a name that was sent several times has a list."""
    for name, value in (recorded or {}).items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                yield str(name), str(one)


def is_known(predicate: Predicate, known: frozenset[tuple[str, str]]) -> bool:
    kind, _, name, _ = predicate
    return (kind, name.decode() if kind in ("header", "cookie") else "") in known


def missing(predicate: Predicate) -> str:
    kind, _, name, _ = predicate
    words = {"address": "client", "agent": "user_agent", "agent_class": "user_agent", "query": "query"}
    return words.get(kind) or f"{kind} {name.decode()}"


class Routers:
    """For one set of known things: the router in which all others hold, and the one without routes that want them."""

    def __init__(self, config: Config, known: frozenset[tuple[str, str]]) -> None:
        self.unknown: dict[int, str] = {}
        self.generous, self.strict = Router(), Router()
        for route in in_order(config):
            predicates = predicates_of(route)
            there = [predicate for predicate in predicates if is_known(predicate, known)]
            gaps = [missing(predicate) for predicate in predicates if predicate not in there]
            if route.host and ("host", "") not in known:
                gaps.append("host")
            if gaps:
                self.unknown[route.index] = ", ".join(dict.fromkeys(gaps))
            add(self.generous, route, there, hosts="host" not in gaps)
            if not gaps:
                add(self.strict, route, there)
        for router in (self.generous, self.strict):
            for _ in router.compile(re2.compile):
                pass


def add(router: Router, route: Route, predicates: list[Predicate], hosts: bool = True) -> None:
    assert route.pattern is not None
    kind, segments = segments_of(route)
    names = [host.encode() for host in route.host] if hosts else []
    router.add(
        route.index, names, segments, kind, route.methods, predicates, route.trailing_slash, route.pattern.regex or None
    )


class Replay:
    """`take(record)` for each line of a log, a mapping; then `report`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.report = Report()
        self.routers: dict[frozenset[tuple[str, str]], Routers] = {}
        self.answers: dict[Any, Outcome] = {}
        self.public = {entry.path: entry.endpoint for entry in config.server.public_endpoints}

    def routers_of(self, known: frozenset[tuple[str, str]]) -> Routers:
        found = self.routers.get(known)
        if found is None:
            if len(self.routers) >= MAX_ROUTERS:
                self.routers.clear()
            found = self.routers[known] = Routers(self.config, known)
        return found

    def take(self, record: Any) -> None:
        report = self.report
        report.lines += 1
        if not isinstance(record, dict) or not all(
            isinstance(record.get(name), str) and record[name] for name in ("method", "path")
        ):
            report.unreadable += 1
            return
        try:
            outcome = self.outcome(record)
        except (ValueError, TypeError):                  # an address that is none, a host that is no text
            report.unreadable += 1
            return
        kind, words = compare(record, outcome)
        if kind == "same":
            report.same += 1
        else:
            host = record.get("host") or ""
            report.add(kind, words, f"{record['method']} {host}{record['path']}"[:300])

    def outcome(self, record: Mapping[str, Any]) -> Outcome:
        known = known_in(record)
        headers = tuple(each(record.get("headers")))
        cookies = "; ".join(f"{name}={value}" for name, value in each(record.get("cookies")))
        if cookies:
            headers += (("cookie", cookies),)
        for name, field_name in ((AGENT, "user_agent"), ("referer", "referer")):
            if record.get(field_name) and not any(key.lower() == name for key, _ in headers):
                headers += ((name, str(record[field_name])),)
        key = (
            known, record["method"], record.get("host") or "", record["path"], record.get("query") or "", headers,
            record.get("client") or "",
        )  # fmt: skip
        found = self.answers.get(key)
        if found is None:
            if len(self.answers) >= MAX_ANSWERS:
                self.answers.clear()
            found = self.answers[key] = self.decide(*key)
        return found

    def decide(
        self, known: frozenset[tuple[str, str]], method: str, host: str, path: str, query: str,
        headers: tuple[tuple[str, str], ...], client: str,
    ) -> Outcome:  # fmt: skip
        server = self.config.server
        normal = normalize_target(path.encode("utf-8", "surrogateescape"), server.path_normalization,
                                  server.merge_slashes, method)  # fmt: skip
        if normal is None:
            return Outcome(400)
        text = normal[0].decode("utf-8", "surrogateescape")
        if text in self.public and method in ("GET", "HEAD"):
            return Outcome(200, public=f"public:{self.public[text]}")
        if method == "OPTIONS" and not {("header", "origin"), ("header", "access-control-request-method")} <= known:
            # whether it is a pre-flight, which is for the route of the method it asks for
            return Outcome(unknown="header origin, header access-control-request-method")
        routers = self.routers_of(known)

        def ask(router: Router) -> tuple[int, int]:
            status, index, _, _ = lookup(router, method, host, text, query, headers, client or "127.0.0.1")
            return status, index

        return self.settle(routers, ask)

    def settle(self, routers: Routers, ask: Callable[[Router], tuple[int, int]]) -> Outcome:
        status, index = ask(routers.generous)
        if index in routers.unknown:
            return Outcome(unknown=routers.unknown[index])
        if index < 0 and status == 405 and routers.unknown and ask(routers.strict)[0] != 405:
            return Outcome(unknown="what routes of this path match on")
        return Outcome(status, self.config.routes[index] if index >= 0 else None)


def compare(record: Mapping[str, Any], new: Outcome) -> tuple[str, str]:
    """(kind, words): `same`, `undecidable`, or what is different."""
    if new.unknown:
        return "undecidable", f"not recorded: {new.unknown}"
    if "route" not in record or "status" not in record:
        return "undecidable", "not recorded: route or status"
    before, status = record["route"], record["status"]
    if not before:
        if new.status == status:
            return "same", ""
        if status not in (404, 405, 308):
            return "undecidable", "it ended before it was routed"      # a head that was refused, a client that left
        if new.status in (400, 404, 405):
            return "refused", f"{status} → {new.status}"
        name = new.public or (new.route.name if new.route else "")
        if new.status == 308:
            return "refused", f"{status} → 308"
        return "routed", f"{status} → route {name}"
    if new.public:
        return ("same", "") if new.public == before else ("route", f"route {before} → {new.public}")
    if new.status != 200 or new.route is None:
        if new.status == 308 and status == 308:
            return "same", ""
        return "refused", f"route {before} → {new.status}"
    if new.route.name != before:
        return "route", f"route {before} → {new.route.name}"
    service = record.get("service")
    services = [new.route.service] if new.route.service else [share.service for share in new.route.split]
    if service and service not in services:
        return "service", f"route {before}: service {service} → {', '.join(map(str, services)) or 'none'}"
    limit = new.route.limits.body_size if new.route.limits else None
    size = record.get("bytes_in")
    if limit is not None and isinstance(size, int) and size > limit and status != 413:
        return "refused", f"route {before} → 413, the body is larger than {limit} bytes"
    return "same", ""
