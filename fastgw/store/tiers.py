"""Slower levels of the cache behind the memory of a host: asked before the service, and told of what was stored.

    tiers.seek(name, key, asked, told)      the leader of a flight asks: told(b"redis") when that level had it
    tiers.stored(name, version, …)          an answer is in the memory: each level gets it from a queue of its own
    tiers.closed(key)                       the flight is over

One of these stands in each worker. Nothing a level does, or does not do, can fail a request: what raises, or says
nothing in time, has nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from fastgw._core.cache_access import Access, Hit
from fastgw._core.cache_store import Storage
from fastgw.config.schema.cache import Cache
from fastgw.config.schema.stores import Stores
from fastgw.store.disk.reader import DiskReader
from fastgw.store.disk.shared import SharedDisk

logger = logging.getLogger("fastgw.cache")

MAX_QUEUE = 1000
"""Answers of one worker that wait for one level; more are not handed over."""
AT_ONCE = 8

Found = Callable[[bool | None], None]
"""True: it is in the memory now. False: there is none. None: that could not be found out."""


class Kept(NamedTuple):
    """What a level is told of an answer in the memory.

    version   of the answer; 0: whatever is there
    asked     monotonic, ns: when the service was asked
    tags      None: it was found valid (304): head and times are new, body and tags as before
    key       of the flight that it ends, None for none
    """

    name: bytes
    version: int
    asked: int
    tags: tuple[bytes, ...] | None
    key: bytes | None


class Tier:
    """One level. `level`: its word in Cache-Status, metrics and logs. `seconds`: so long may a look-up take, None where
    it sees to that by itself. `keeps`: False where it learns by other means of what is stored."""

    level = ""
    seconds: float | None = 0.02
    keeps = True

    def seek(self, name: bytes, key: bytes, asked: int, told: Found) -> bool:
        """In the loop's thread, without blocking. False: it has nothing, and tells nobody. True: `told` will be called
        once, later; with True when the answer has been put into the memory under this very name. `asked`: monotonic
        ns, when this was asked for."""
        raise NotImplementedError

    async def keep(self, kept: Kept, hit: Hit) -> int:
        """Takes an answer, which stays readable meanwhile. How many bytes it wrote, 0 where it did not want it."""
        raise NotImplementedError

    def coming(self, kept: Kept) -> None:
        """It was stored, and waits to be handed over. `over` follows, whatever becomes of it."""

    def over(self, kept: Kept) -> None:
        """It was handed over, or left out."""

    def closed(self, key: bytes, refused: bool) -> None:
        """A flight is over in which it was asked. Comes after `coming`, and may come before `keep`. `refused`: what
        came is not kept, or nothing came."""

    def state(self) -> dict[str, Any]:
        """More that is worth knowing, for the admin view."""
        return {}

    def close(self) -> None:
        """Nobody uses it any more."""


class Level:
    """A tier, what is counted of it, and what waits for it."""

    def __init__(self, access: Access, tier: Tier) -> None:
        self.access = access
        self.tier = tier
        self.word = tier.level.encode()
        self.hits = self.misses = self.errors = self.late = 0
        self.kept = self.dropped = self.written = 0
        self.queue: deque[tuple[Kept, ...]] = deque()
        self.task: asyncio.Task[None] | None = None
        self.failing = False

    def failed(self, what: str, error: Exception) -> None:
        self.errors += 1
        if not self.failing:
            logger.warning("the level %s of the cache: %s failed: %s", self.tier.level, what, type(error).__name__)
        self.failing = True

    def give(self, *together: Kept) -> None:
        """They are taken in this order."""
        loop = asyncio.get_running_loop()
        if len(self.queue) >= MAX_QUEUE:
            self.dropped += 1
            return
        for kept in together:
            self.tier.coming(kept)
        self.queue.append(together)
        if self.task is None:
            self.task = loop.create_task(self.drain())

    async def drain(self) -> None:
        try:
            while self.queue:
                batch = [self.queue.popleft() for _ in range(min(len(self.queue), AT_ONCE))]
                await asyncio.gather(*(self.take(*together) for together in batch))
        finally:
            self.task = None

    async def take(self, *together: Kept) -> None:
        for kept in together:
            await self.take_one(kept)

    async def take_one(self, kept: Kept) -> None:
        hit = self.access.peek(kept.name)
        try:
            if hit is not None and kept.version in (0, hit.version):
                written = await self.tier.keep(kept, hit)
                self.written += written
                self.kept += written > 0
                self.failing = False
        except Exception as error:
            self.failed("storing", error)
        finally:
            if hit is not None:
                hit.release()
            self.tier.over(kept)

    def row(self) -> dict[str, Any]:
        return {
            "level": self.tier.level, "hits": self.hits, "misses": self.misses, "errors": self.errors,
            "late": self.late, "kept": self.kept, "dropped": self.dropped, "written_bytes": self.written,
            "waiting": len(self.queue), **self.tier.state(),
        }  # fmt: skip


class Search:
    """One look-up, from level to level."""

    __slots__ = ("asked", "at", "key", "levels", "name", "timer", "told")

    def __init__(
        self, levels: Sequence[Level], name: bytes, key: bytes, asked: int, told: Callable[[bytes | None], None]
    ) -> None:
        self.levels = levels
        self.name = name
        self.key = key
        self.asked = asked
        self.told = told
        self.at = 0
        self.timer: asyncio.TimerHandle | None = None

    def go(self) -> bool:
        """False: no level that is left has anything to say."""
        while self.at < len(self.levels):
            level, turn = self.levels[self.at], self.at
            try:
                if level.tier.seek(self.name, self.key, self.asked, partial(self.answered, turn)):
                    if level.tier.seconds is not None:
                        self.timer = asyncio.get_running_loop().call_later(level.tier.seconds, self.overdue, turn)
                    return True
                level.misses += 1
            except Exception as error:
                level.failed("looking", error)
            self.at += 1
        return False

    def answered(self, turn: int, found: bool | None) -> None:
        if turn != self.at:
            return                                   # it was given up
        if self.timer is not None:
            self.timer.cancel()
        level = self.levels[turn]
        if found:
            level.hits += 1
            self.at = len(self.levels)
            self.told(level.word)
            return
        if found is None:
            level.errors += 1
        else:
            level.misses += 1
        self.next()

    def overdue(self, turn: int) -> None:
        if turn == self.at:
            self.levels[turn].late += 1
            self.next()

    def next(self) -> None:
        self.at += 1
        if not self.go():
            self.told(None)


class DiskTier(Tier):
    """The level on disk. What is stored its writer learns from the memory itself; see fastgw.store.disk."""

    level = "disk"
    keeps = False

    def __init__(self, storage: Storage) -> None:
        disk: SharedDisk = storage.disk
        self.seconds = disk.options.timeout
        self.reader = DiskReader(storage, disk.index, disk.options.path, disk.seed, disk.options.reads)

    def seek(self, name: bytes, key: bytes, asked: int, told: Found) -> bool:
        return self.reader.seek(name, told)

    def close(self) -> None:
        self.reader.close()


class Tiers:
    """The levels behind one memory, fastest first."""

    def __init__(self, access: Access, tiers: Sequence[Tier]) -> None:
        self.levels = [Level(access, tier) for tier in tiers]
        self.keeping = [level for level in self.levels if level.tier.keeps]

    def __del__(self) -> None:
        for level in getattr(self, "levels", ()):
            level.tier.close()

    def seek(self, name: bytes, key: bytes, asked: int, told: Callable[[bytes | None], None]) -> bool:
        """`told(word)` is called once, later, unless this is False: then there is nothing."""
        return Search(self.levels, name, key, asked, told).go()

    def stored(self, name: bytes, version: int, asked: int, tags: tuple[bytes, ...] | None, key: bytes | None,
               marker: bytes | None) -> None:  # fmt: skip
        """`marker`: where the memory says by what the variants of this one are told apart; that follows it."""
        try:
            for level in self.keeping:
                if marker is None:
                    level.give(Kept(name, version, asked, tags, key))
                else:
                    level.give(Kept(name, version, asked, tags, None), Kept(marker, 0, asked, (), key))
        except RuntimeError:                         # a trial, where no loop runs
            return

    def closed(self, key: bytes, refused: bool) -> None:
        for level in self.levels:
            level.tier.closed(key, refused)

    def rows(self) -> list[dict[str, Any]]:
        """For metrics and the admin view: one of each level."""
        return [level.row() for level in self.levels]


def open_tiers(storage: Storage, cache: Cache, stores: Stores) -> Tiers | None:
    """Those that the room `cache` names; None when it names none."""
    tiers: list[Tier] = []
    if storage.disk is not None:
        tiers.append(DiskTier(storage))
    if cache.second_level is not None and stores.redis is not None:
        from fastgw.store.redis import RedisStore
        from fastgw.store.second_level import RedisTier

        # its own connections: large answers must not stand in the way of small decisions
        tiers.append(RedisTier(cache.second_level, RedisStore(stores.redis), Access(storage)))
    return Tiers(Access(storage), tiers) if tiers else None
