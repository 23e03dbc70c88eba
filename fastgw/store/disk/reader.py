"""Brings answers from the disk back into the memory, for one worker.

What is not there costs a look at the index in shared memory. What is there is read where it lies: at once when the
system has it in memory, which takes no longer than copying it, else by one of a few threads. How many wait for these
is bounded: a disk that hangs costs those their time, and nobody else.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fastgw._core.cache_disk import DiskIndex
from fastgw._core.cache_feed import Recall
from fastgw._core.cache_store import Storage
from fastgw.store.disk.log import COUNTER
from fastgw.store.disk.records import unpack

THREADS = 4
WAITING = 64
FIRST = 262_144
"""Bytes that are read at first; a record, name and head are shorter."""
AT_ONCE = 65_536
"""What is larger is not read in the loop's thread, though the system has it."""
KNOWN_BAD = 4096

Place = tuple[int, int, int, bool, int, int]
"""As DiskIndex.look gives it."""
Told = Callable[[bool | None], None]


class File:
    """Closed when nobody uses it any more."""

    def __init__(self, path: str) -> None:
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class DiskReader:
    """`seed`: as the memory has it. `waiting`: so many may wait for threads."""

    def __init__(self, storage: Storage, index: DiskIndex, path: str, seed: bytes, waiting: int = WAITING) -> None:
        self.recall = Recall(storage)
        self.index = index
        self.path = path
        self.seed = seed
        self.most = waiting
        self.waiting = 0
        self.files: dict[int, File] = {}
        self.bad: set[int] = set()
        self.lock = threading.Lock()
        self.jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []

    def seek(self, name: bytes, told: Told) -> bool:
        """In the loop's thread. False: it is not there, or too many wait. True: `told(it is in the memory now)` is
        called once, later; None: it could not be read."""
        key = self.recall.key(name)
        place = self.index.look(key)
        if place is None or place[4] in self.bad:
            self.index.add(COUNTER["misses"], 1)
            return False
        loop = asyncio.get_running_loop()
        data = self.at_hand(place)
        if data is not None:
            loop.call_soon(told, self.bring(name, key, place, data))
            return True
        if self.waiting >= self.most:
            self.index.add(COUNTER["busy"], 1)
            return False
        self.waiting += 1
        if len(self.threads) < min(THREADS, self.waiting):
            self.threads.append(threading.Thread(target=self.work, name="cache-disk", daemon=True))
            self.threads[-1].start()
        self.jobs.put((loop, name, key, place, told))
        return True

    def close(self) -> None:
        for _ in self.threads:
            self.jobs.put(None)
        self.files.clear()

    # ------------------------------------------------------------------ reading

    def file(self, segment: int) -> File:
        """Of one that is not gone; those that are gone are let go of."""
        with self.lock:
            first = self.index.first_segment
            for old in [number for number in self.files if number < first]:
                del self.files[old]
            if segment not in self.files:
                self.files[segment] = File(os.path.join(self.path, f"{segment:08}.data"))
            return self.files[segment]

    def at_hand(self, place: Place) -> bytes | None:
        """What is small, and in the memory of the system."""
        segment, offset, size, *_ = place
        file = self.files.get(segment)
        if size > AT_ONCE or file is None:
            return None
        data = bytearray(size)
        try:
            got = os.preadv(file.fd, [data], offset, os.RWF_NOWAIT)
        except OSError:                              # EAGAIN: it is not; or this file system cannot say
            return None
        return bytes(data) if got == size else None

    def work(self) -> None:
        while (job := self.jobs.get()) is not None:
            loop, name, key, place, told = job
            found = self.bring(name, key, place, None)
            with suppress(RuntimeError):             # the loop is closed: nobody waits
                loop.call_soon_threadsafe(self.done, told, found)

    def done(self, told: Told, found: bool | None) -> None:
        self.waiting -= 1
        told(found)

    def bring(self, name: bytes, key: bytes, place: Place, data: bytes | None) -> bool | None:
        """Into the memory. `data`: all of it, where that was read already."""
        try:
            found = self.put(name, key, place, data)
        except FileNotFoundError:
            found = False if self.index.first_segment > place[0] else None
        except OSError:
            found = None
        if found is None:
            self.index.add(COUNTER["errors"], 1)
        self.index.add(COUNTER["hits" if found else "misses"], 1)
        return found

    def put(self, name: bytes, key: bytes, place: Place, data: bytes | None) -> bool | None:
        segment, offset, size, stale, number, done = place
        fd = -1
        file = None
        if data is None:
            file = self.file(segment)
            fd = file.fd
            data = os.pread(fd, min(size, FIRST), offset)
        found = unpack(data, segment, offset, self.seed)
        if found is None:
            return self.broken(segment, number)
        record, length = found
        body = length + record.head_len
        if (record.key, record.name) != (key, name) or body + record.body_len != size or body > len(data):
            return self.broken(segment, number)
        stored, expires, keep_until = record.times
        times = stored, 0 if stale else expires, keep_until
        view = memoryview(data)
        filling = self.recall.begin(name, view[length:body], record.meta, times, record.tags, record.body_len, done)
        if filling is None:
            return False
        check = zlib.crc32(view[length:])
        at = len(data)
        result = filling.append(data[body:])
        while at < size and result == "ok":
            piece = os.pread(fd, min(size - at, FIRST), offset + at)
            if not piece:
                break
            check = zlib.crc32(piece, check)
            result = filling.append(piece)
            at += len(piece)
        if at == size and check != record.body_check:
            filling.drop()
            return self.broken(segment, number)
        if at < size or result != "ok":
            filling.drop()
            return self.broken(segment, number) if result == "ok" else False
        self.index.add(COUNTER["bytes_read"], size)
        return filling.finish() == "ok"

    def broken(self, segment: int, number: int) -> bool | None:
        """What was read is not what was written: unless it is gone meanwhile, it is not read again."""
        if self.index.first_segment > segment:
            return False
        self.index.add(COUNTER["broken"], 1)
        if len(self.bad) < KNOWN_BAD:
            self.bad.add(number)
        return None
