"""Memory that all processes of one gateway share: counters, buckets of rate limits, the state of endpoints, the cache.

It belongs to the supervisor and is inherited by fork, so it outlives any worker. What is worth it outlives the
supervisor too: a binary upgrade hands on the segments, which are memory files, to the one that takes over.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from fastgw._core.bans import BanTable
from fastgw._core.breaker import CircuitTable
from fastgw._core.bucket import BucketTable
from fastgw._core.cache_store import Storage
from fastgw._core.health import HealthTable
from fastgw._core.holds import HoldTable
from fastgw._core.limit_counts import LimitCounts
from fastgw._core.record import Stats
from fastgw._core.trial import TrialCounts
from fastgw._core.usage import UsageTable
from fastgw.config.schema.cache import Cache
from fastgw.store.disk.shared import SharedDisk, seed_for

BUCKETS = 1_048_576
"""Keys of rate limits a host keeps at a time; the memory is taken when it is used."""
SERVICES = 1024
ENDPOINTS = 32_768
"""Endpoints of services with health checks or outliers whose state a host keeps; likewise."""
KEYS = 65_536
"""API keys whose uses a host counts one by one; those beyond are counted together."""
HELD = 65_536
"""Keys of `concurrency` limits that have requests under way at a time; likewise."""
BANS = 32_768
"""Addresses a host keeps out at a time; likewise."""
BUCKETS_LAYOUT = "3"
BANS_LAYOUT = "1"
HEALTH_LAYOUT = "1"
USAGE_LAYOUT = "1"
COUNTS_LAYOUT = "1"
CIRCUITS_LAYOUT = "1"
CACHE_LAYOUT = "3"
"""Change the word with the meaning of a byte, in the module of `_core` with the table. The size stands beside it."""
CIRCUITS = 32_768
"""Circuit breakers, of endpoints, routes and services; likewise."""


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

    def others(self, before: Slots) -> list[int]:
        """The slots that have another name than before."""
        return [slot for name, slot in self.names.items() if before.names.get(name) != slot]

    def __call__(self, name: str) -> int:
        return self.names.get(name, 0)

    def by_slot(self) -> dict[int, str]:
        return {slot: name for name, slot in self.names.items()}


@dataclass(slots=True, eq=False)
class Segment:
    """A piece of the memory, in a memory file (memfd) of its own.

    layout  what it is and how its bytes are meant: one that knows the same layout may go on with it
    fd      belongs to the segment
    fresh   nobody has written to it yet
    """

    layout: str
    fd: int
    memory: mmap.mmap
    fresh: bool

    @classmethod
    def take(cls, name: str, layout: str, size: int, handed: dict[str, int]) -> Segment:
        """That of the gateway before, when it has the same layout and size; else a new one, of zeros.

        `handed`: layout with size → descriptor. One that is taken is removed from it, and is the segment's."""
        word = f"{name}/{layout}/{size}"
        fd = handed.pop(word, -1)
        if fd >= 0 and os.fstat(fd).st_size == size:
            return cls(word, fd, mmap.mmap(fd, size), fresh=False)
        if fd >= 0:
            os.close(fd)
        fd = os.memfd_create(f"fastgw-{name}", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        return cls(word, fd, mmap.mmap(fd, size), fresh=True)

    def __del__(self) -> None:
        os.close(self.fd)                            # the mapping stays for as long as a table is over it


class SharedMemory:
    """One block of counters per worker; a table of buckets, of endpoints, of uses of API keys, of banned addresses, of
    circuit breakers, of requests under way, of what became of requests at limits; and the storage of the cache, whose
    file is sparse: a cache that nobody uses takes no memory.

    `handed` are segments of a gateway that this one takes over from: what is not known here, by its layout, begins
    empty, and what is left over is in `unknown`. Counters begin at zero, as after a start: the workers before still
    count in theirs.
    """

    def __init__(self, workers: int, max_label_values: int, handed: Mapping[str, int] | None = None,
                 cache: Cache | None = None) -> None:  # fmt: skip
        self.route_slots = Slots(max_label_values)
        self.service_slots = Slots(SERVICES)
        routes, services = max_label_values + 1, SERVICES + 1
        size = Stats.size(routes, services)
        self.stats = [Stats(mmap.mmap(-1, size), routes, services) for _ in range(max(workers, 1))]
        self.trials = [TrialCounts(mmap.mmap(-1, TrialCounts.size())) for _ in self.stats]
        left = dict(handed or {})
        buckets = Segment.take("buckets", BUCKETS_LAYOUT, BucketTable.size(BUCKETS), left)
        health = Segment.take("health", HEALTH_LAYOUT, HealthTable.size(ENDPOINTS), left)
        usage = Segment.take("usage", USAGE_LAYOUT, UsageTable.size(KEYS), left)
        bans = Segment.take("bans", BANS_LAYOUT, BanTable.size(BANS), left)
        circuits = Segment.take("circuits", CIRCUITS_LAYOUT, CircuitTable.size(CIRCUITS), left)
        cached = cache if cache is not None else Cache()
        size = Storage.size(cached.memory, cached.entries)
        answers = Segment.take("cache", CACHE_LAYOUT, size, left)
        counts = Segment.take("limits", COUNTS_LAYOUT, LimitCounts.size(), left)
        self.segments = [buckets, health, usage, bans, circuits, answers, counts]
        self.unknown = list(left)
        self.empty = [segment.layout for segment in self.segments if segment.fresh]
        for fd in left.values():
            os.close(fd)
        if buckets.fresh:
            BucketTable.format(buckets.memory)
        self.buckets = BucketTable(buckets.memory)
        self.health = HealthTable(health.memory)
        self.usage = UsageTable(usage.memory)
        self.bans = BanTable(bans.memory)
        self.circuits = CircuitTable(circuits.memory)
        if answers.fresh:
            Storage.format(answers.memory, cached.memory, cached.entries, seed_for(cached.disk))
        self.cache = Storage(answers.memory)
        if cached.disk is not None:
            self.cache.disk = SharedDisk.behind(self.cache, cached.disk)
        self.limit_counts = LimitCounts(counts.memory)
        # what is under way at the gateway before ends with it
        held = mmap.mmap(-1, HoldTable.size(HELD, len(self.stats)))
        HoldTable.format(held, HELD, len(self.stats))
        self.holds = [HoldTable(held, slot) for slot in range(len(self.stats))]

    def of_worker(self, slot: int) -> dict[str, Any]:
        """What the worker is born with; see start.WorkerStart."""
        return {
            "stats": self.stats[slot],
            "trial": self.trials[slot],
            "buckets": self.buckets,
            "health": self.health,
            "usage": self.usage,
            "bans": self.bans,
            "circuits": self.circuits,
            "cache": self.cache,
            "holds": self.holds[slot],
            "limit_counts": self.limit_counts,
        }

    def hand_on(self) -> dict[str, int]:
        """Layout → descriptor, for the gateway that takes over."""
        return {segment.layout: segment.fd for segment in self.segments}

    def adopt(self, route_slots: Slots, service_slots: Slots) -> None:
        """Of the generation that is about to serve, before it does. What is new in it begins at zero, also where a
        generation that was only tried has counted."""
        for stats in self.stats:
            for slot in route_slots.others(self.route_slots):
                stats.reset_route(slot)
            for slot in service_slots.others(self.service_slots):
                stats.reset_service(slot)
        self.route_slots, self.service_slots = route_slots, service_slots
