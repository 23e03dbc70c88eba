"""The room `cache`: the memory in which all workers of a host keep answers, for policies `cache`."""

from __future__ import annotations

import os
import stat
from typing import Literal

from pydantic import model_validator

from fastgw._core.cache_store import Storage
from fastgw.config.fields import Duration, Size, shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.tls import FilePath

MIB = 1024 * 1024


class Disk(Room):
    """A level behind the memory, on disk: what was stored lately, over restarts."""

    path: FilePath = key(
        doc="A directory of its own, of the gateway's user alone; made where it is missing. Answers lie there as is.",
        example="/var/cache/fastgw",
    )
    size: Size = key(
        10 * 1024 * MIB,
        "Bytes of its files at most; what was written first goes first. Each answer takes some 160 bytes of memory "
        "besides.",
        ge=16 * MIB,
        le=64 * 1024 * 1024 * MIB,
        example="10GiB",
    )
    timeout: Duration = key(
        0.1, "So long a request waits for the disk; then the service is asked.", gt=0, le=60, example="100ms"
    )
    reads: int = key(
        64, "Look-ups of one worker that may wait for the disk at a time; others go to the service.", ge=1, le=10_000
    )

    personal: bool = key(
        False, "Answers that are kept for one caller by himself (`per_identity` of the policy) are written too."
    )

    @model_validator(mode="after")
    def _usable(self) -> Disk:
        """What is wrong wherever it is checked. Whose directory it is shows when the gateway begins to use it."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            parent = os.path.dirname(self.path.rstrip("/")) or "/"
            if os.path.isdir(parent):
                return self
            raise wrong("file_unreadable", f"there is no directory {shown(parent)}", "make it first") from None
        except OSError as error:
            what = f"{shown(self.path)} cannot be looked at: {error.strerror}"
            raise wrong("file_unreadable", what, "a directory of the gateway's user") from None
        if not stat.S_ISDIR(found.st_mode):
            raise wrong("bad_value", f"{shown(self.path)} is no directory", "a directory of its own")
        if found.st_mode & 0o022:
            raise wrong("bad_value", f"others may write to {shown(self.path)}", "chmod 700")
        return self


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

    disk: Disk | None = key(
        None, "A level behind the memory, on disk.", example={"path": "/var/cache/fastgw", "size": "10GiB"}
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
