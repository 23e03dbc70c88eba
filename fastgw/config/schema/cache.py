"""The room `cache`: the memory in which all workers of a host keep answers, for policies `cache`."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from fastgw._core.cache_store import Storage
from fastgw.config.fields import Duration, Size, wrong
from fastgw.config.schema.base import Room, key

MIB = 1024 * 1024


class SecondLevel(Room):
    """Answers in Redis, for all hosts that share it: what one host fetched the others find."""

    store: Literal["redis"] = key(doc="Where: `stores.redis`, over connections of its own.", example="redis")
    max_answer: Size = key(MIB, "Larger bodies are not kept there.", ge=0, le=64 * MIB, example="1MiB")
    lease: Duration = key(
        10.0,
        "Of several hosts one fetches what none of them has; the others wait for it, at most so long (should it die), "
        "and no longer than `wait` of the policy. 0: each host fetches for itself.",
        ge=0,
        le=600,
    )


class Cache(Room):
    """The memory of the cache: one for all workers, taken as it is used, kept over reloads and binary upgrades."""

    memory: Size = key(
        256 * MIB,
        "Bytes for answers and their index, together. When they are used up, what is used least goes.",
        ge=4 * MIB,
        le=1024 * 1024 * MIB,
    )
    entries: int | None = key(
        None,
        "Answers at most, each of which takes some 250 bytes of the `memory` for the index; by default one for each "
        "2 KiB of it.",
        ge=64,
        le=100_000_000,
        example=131072,
    )

    purges: Literal["redis"] | None = key(
        None,
        "`redis`: purges hold for all hosts that share `stores.redis`, also for one that was away: those of the admin "
        "API, of the method PURGE, and of unsafe methods.",
        example="redis",
    )
    second_level: SecondLevel | None = key(
        None, "Behind the memory of each host, one level of answers in Redis for all of them. Needs `purges: redis`."
    )

    @model_validator(mode="after")
    def _fits(self) -> Cache:
        try:
            Storage.size(self.memory, self.entries)
        except ValueError as error:
            raise wrong("conflict", str(error), "more `memory`, or fewer `entries`") from None
        if self.second_level is not None and self.purges is None:
            raise wrong("conflict", "`second_level` would bring back what another host purged", "`purges: redis`")
        return self
