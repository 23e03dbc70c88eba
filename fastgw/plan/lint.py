"""Routes that can never be chosen, or are chosen by their place in the file alone: warnings for `fastgw check`.

Only routes of the same path and host are compared: between others the precedence decides. Of these, routes that want
other exact values never meet, so that a path with thousands of them is no more work than thousands of paths. The work
for the others is bounded, and a warning says so when the bound is reached.
"""

from __future__ import annotations

import bisect
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import re2

from fastgw.config import Config, Problem
from fastgw.config.fields import Network
from fastgw.config.schema.routes import Route
from fastgw.plan.routing import specificity

STEPS = 2_000_000
"""Look-ups and comparisons for one file: seconds."""

Predicates = dict[tuple[str, ...], tuple[str, Any]]
Rivals = dict[str, tuple[Route, ...]]
"""Host → the routes that take everything a route could have there."""


def has_slash_form(route: Route) -> bool:
    """Is it asked for its path with a slash more or less, too?"""
    return route.trailing_slash != "strict"


class Wants(NamedTuple):
    """What a route asks for beside host and path: (what, name) → (operator, value), and the methods it takes."""

    route: Route
    predicates: Predicates
    methods: frozenset[str]          # HEAD with GET; empty for all


def wants_of(route: Route) -> Wants:
    found: Predicates = {}
    for what, matches in (("header", route.headers), ("query", route.query), ("cookie", route.cookies)):
        found.update({(what, match.name): (match.op, match.value) for match in matches})
    if route.user_agent is not None:
        found["user_agent",] = ("regex" if route.user_agent.startswith("~") else "exact", route.user_agent)
    if route.client_ip:
        found["client_ip",] = ("ranges", ranges_of(route.client_ip))
    methods = set(route.methods)
    return Wants(route, found, frozenset(methods | {"HEAD"} if "GET" in methods else methods))


Range = tuple[int, int, int]


def ranges_of(networks: Sequence[Network]) -> tuple[Range, ...]:
    """(IP version, first, last) in order; what touches is one range."""
    found: list[Range] = []
    for network in sorted(networks, key=lambda network: (network.version, int(network.network_address))):
        first, last = int(network.network_address), int(network.broadcast_address)
        if found and found[-1][0] == network.version and found[-1][2] + 1 >= first:
            first, last = found[-1][1], max(found.pop()[2], last)
        found.append((network.version, first, last))
    return tuple(found)


def within(all_: Sequence[Range], one: Range) -> bool:
    """Does one of them hold the other range whole?"""
    at = bisect.bisect(all_, (one[0], one[1], sys.maxsize << 128)) - 1
    return at >= 0 and all_[at][0] == one[0] and one[2] <= all_[at][2]


def overlap(first: Sequence[Range], second: Sequence[Range]) -> bool:
    i = j = 0
    while i < len(first) and j < len(second):
        if (first[i][0], first[i][2]) < second[j][:2]:
            i += 1
        elif (second[j][0], second[j][2]) < first[i][:2]:
            j += 1
        else:
            return True
    return False


def shape_of(route: Route) -> tuple[object, ...]:
    """Equal for routes that fit the same paths, whatever their parameters are called."""
    pattern = route.pattern
    assert pattern is not None
    if pattern.kind == "template":
        segments: tuple[object, ...] = tuple(
            (segment.kind, "" if segment.kind == "param" else segment.text) for segment in pattern.segments
        )
    else:
        segments = (pattern.literal, pattern.regex)
    return (pattern.kind, segments)


def meet(first: Wants, second: Wants) -> bool:
    """Can one request fit both?"""
    if first.methods and second.methods and not first.methods & second.methods:
        return False
    for key, (op, value) in first.predicates.items():
        other = second.predicates.get(key)
        if other is None:
            continue
        if op == other[0] == "exact" and value != other[1]:
            return False
        if "absent" in (op, other[0]) and op != other[0]:
            return False
        if op == "ranges" and not overlap(value, other[1]):
            return False
    return True


def takes_all(first: Wants, second: Wants) -> bool:
    """Does the first, which is asked before, take everything that the second could?"""
    if has_slash_form(second.route) and not has_slash_form(first.route):
        return False
    if first.methods and not (second.methods and second.methods <= first.methods):
        return False
    return all(
        key in second.predicates and follows(wanted, second.predicates[key])
        for key, wanted in first.predicates.items()
    )


def follows(wanted: tuple[str, Any], given: tuple[str, Any]) -> bool:
    """Does what is wanted follow from what is given, for the same header, parameter, cookie, …?"""
    op, value = wanted
    if wanted == given:
        return True
    if op == "present":
        return given[0] in ("exact", "regex")
    if op == "regex" and given[0] == "exact" and not value.startswith("~"):
        return re2.fullmatch(value, given[1]) is not None
    if op == "ranges":
        return all(within(value, one) for one in given[1])
    return False


class Enough(Exception):
    """There are no steps left."""


class Steps:
    """What may still be done."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise Enough


class Place:
    """The routes of one path under one host, in the router's order."""

    def __init__(self, everything: Sequence[Wants], steps: Steps) -> None:
        self.everything = everything
        self.steps = steps

    def shadows(self) -> Iterator[tuple[Wants, tuple[Route, ...]]]:
        """Routes that others with the same predicates leave nothing, and these others: each method has its taker."""
        takers: dict[object, dict[tuple[str, bool], Route]] = defaultdict(dict)
        for wants in self.everything:
            # asked before are routes with as many predicates or more; those of one that takes all are among its own
            taken = takers[frozenset(wants.predicates.items())]
            forms = (False, True) if has_slash_form(wants.route) else (False,)
            names = {(name, form) for name in wants.methods or ("",) for form in forms}
            if all(name in taken for name in names):
                yield wants, tuple(sorted({taken[name] for name in names}, key=lambda route: route.index))
            for name in names:
                taken.setdefault(name, wants.route)

    def pairs(self) -> Iterator[tuple[Wants, Wants]]:
        """(one before, one after) that have as many predicates and do not want different exact values."""
        groups: dict[Any, dict[Any, list[Wants]]] = defaultdict(lambda: defaultdict(list))
        for wants in self.everything:
            asks = frozenset((key, op) for key, (op, _) in wants.predicates.items())
            groups[specificity(wants.route)][asks].append(wants)
        for group in groups.values():
            for first, some in group.items():
                for second, others in group.items():
                    exact = [key for key, op in first & second if op == "exact"]
                    yield from self.agreeing(exact, some, others)

    def agreeing(self, keys: list[Any], some: list[Wants], others: list[Wants]) -> Iterator[tuple[Wants, Wants]]:
        """Pairs with the same values for these keys."""
        self.steps.take(len(some) + len(others))
        index: dict[Any, list[Wants]] = defaultdict(list)
        for wants in some:
            index[tuple(wants.predicates[key] for key in keys)].append(wants)
        for wants in others:
            for before in index.get(tuple(wants.predicates[key] for key in keys), ()):
                if before.route.index >= wants.route.index:
                    break
                self.steps.take(1 + len(before.route.client_ip) + len(wants.route.client_ip))
                yield before, wants


def problem(config: Config, route: Route, code: str, message: str, expected: str) -> Problem:
    return Problem(
        "warning", code, config.file, route.line, route.col, f"routes[{route.index}]", message, expected, ""
    )


def named(routes: Sequence[Route]) -> str:
    """`'a' (line 1) and 'b' (line 2)`, at most three of them."""
    words = [f"{route.name!r} (line {route.line})" for route in routes[:3]]
    more = f" and {len(routes) - 3} more" if len(routes) > 3 else ""
    return (", ".join(words) if more else " and ".join(words)) + more


def shadowed(config: Config, route: Route, rivals: Rivals) -> Problem:
    routes = sorted({rival for found in rivals.values() for rival in found}, key=lambda rival: rival.index)
    where = ""
    if len(rivals) < len(route.host):
        hosts = [host for host in route.host if host in rivals]
        where = f" for {', '.join(hosts[:3])}{' and more hosts' if len(hosts) > 3 else ''}"
    verb = "takes" if len(routes) == 1 else "take"
    return problem(
        config, route, "shadowed_route",
        f"is never chosen{where}: {named(routes)} {verb} everything it matches" + (" there" if where else ""),
        "another path, host or predicate, or one of them less",
    )  # fmt: skip


def places_of(config: Config) -> list[tuple[str, list[Route]]]:
    """(host, routes of one path under that host) wherever there are several, those with few routes first."""
    places: dict[tuple[object, str], list[Route]] = defaultdict(list)
    for route in sorted(config.routes, key=lambda route: (-specificity(route), route.index)):
        shape = shape_of(route)
        for host in route.host or ("",):
            places[shape, host].append(route)
    several = [(host, routes) for (_, host), routes in places.items() if len(routes) > 1]
    return sorted(several, key=lambda place: len(place[1]))


def lint(config: Config) -> list[Problem]:
    """Warnings in the order of the file."""
    lost: dict[int, Rivals] = defaultdict(dict)
    unclear: dict[int, dict[str, Route]] = defaultdict(dict)
    found: list[Problem] = []
    steps = Steps(STEPS)
    for host, routes in places_of(config):
        place = Place([wants_of(route) for route in routes], steps)
        for wants, takers in place.shadows():
            lost[wants.route.index][host] = takers
        try:
            for before, wants in place.pairs():
                if meet(before, wants):
                    known = unclear[wants.route.index].setdefault(host, before.route)
                    if before.route.index < known.index:
                        unclear[wants.route.index][host] = before.route
                    if takes_all(before, wants):
                        lost[wants.route.index].setdefault(host, (before.route,))
        except Enough:
            found.append(
                problem(
                    config, min(routes, key=lambda route: route.index), "not_compared",
                    f"{len(routes)} routes have this path{' and host' if host else ''}, too many to compare each with "
                    "each: others may be shadowed or ambiguous",
                    "exact values, which need no comparing",
                )
            )  # fmt: skip
    for route in config.routes:
        rivals = lost.get(route.index, {})
        if rivals:
            found.append(shadowed(config, route, rivals))
        doubts = [before for host, before in unclear.get(route.index, {}).items() if host not in rivals]
        if doubts:
            first = min(doubts, key=lambda before: before.index)
            found.append(
                problem(
                    config, route, "ambiguous_route",
                    f"a request can fit this and {named([first])}; only their order in the file decides",
                    "predicates that exclude each other",
                )
            )  # fmt: skip
    return sorted(found, key=lambda p: (p.line, p.col))
