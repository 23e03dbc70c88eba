"""The room `cache`: the memory in which all workers of a host keep answers, for policies `cache`."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from fastgw._core.cache_store import Storage
from fastgw.config.fields import Size, wrong
from fastgw.config.schema.base import Room, key

MIB = 1024 * 1024


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
        "`redis`: purges of the admin API hold for all hosts that share `stores.redis`, also for one that was away.",
        example="redis",
    )

    @model_validator(mode="after")
    def _fits(self) -> Cache:
        try:
            Storage.size(self.memory, self.entries)
        except ValueError as error:
            raise wrong("conflict", str(error), "more `memory`, or fewer `entries`") from None
        return self
