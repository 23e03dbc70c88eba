"""What the processes of a host have of the cache's level on disk."""

from __future__ import annotations

import asyncio
import mmap
from dataclasses import dataclass
from typing import Any

from fastgw._core.cache_access import Access
from fastgw._core.cache_disk import DiskIndex
from fastgw._core.cache_feed import Feed
from fastgw._core.cache_store import Storage
from fastgw.config.schema.cache import Disk
from fastgw.store.disk.log import read_mark, read_seed, slots_of
from fastgw.store.disk.spill import Spill

PATIENCE = 5.0


@dataclass(slots=True, eq=False)
class SharedDisk:
    """`Storage.disk`: made before the processes are, and inherited by them."""

    options: Disk
    index: DiskIndex
    seed: bytes
    spill: Spill | None = None                       # in the process that writes

    @classmethod
    def behind(cls, storage: Storage, options: Disk) -> SharedDisk:
        """From now on what is stored and purged in that memory is noted for it."""
        feed = Feed(storage)
        feed.follow()
        access, mark = Access(storage), read_mark(options.path)
        if access.mark == (0, 0) and mark is not None and read_seed(options.path) == feed.seed:
            access.mark = mark                       # the memory is new, what is on disk is not
        slots = slots_of(options.size)
        return cls(options, DiskIndex(mmap.mmap(-1, DiskIndex.size(slots)), slots, feed.seed), feed.seed)

    def write(self, storage: Storage) -> None:
        """This process is the one that writes, from now on until `stop`."""
        storage.attach()
        options = self.options
        self.spill = Spill(Feed(storage), self.index, options.path, options.size, options.personal)
        self.spill.start()

    async def stop(self) -> None:
        """Waits for what is still to be written, not for long."""
        if self.spill is not None:
            await asyncio.to_thread(self.spill.stop)

    async def settled(self) -> bool:
        """Waits until all purges so far hold on disk, and after a restart. False: they do not yet."""
        return self.spill is not None and await asyncio.to_thread(self.spill.settled, PATIENCE) is not None

    def view(self) -> dict[str, Any]:
        """For the admin API and metrics."""
        spill = self.spill
        state = {} if spill is None else {"state": spill.state, "full": spill.full, "file_bytes": spill.log.used}
        return {"path": self.options.path, **state, "bytes_max": self.options.size, **self.index.counts()}


def seed_for(options: Disk | None) -> bytes | None:
    """That of the answers on disk: a new memory that has another cannot tell which of them is which."""
    return None if options is None else read_seed(options.path)
