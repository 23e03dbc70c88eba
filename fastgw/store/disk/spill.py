"""Follows the memory of the cache: what is stored there is written to disk, and what is purged there is purged on
disk.

One process of the host does this, in a thread of its own that no request waits for. It is not told when something is
evicted: by then the memory is somebody else's. Everything that lives long enough is written soon after it was stored,
so that a restart finds what is used most too, and an eviction has nothing to wait for. What it comes too late for is
not written (`late`).

Purges go first in each turn, and each holds for what was written before it; `DiskIndex.open` then says to readers up
to which moment all purges are done here. Those after it are still in the memory's list, which every answer that comes
back is compared with. So no purge is lost between the two, however slow this thread, or the disk, is.
"""

from __future__ import annotations

import errno
import logging
import re
import threading
import time
import zlib
from collections.abc import Iterator

from fastgw._core.cache_access import Access, CacheBusy
from fastgw._core.cache_disk import DiskIndex
from fastgw._core.cache_feed import Copy, Feed
from fastgw.store.disk.log import COUNTER, SEGMENTS, Answer, DiskLog
from fastgw.store.disk.records import Record

logger = logging.getLogger("fastgw.cache")

INTERVAL = 0.05
PAUSE = 1.0
"""After a failure."""
SHORTEST = 15.0
"""What is useless sooner is not worth a write."""
PASSING = 3
"""A note that something is not to be kept (K_PASS of cache_head.pxd), in the second byte of `meta`."""
IDENTITY = re.compile(rb"\0i[0-9a-f]{32}(\0|\Z)")
"""In the names of answers that are kept for one caller by himself (`Keys.identity` of cache_key.pyx)."""
SLICED = 30.0
"""By then a purge of the memory has come to all that it means, which it does bit by bit."""
AGAIN = 1024
"""Answers of a segment that goes which are written anew, as they are in the memory."""
ALL, PREFIX = 1, 3
"""Kinds of purges, as cache_layout.pxd has them; the others are tags, also the one of a key."""


News = tuple[bytes, int, int, bool, int]
"""As `Feed.news` gives them."""


class Spill:
    """`Spill(feed, index, path, size)`; `start`, and `stop` when the process ends. `feed` is of a storage this
    process is attached to. `settled(seconds)` waits until the purges that were noted before are on disk."""

    def __init__(self, feed: Feed, index: DiskIndex, path: str, size: int, personal: bool = False) -> None:
        self.feed = feed
        self.personal = personal
        self.access = Access(feed.storage)
        self.mark = (0, 0)
        self.index = index
        self.log = DiskLog(path, size, index, feed.seed, self.dropping)
        self.thread: threading.Thread | None = None
        self.wake = threading.Event()
        self.turned = threading.Condition()
        self.turns = 0
        self.ended = False
        self.state = "starting"
        self.again: list[tuple[bytes, int, int]] = []
        self.purged = 0
        self.resting = 0.0
        self.full = False
        self.old_purges = self.later_purges = (0.0, 0)

    def start(self) -> None:
        self.thread = threading.Thread(target=self.run, name="cache-disk", daemon=True)
        self.thread.start()

    def stop(self, seconds: float = 2.0) -> None:
        """What waits is written first, where that takes no longer."""
        self.ended = True
        self.wake.set()
        if self.thread is not None:
            self.thread.join(seconds)

    def settled(self, seconds: float) -> int | None:
        """How many answers purges have taken from the disk since it began; None: it does not come to it in that time,
        or the disk is not in use."""
        with self.turned:
            goal = self.turns + 2                    # the turn under way may have read its purges already
            self.wake.set()
            done = self.turned.wait_for(lambda: self.turns >= goal or self.state != "ready", seconds)
            return self.purged if done and self.state == "ready" else None

    # ------------------------------------------------------------------ the thread

    def run(self) -> None:
        while not self.ended:
            try:
                pause = self.live()
            except CacheBusy:
                pause = 0.2
            except Exception as failure:
                self.fail(failure)
                pause = PAUSE
            self.wake.wait(pause)
            self.wake.clear()
        try:
            if self.state == "ready":
                self.turn()
                self.log.settle()
        except Exception as failure:
            self.fail(failure)
        self.log.close()
        self.tell("stopped")

    def live(self) -> float:
        """Until something is to be waited for: for how long."""
        if self.state != "ready":
            if self.log.lock < 0 and not self.log.open():
                if self.state != "locked":
                    logger.info("the cache's disk %s is another process's until that ends", self.log.path)
                self.tell("locked")
                return 0.2
            self.feed.follow()
            self.catch_up()
            self.tell("ready")
            logger.info("the cache has %d answers on disk, in %s", self.index.counts()["entries"], self.log.path)
        if not self.log.there():
            raise FileNotFoundError(errno.ENOENT, "the directory is gone", self.log.path)
        busy = self.turn()
        with self.turned:
            self.turns += 1
            self.turned.notify_all()
        if self.wake.is_set():
            return 0
        return 0 if busy else INTERVAL

    def tell(self, state: str, why: str = "") -> None:
        if state != self.state and why:
            logger.warning("the cache's disk %s is not in use: %s", self.log.path, why)
        with self.turned:
            self.state = state
            self.turned.notify_all()

    def fail(self, failure: Exception) -> None:
        self.index.add(COUNTER["errors"], 1)
        self.log.close()
        if isinstance(failure, OSError):
            self.tell("failing", failure.strerror or type(failure).__name__)
        else:
            logger.error("the cache's disk: %s", self.log.path, exc_info=failure)
            self.tell("failing")

    # ------------------------------------------------------------------ one turn

    def turn(self) -> bool:
        """True: there is more to do."""
        answers, purges = self.feed.waiting
        if purges or self.access.mark != self.mark:
            self.catch_up()
        if answers:
            found, lost = self.feed.news()
            if lost:
                # of answers it has not heard of, older ones may be on disk: none is given without asking the service
                logger.warning("the cache's disk: more was stored than it could follow; all of it is stale from now on")
                self.log.purge_prefix(0, 0, (1 << 64) - 1, True)
            self.write(found)
            self.feed.seen(len(found))
        return bool(self.feed.waiting[0])

    def write(self, found: list[News]) -> None:
        """A disk that is full, or broken, is left alone for a while; what is on it can still be read."""
        if time.monotonic() >= self.resting:
            try:
                self.log.put(self.answers(found))
                self.again_from_memory()
                if self.full:
                    logger.info("the cache's disk %s can be written to again", self.log.path)
                self.full = False
                return
            except OSError as failure:
                if not self.log.there():
                    raise
                self.index.add(COUNTER["errors"], 1)
                self.resting = time.monotonic() + PAUSE
                if not self.full:
                    logger.error("the cache's disk %s cannot be written to: %s", self.log.path, failure.strerror)
                self.full = True
        self.again = []
        for key, *_ in found:
            self.log.forget(key)

    def catch_up(self) -> None:
        """Purges, and readers may know of it."""
        mark = self.access.mark                      # before those it stands for are read
        purges, first, lost, now = self.feed.purges()
        if lost:
            logger.warning("the cache's disk: more was purged than is remembered; everything on it is")
            self.purged += self.log.purge_all()
        count = 0
        for number, (kind, tag, n, soft) in enumerate(purges, first):
            if kind == ALL and not soft:
                count += self.log.purge_all()
            elif kind in (ALL, PREFIX):
                count += self.log.purge_prefix(tag, n if kind == PREFIX else 0, number, soft)
            else:
                count += self.log.purge_tag(tag, number, soft)
        self.log.settle()
        if mark != self.mark:
            self.log.write_mark(mark)
            self.mark = mark
        self.purged += count
        self.index.add(COUNTER["purged"], count)
        self.feed.purged(first + len(purges))
        self.index.open(now)
        if time.monotonic() - self.later_purges[0] > SLICED:
            self.old_purges, self.later_purges = self.later_purges, (time.monotonic(), first + len(purges))

    def answers(self, news: list[News]) -> Iterator[Answer]:
        old = self.log.last - SEGMENTS * 3 // 4
        for key, version, entry, promoted, purges in news:
            if promoted and self.index.near_end(key, max(old, 0)) is False:
                continue                             # it came from here, and stays for long enough
            copy = self.feed.copy(entry, version, purges)
            if copy is None:
                self.index.add(COUNTER["late"], 0 if promoted else 1)
            if copy is None or not self.worth(copy):
                self.log.forget(key)                 # what it has replaced must not come back
            else:
                yield answer_of(key, copy, purges)

    def worth(self, copy: Copy) -> bool:
        return (
            (copy.times[2] - time.time_ns()) / 1e9 >= SHORTEST
            and copy.meta[1] != PASSING
            and (self.personal or IDENTITY.search(copy.name) is None)
        )

    # ------------------------------------------------------------------ what is used stays

    def dropping(self, segment: int) -> None:
        """The oldest segments go. What the memory has of them is written anew: it is what was asked for lately, and
        what a restart should find."""
        for key in self.index.keys_of(segment):
            found = self.feed.used(key)
            if found is not None and len(self.again) < AGAIN:
                self.again.append((key, *found))

    def again_from_memory(self) -> None:
        again, self.again = self.again, []
        if again and not self.feed.waiting[1]:       # else there are purges that may mean one of these
            self.log.put(self.copies(again, self.log.size // SEGMENTS // 2))
            self.again = []

    def copies(self, again: list[tuple[bytes, int, int]], room: int) -> Iterator[Answer]:
        """No more than half of what went, so that it comes to an end."""
        purges = self.old_purges[1]
        for key, entry, version in again:
            copy = self.feed.copy(entry, version, purges)
            if copy is None or self.index.near_end(key, 0) is not None:
                continue
            answer = answer_of(key, copy, purges)
            room -= self.log.size_of(answer.record)
            if room < 0:
                return
            yield answer


def answer_of(key: bytes, copy: Copy, purges: int) -> Answer:
    """Of an answer in the memory, which is held until this one is gone."""
    head = copy.head

    def pieces() -> Iterator[bytes]:
        yield head
        at = 0
        while piece := copy.piece(at):
            yield piece
            at += len(piece)

    check = 0
    for piece in pieces():
        check = zlib.crc32(piece, check)
    record = Record(key, copy.name, copy.tags, copy.meta, copy.times, len(head), copy.size, check)
    return Answer(record, purges, pieces)


