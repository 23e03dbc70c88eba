"""`memory`: requests are refused before the machine runs out of memory."""

from __future__ import annotations

import math

from fastgw._core.bans import MemoryHook
from fastgw._core.exchange import Hook
from fastgw.config.fields import Duration, Ratio, Size
from fastgw.config.schema.base import Room, key
from fastgw.policies._memory import Memory
from fastgw.policies._report import Report
from fastgw.policies.base import BuildContext, Policy

LOOK_NS = 250_000_000
BACK = 0.95
"""Requests come in again when so much of the limit is used, that it does not go to and fro."""


class MemoryOptions(Room):
    """From when on."""

    limit: Ratio = key(
        0.9,
        "The share that may be used of the memory there is: the cgroup's limit, or the machine's memory, whichever is "
        "closer.",
        example="90%",
    )
    worker: Size | None = key(None, "How much one worker may have.", ge=1024 * 1024, example="1GiB")
    retry_after: Duration = key(5.0, "What clients are told.", ge=1, le=3600)


class MemoryGuard(Policy):
    """While memory is short, new requests get 503 `short_of_memory` with `Retry-After`; those under way come to their
    end.

    It is looked at four times a second at most, when requests come. Requests come in again when less than 95 % of the
    limit is used. Order: first. Failure: open; what cannot be read counts as enough.
    """

    name = "memory"
    Options = MemoryOptions
    options: MemoryOptions

    def __init__(self, options: MemoryOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.memory = Memory()

    def hook(self) -> Hook:
        gauge = Gauge(self.memory, self.options.limit, self.options.worker)
        report = Report("memory", "refused, memory is short")
        return MemoryHook(gauge, LOOK_NS, math.ceil(self.options.retry_after), report)


class Gauge:
    """Called: is there too little now?"""

    def __init__(self, memory: Memory, limit: float, worker: int | None) -> None:
        self.memory = memory
        self.limit = limit
        self.worker = worker
        self.short = False

    def __call__(self) -> bool:
        margin = BACK if self.short else 1.0
        short = self.memory.used() >= self.limit * margin
        if not short and self.worker is not None:
            short = self.memory.resident() >= self.worker * margin
        self.short = short
        return short
