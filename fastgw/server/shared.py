"""Memory that all processes of one gateway share: counters, and the buckets of rate limits.

It belongs to the supervisor and is inherited by fork, so it outlives any worker.
"""

from __future__ import annotations

import mmap

from fastgw._core.bucket import BucketTable
from fastgw._core.record import Stats

BUCKETS = 262_144
"""Keys of rate limits a host keeps at a time; the memory is taken when it is used."""
SERVICES = 1024


class Slots:
    """Names → slots, stable over plans; 0 is `other`, which takes what comes beyond `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.names: dict[str, int] = {}

    def __call__(self, name: str) -> int:
        slot = self.names.get(name)
        if slot is None:
            if len(self.names) >= self.limit:
                return 0
            slot = self.names[name] = len(self.names) + 1
        return slot

    def by_slot(self) -> dict[int, str]:
        return {slot: name for name, slot in self.names.items()}


class SharedMemory:
    """One block of counters per worker, one table of buckets."""

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
