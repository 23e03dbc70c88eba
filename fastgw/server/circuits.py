"""Circuit breakers of a host, for those who look after it: what there are, how they are, and commands to them.

Workers open and close them, in the shared table (`_core/breaker.pyx`); nothing here is needed for that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fastgw._core.breaker import CircuitTable
from fastgw._core.health import HealthTable
from fastgw.config import Config
from fastgw.config.schema.address import Origin
from fastgw.config.schema.breaker import RouteBreaker
from fastgw.config.schema.services import Service
from fastgw.plan.resilience import RouteCircuits

logger = logging.getLogger("fastgw.circuits")

COMMANDS = {"reset": "reset", "open": "force_open", "close": "force_closed", "auto": "auto"}
"""The word of the admin API → the event in the table of moves."""
NO_SERVICE = "-"
"""In the place of a service: the circuit breakers that routes have of their own."""
NANO = 1_000_000_000
REASONS = {
    "failures": "too many failures in a row",
    "error_rate": "too large a share of failures",
    "slow_calls": "too many slow answers",
    "probe": "a probe failed",
    "forced": "somebody opened it",
}


@dataclass(slots=True)
class CircuitState:
    """One circuit breaker: `name` is the route's, the endpoint's URL, or empty. Durations are seconds; `next_probe` is
    None where none will be let in by itself, or may be at once."""

    scope: str
    service: str
    name: str
    state: str
    since: float | None
    reason: str
    next_probe: float | None
    facts: dict[str, Any]

    @property
    def open(self) -> bool:
        return self.state in ("open", "forced_open")

    def view(self) -> dict[str, Any]:
        view: dict[str, Any] = {"service": self.service or NO_SERVICE, "scope": self.scope}
        if self.name:
            view[self.scope] = self.name
        view |= {"state": self.state, "since": None if self.since is None else round(self.since, 3)}
        if self.state not in ("closed", "forced_closed") and self.reason:
            view["reason"] = REASONS[self.reason]
        if self.next_probe is not None:
            view["next_probe"] = round(self.next_probe, 3)
        return view | self.facts


class Circuits:
    """`endpoints(name, service)` are those of a service as they are now."""

    def __init__(
        self, table: CircuitTable, health: HealthTable, endpoints: Callable[[str, Service], Iterator[Origin]]
    ) -> None:
        self.table = table
        self.health = health
        self.endpoints = endpoints
        self.services: dict[str, Service] = {}
        self.routes: RouteCircuits = ()

    def follow(self, config: Config, routes: RouteCircuits) -> None:
        self.services = {name: one for name, one in config.services.items() if one.circuit_breaker is not None}
        self.routes = routes
        full = sum(self.table.place(*key) < 0 for key, _ in self.all())
        if full:
            logger.error("there is no room for %d circuit breakers: what they are for is refused", full)

    def all(self) -> Iterator[tuple[tuple[str, str, str], RouteBreaker]]:
        """Keys (scope, service, name) and what they go by."""
        for name, service in self.services.items():
            given = service.circuit_breaker
            if given is None or given.scope == "route":
                continue
            if given.scope == "service":
                yield ("service", name, ""), given
            else:
                for origin in self.endpoints(name, service):
                    yield ("endpoint", name, str(origin)), given
        for service_name, route, rules in self.routes:
            yield ("route", service_name, route), rules

    def touch(self) -> None:
        """Says that they are used: what nobody uses may become somebody else's."""
        for key, _ in self.all():
            self.table.place(*key)

    def states(self) -> list[CircuitState]:
        now = time.monotonic_ns()
        found = []
        for key, rules in self.all():
            place = self.table.place(*key)
            if place < 0:
                continue
            seen = self.table.read(place, int(rules.window * NANO), now)
            waits = seen["state"] == "open" or (
                seen["state"] == "half_open" and seen["probes"] >= rules.half_open_requests
            )
            since = (now - seen["since"]) / NANO if seen["since"] else None
            facts = {name: seen[name] for name in ("failures_in_a_row", "requests", "failed", "slow", "refused")}
            if seen["state"] == "half_open":
                facts |= {"probes": seen["probes"], "probes_well": seen["probes_well"]}
            found.append(
                CircuitState(
                    *key, seen["state"], since, seen["reason"],
                    max(0.0, (seen["until"] - now) / NANO) if waits else None,
                    facts | {"transitions": seen["transitions"]},
                )
            )  # fmt: skip
        return found

    def command(self, service: str, word: str, route: str | None, endpoint: str | None) -> list[CircuitState]:
        """To those of a service (NO_SERVICE: of routes), or to that of one route or endpoint; how they are then."""
        service = "" if service == NO_SERVICE else service
        wanted = {
            key
            for key, _ in self.all()
            if key[1] == service
            and (route is None or (key[0], key[2]) == ("route", route))
            and (endpoint is None or (key[0], key[2]) == ("endpoint", endpoint))
        }
        for key in sorted(wanted):
            place = self.table.place(*key)
            if place >= 0 and self.table.command(place, COMMANDS[word]):
                logger.warning("circuit breaker of %s: %s by command", " ".join(filter(None, key)), word)
        if service:
            self.health.changed(service)
        return [state for state in self.states() if (state.scope, state.service, state.name) in wanted]
