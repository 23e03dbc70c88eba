"""Routes that nobody asks for, and routes whose service has had no endpoint: which lines of the file could go.

Counters of routes are looked at now and then; what is remembered is when each was last seen to move. It is as old as
the process that looks: `observed` tells how long that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from fastgw._core.record import Stats
from fastgw.config import Config

LOOK_SECONDS = 30.0


class Slots(Protocol):
    def __call__(self, name: str) -> int: ...
    def by_slot(self) -> dict[int, str]: ...


class StaleWatch:
    """`look` every LOOK_SECONDS; `report` any time. `now` is seconds of a clock that does not jump."""

    def __init__(self, now: float) -> None:
        self.begun = now
        self.counts: dict[str, int] = {}
        self.moved: dict[str, float] = {}
        self.since: dict[str, float] = {}
        self.empty: dict[str, float] = {}

    def look(self, stats: Sequence[Stats], slots: Slots, empty: Iterable[str], now: float) -> None:
        """`empty` are the services that have no endpoint with an address now."""
        names = slots.by_slot()
        new = now if self.counts else self.begun
        for slot, name in names.items():
            blocks = [block for one in stats if slot < one.slots and (block := one.read_route(slot))]
            count = sum(sum(block[0]) for block in blocks)
            before = self.counts.get(name)
            self.since.setdefault(name, new)
            if count != before and (before is not None or count):
                self.moved[name] = now
            self.counts[name] = count
        for gone in self.counts.keys() - set(names.values()):
            for table in (self.counts, self.moved, self.since):
                table.pop(gone, None)
        self.empty = {name: self.empty.get(name, now) for name in empty}

    def report(self, config: Config, slots: Slots, now: float) -> list[dict[str, Any]]:
        """A row for each route, the most stale first. `idle` and `no_endpoint` are seconds; `idle` is None for a route
        that is counted with others, beyond `max_label_values`."""
        rows = []
        for route in config.routes:
            name = str(route.name)
            services = [route.service] if route.service else [share.service for share in route.split]
            dates = [self.empty.get(service) for service in services]
            without = [now - date for date in dates if date is not None]
            idle = None
            if slots(name):
                idle = now - self.moved.get(name, self.since.get(name, self.begun))
            rows.append(
                {
                    "route": name,
                    "line": route.line,
                    "services": services,
                    "idle": None if idle is None else round(max(0.0, idle), 1),
                    "asked": name in self.moved,
                    "no_endpoint": round(min(without), 1) if without and len(without) == len(dates) else None,
                }
            )
        return sorted(rows, key=lambda row: -max(row["idle"] or 0.0, row["no_endpoint"] or 0.0))


def empty_services(views: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of /services: those without an endpoint that has an address."""
    return [view["name"] for view in views if not any(endpoint["addresses"] for endpoint in view["endpoints"])]
