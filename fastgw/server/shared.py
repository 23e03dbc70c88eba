"""Memory that all processes of one gateway share: counters, the buckets of rate limits, and the state of endpoints.

It belongs to the supervisor and is inherited by fork, so it outlives any worker.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection

from fastgw._core.bucket import BucketTable
from fastgw._core.health import HealthTable
from fastgw._core.record import Stats

BUCKETS = 262_144
"""Keys of rate limits a host keeps at a time; the memory is taken when it is used."""
SERVICES = 1024
ENDPOINTS = 32_768
"""Endpoints of services with health checks or outliers whose state a host keeps; likewise."""


class Slots:
    """Names → slots, stable over generations; 0 is `other`, which takes what comes beyond `limit`.

    When all are taken, a new name gets the slot of the one that was removed first, if that was in an earlier
    generation: no request that begins now counts there any more. Until then a removed name keeps its slot, and finds
    its counters again when it comes back.

    removed  name → the first generation without it
    reused   slots that have a new name in this generation: their counters must begin at zero
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.names: dict[str, int] = {}
        self.removed: dict[str, int] = {}
        self.reused: list[int] = []

    def next(self, generation: int, wanted: Collection[str]) -> Slots:
        """Those of a generation that has these names and is not in force yet; this one stays as it is."""
        new = Slots(self.limit)
        new.names = dict(self.names)
        gone = {name: self.removed.get(name, generation) for name in self.names if name not in wanted}
        new.removed = dict(sorted(gone.items(), key=lambda item: item[1]))
        for name in wanted:
            new.take(name, generation)
        return new

    def again(self, generation: int) -> Slots:
        """Those of a generation with the same names: none is reused."""
        return self.next(generation, self.names.keys() - self.removed.keys())

    def take(self, name: str, generation: int) -> None:
        if name in self.names:
            return
        slot = len(self.names) + 1
        if slot > self.limit:
            first = next(iter(self.removed), None)
            if first is None or self.removed[first] >= generation:
                return
            del self.removed[first]
            slot = self.names.pop(first)
            self.reused.append(slot)
        self.names[name] = slot

    def __call__(self, name: str) -> int:
        return self.names.get(name, 0)

    def by_slot(self) -> dict[int, str]:
        return {slot: name for name, slot in self.names.items()}


class SharedMemory:
    """One block of counters per worker, one table of buckets, one of endpoints."""

    def __init__(self, workers: int, max_label_values: int) -> None:
        self.route_slots = Slots(max_label_values)
        self.service_slots = Slots(SERVICES)
        routes, services = max_label_values + 1, SERVICES + 1
        size = Stats.size(routes, services)
        self.stats = [Stats(mmap.mmap(-1, size), routes, services) for _ in range(max(workers, 1))]
        size = BucketTable.size(BUCKETS)
        buckets = mmap.mmap(-1, size)
        BucketTable.format(buckets)
        self.buckets = BucketTable(buckets)
        self.health = HealthTable(mmap.mmap(-1, HealthTable.size(ENDPOINTS)))

    def adopt(self, route_slots: Slots, service_slots: Slots) -> None:
        """Of the generation that is about to serve, before it does."""
        for stats in self.stats:
            for slot in route_slots.reused:
                stats.reset_route(slot)
            for slot in service_slots.reused:
                stats.reset_service(slot)
        self.route_slots, self.service_slots = route_slots, service_slots
