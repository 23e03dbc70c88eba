"""A memory of the cache, a disk behind it, and what a worker has of both; in one process, without its threads."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

from fastgw._core.cache_access import Access
from fastgw._core.cache_disk import DiskIndex
from fastgw._core.cache_feed import Feed
from fastgw._core.cache_store import Storage
from fastgw.store.disk.reader import DiskReader
from fastgw.store.disk.spill import Spill

MIB = 1024 * 1024
SECOND = 1_000_000_000
SEED = bytes(range(16))


class World:
    """`turn()` is what the writer does by itself; `get(name)` what a worker does that misses the memory."""

    def __init__(self, path: Path, size: int = 64 * MIB, memory: int = 8 * MIB, slots: int = 4096) -> None:
        self.path, self.size, self.memory, self.slots = str(path), size, memory, slots
        self.born()

    def born(self) -> None:
        buffer = mmap.mmap(-1, Storage.size(self.memory))
        Storage.format(buffer, self.memory, None, SEED)
        self.storage = Storage(buffer)
        self.storage.attach()
        self.access = Access(self.storage)
        self.feed = Feed(self.storage)
        self.index = DiskIndex(mmap.mmap(-1, DiskIndex.size(self.slots)), self.slots, SEED)
        self.spill = Spill(self.feed, self.index, self.path, self.size)
        self.feed.follow()
        self.reader = DiskReader(self.storage, self.index, self.path, SEED)
        self.spill.live()

    def restart(self) -> None:
        """Another gateway on the same directory, with nothing in its memory."""
        self.spill.log.close()
        self.born()

    def put(self, name: str, body: bytes, tags: tuple[str, ...] = (), head: bytes = b"h") -> None:
        now = time.time_ns()
        times = (now, now + 3600 * SECOND, now + 4200 * SECOND)
        meta = bytes([1, 1]) + name.encode()[:8]
        assert self.access.put(name.encode(), body, head=head, meta=meta, tags=[tag.encode() for tag in tags],
                               times=times) == "ok"  # fmt: skip

    def turn(self) -> None:
        while self.spill.turn():
            pass

    def forget_memory(self) -> None:
        """Everything in the memory is evicted, as it were: nothing of it is said to anybody."""
        assert self.feed.waiting == (0, 0)
        _, count, _, _ = self.feed.purges()
        buffer = mmap.mmap(-1, Storage.size(self.memory))
        Storage.format(buffer, self.memory, None, SEED)
        self.storage = Storage(buffer)
        self.storage.attach()
        self.access, self.feed = Access(self.storage), Feed(self.storage)
        self.feed.follow()
        self.spill.feed = self.feed
        for number in range(count):                  # as many as the index knows of
            self.access.purge_tag(b"nothing has this one")
            if number % 4096 == 0:
                self.spill.catch_up()
        self.spill.catch_up()
        self.reader = DiskReader(self.storage, self.index, self.path, SEED)

    def get(self, name: str) -> bytes | None:
        """From the memory, else from the disk by way of the memory."""
        hit = self.access.get(name.encode())
        if hit is None:
            key = self.reader.recall.key(name.encode())
            place = self.index.look(key)
            if place is None or place[4] in self.reader.bad or not self.reader.bring(name.encode(), key, place, None):
                return None
            hit = self.access.get(name.encode())
        return None if hit is None else hit.read()

    def fresh(self, name: str) -> bool:
        hit = self.access.get(name.encode())
        assert hit is not None
        return hit.times[1] > time.time_ns()
