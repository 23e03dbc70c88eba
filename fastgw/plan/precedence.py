"""The order in which routes are considered, as keys to sort by: for lists and explanations (docs/routing.md).

The native router is the order; these keys say it in Python, and tests hold the two together.
"""

from __future__ import annotations

from typing import Any

from fastgw.config import Config
from fastgw.config.schema.routes import Route
from fastgw.plan.routing import in_order, segments_of, specificity

LITERAL, REGEX, PARAM, WHOLE_REGEX, REST = range(5)
Segments = list[tuple[str, Any]]
Key = tuple[Any, ...]


def host_rank(host: str) -> tuple[int, int]:
    """Of one host of a route, "" for none: exact, then the longest wildcard, then none. Smaller comes first."""
    if not host:
        return (2, 0)
    return (1, -len(host)) if host.startswith("*.") else (0, 0)


class Precedence:
    """The keys of one configuration's routes."""

    def __init__(self, config: Config) -> None:
        # parameters with different regexes at one place take turns as their routes are considered
        self.turns: dict[Key, int] = {}
        for route in in_order(config):
            _, segments = segments_of(route)
            for at, (kind, _) in enumerate(segments):
                if kind == "regex":
                    for host in route.host or ("",):
                        self.turns.setdefault(self.place(host, segments, at), len(self.turns))

    @staticmethod
    def place(host: str, segments: Segments, at: int) -> Key:
        return (host, *segments[: at + 1])

    def path_key(self, route: Route, host: str, other_slash: bool = False) -> Key:
        """Segment by segment; a whole-path regex stands where the first segment does."""
        kind, segments = segments_of(route)
        if kind == "regex":
            return ((WHOLE_REGEX, 0),)
        key: list[tuple[int, int]] = []
        for at, (what, _) in enumerate(segments):
            if what == "literal":
                key.append((LITERAL, 0))
            elif what == "regex":
                key.append((REGEX, self.turns[self.place(host, segments, at)]))
            else:
                key.append((PARAM, 0))
        if kind == "prefix":
            key.append((REST, 0))
        elif other_slash and segments[-1] == ("literal", b""):
            key.pop()
        elif other_slash:
            key.append((LITERAL, 0))
        return tuple(key)

    def key(self, route: Route, host: str, other_slash: bool = False) -> Key:
        """Of a route under one of its hosts. `other_slash`: its path has the other trailing slash, which comes after
        routes that have that path themselves. Keys of routes that fit one request can be compared.
        """
        return (host_rank(host), self.path_key(route, host, other_slash), other_slash, -specificity(route), route.index)

    def listed(self, route: Route) -> Key:
        """For a list of all routes: by the most exact host, and paths that look alike together."""
        host = min(route.host or ("",), key=host_rank)
        pattern = route.pattern
        assert pattern is not None
        return (host_rank(host), self.path_key(route, host), pattern.literal, -specificity(route), route.index)
