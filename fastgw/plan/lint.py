"""Routes that can never be chosen, or are chosen by their place in the file alone: warnings for `fastgw check`.

Routes are grouped by what their paths look like, so the work grows with the number of routes and not with its square;
within a group a bounded number of predecessors is compared.
"""

from __future__ import annotations

from collections import defaultdict

from fastgw.config import Config, Problem
from fastgw.config.schema.routes import Route
from fastgw.plan.routing import specificity

COMPARED = 50


def shape_of(route: Route) -> tuple[object, ...]:
    """Equal for routes that fit the same hosts and paths, whatever their parameters are called."""
    pattern = route.pattern
    assert pattern is not None
    if pattern.kind == "template":
        segments: tuple[object, ...] = tuple(
            (segment.kind, "" if segment.kind == "param" else segment.text) for segment in pattern.segments
        )
    else:
        segments = (pattern.literal, pattern.regex)
    return (pattern.kind, segments, route.host)


def predicates_of(route: Route) -> frozenset[object]:
    found: set[object] = {("header", *m) for m in route.headers}
    found |= {("query", *m) for m in route.query}
    found |= {("cookie", *m) for m in route.cookies}
    if route.user_agent is not None:
        found.add(("user_agent", route.user_agent))
    if route.client_ip:
        found.add(("client_ip", route.client_ip))
    return frozenset(found)


def methods_overlap(first: Route, second: Route) -> bool:
    return not first.methods or not second.methods or bool(set(first.methods) & set(second.methods))


def covers(first: Route, second: Route) -> bool:
    """Does `first` take everything that `second` could?"""
    if not predicates_of(first) <= predicates_of(second):
        return False
    return not first.methods or (bool(second.methods) and set(second.methods) <= set(first.methods))


def exclude(first: Route, second: Route) -> bool:
    """Can no request fit both: one name that must have two values?"""
    for mine, theirs in ((first.headers, second.headers), (first.query, second.query), (first.cookies, second.cookies)):
        wanted = {match.name: match for match in mine}
        for match in theirs:
            other = wanted.get(match.name)
            if other is None:
                continue
            if match.op == other.op == "exact" and match.value != other.value:
                return True
            if "absent" in (match.op, other.op) and match.op != other.op:
                return True
    return False


def problem(config: Config, route: Route, code: str, message: str, expected: str) -> Problem:
    return Problem(
        "warning", code, config.file, route.line, route.col, f"routes[{route.index}]", message, expected, ""
    )


def place(route: Route) -> str:
    return f"{route.name!r} (line {route.line})"


def lint(config: Config) -> list[Problem]:
    """Warnings in the order of the file."""
    groups: dict[tuple[object, ...], list[Route]] = defaultdict(list)
    for route in config.routes:
        groups[shape_of(route)].append(route)
    found: list[Problem] = []
    for routes in groups.values():
        if len(routes) == 1:
            continue
        ordered = sorted(routes, key=lambda route: (-specificity(route), route.index))
        for number, route in enumerate(ordered):
            earlier = ordered[max(0, number - COMPARED) : number]
            for before in earlier:
                if covers(before, route):
                    found.append(
                        problem(
                            config, route, "shadowed_route",
                            f"is never chosen: {place(before)} takes everything it matches",
                            "another path or predicate, or one of them less",
                        )
                    )  # fmt: skip
                    break
            else:
                for before in earlier:
                    equal = specificity(before) == specificity(route)
                    if equal and methods_overlap(before, route) and not exclude(before, route):
                        found.append(
                            problem(
                                config, route, "ambiguous_route",
                                f"a request can fit this and {place(before)}; only their order in the file decides",
                                "predicates that exclude each other",
                            )
                        )  # fmt: skip
                        break
    return sorted(found, key=lambda p: (p.line, p.col))
