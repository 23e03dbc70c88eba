"""The files of the cache on disk: a log in segments. What is stored is written at its end; where it grows too large,
the oldest segment goes, with what is in it.

A log is what disks are good at: writes are long and in order, one file holds thousands of answers, room is made by
removing one file, and a crash can only tear the end. One process has it, by a lock on the file `lock`; readers open
the files by name.

    lock                 who writes
    format               the layout, and the seed under which keys and tags are hashed
    mark                 how far the purges of other hosts hold for what is here
    NNNNNNNN.data        answers
    NNNNNNNN.names       their records; state in place. What is not in it was never written
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from fastgw._core.cache_disk import COUNTERS, DiskIndex
from fastgw.store.disk.records import DEAD, STALE, STATE_AT, Record, layout, length_of

SEGMENTS = 32
"""What the room is cut into: so much of it goes at a time."""
LARGEST = 8
"""One answer has at most this part of the room."""
AT_ONCE = 1024 * 1024
"""Bytes that are gathered for one write."""
FILE = re.compile(r"(\d{8})\.(data|names)\Z")
FULL = (errno.ENOSPC, errno.EDQUOT)
COUNTER = {name: number for number, name in enumerate(COUNTERS)}


class DiskRefused(OSError):
    """The directory is not one to keep answers in; says why."""


def slots_of(size: int) -> int:
    """Answers there is an index for, by default: one for each 8 KiB."""
    return min(max(size // 8192, 4096), 1 << 27)


def prepare(path: str) -> None:
    """The directory: made when it is missing, ours alone. DiskRefused, OSError."""
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise DiskRefused(errno.ENOTDIR, "it is no directory", path)
    if found.st_uid != os.geteuid():
        raise DiskRefused(errno.EPERM, "it belongs to another user", path)
    if found.st_mode & 0o022:
        raise DiskRefused(errno.EPERM, "others may write to it", path)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise DiskRefused(errno.EACCES, "it may not be written to", path)


def read_seed(path: str) -> bytes | None:
    """That of the answers in a directory, where they can be read by this version."""
    try:
        with open(os.path.join(path, "format"), "rb") as file:
            word, seed = file.read(200).decode("ascii").split()
            return bytes.fromhex(seed) if word == layout() and len(seed) == 32 else None
    except (OSError, ValueError):
        return None


def read_mark(path: str) -> tuple[int, int] | None:
    """How far the purges of other hosts hold on this disk."""
    try:
        with open(os.path.join(path, "mark"), "rb") as file:
            first, second = file.read(100).split()
            return int(first), int(second)
    except (OSError, ValueError):
        return None


@dataclass(slots=True, eq=False)
class Segment:
    number: int
    data: int
    names: int
    data_size: int = 0
    names_size: int = 0

    @property
    def size(self) -> int:
        return self.data_size + self.names_size

    def close(self) -> None:
        for fd in (self.data, self.names):
            with suppress(OSError):
                os.close(fd)


@dataclass(slots=True)
class Answer:
    """One to be written. `pieces` gives head and body from the beginning, each time it is called."""

    record: Record
    purges: int
    pieces: Callable[[], Iterable[bytes]]


class DiskLog:
    """`size`: bytes of all files at most. `dropping` is told of the segments that are about to go: up to that number.
    Every method may raise OSError; then the log is to be closed, and may be opened again."""

    def __init__(self, path: str, size: int, index: DiskIndex, seed: bytes,
                 dropping: Callable[[int], None] = lambda segment: None) -> None:  # fmt: skip
        self.path = path
        self.size = size
        self.index = index
        self.seed = seed
        self.dropping = dropping
        self.segments: list[Segment] = []
        self.lock = -1
        self.used = 0
        self.last = 0
        self.touched: set[int] = set()

    # ------------------------------------------------------------------ beginning and end

    def open(self) -> bool:
        """Takes the lock, and makes the index of what is there. False: another process has it."""
        prepare(self.path)
        self.lock = os.open(self.file("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.lock)
            self.lock = -1
            return False
        self.index.clear()
        if read_seed(self.path) != self.seed:
            self._remove(self._numbers())
            with suppress(FileNotFoundError):
                os.unlink(self.file("mark"))
            self._write_file("format", f"{layout()} {self.seed.hex()}\n".encode())
        self._load()
        return True

    def close(self) -> None:
        self.index.close()
        for segment in self.segments:
            segment.close()
        self.segments, self.used = [], 0
        self.touched.clear()
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def there(self) -> bool:
        """Is the directory still the one we have?"""
        try:
            return os.path.samestat(os.stat(self.file("lock")), os.fstat(self.lock))
        except FileNotFoundError:
            return False

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _numbers(self) -> list[int]:
        return sorted({int(found[1]) for name in os.listdir(self.path) if (found := FILE.match(name))})

    def _remove(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            for kind in ("names", "data"):
                with suppress(FileNotFoundError):
                    # who has it open still holds the room until he closes it: so it is made empty first
                    os.truncate(self.file(f"{number:08}.{kind}"), 0)
                    os.unlink(self.file(f"{number:08}.{kind}"))

    def write_mark(self, mark: tuple[int, int]) -> None:
        self._write_file("mark", b"%d %d\n" % mark)

    def _write_file(self, name: str, text: bytes) -> None:
        new = self.file(f"{name}.new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, text)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(new, self.file(name))

    def _load(self) -> None:
        for number in self._numbers():
            self.last = number
            try:
                fds = [os.open(self.file(f"{number:08}.{kind}"), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                       for kind in ("data", "names")]  # fmt: skip
            except FileNotFoundError:
                self._remove([number])
                continue
            segment = Segment(number, *fds, *(os.fstat(fd).st_size for fd in fds))
            self.segments.append(segment)
            self.used += segment.size
            names = read_all(segment.names, segment.names_size)
            at, full = self.index.load(names, 0, number, segment.data_size)
            while full and self.segments[0] is not segment:
                self._drop_oldest()
                at, full = self.index.load(names, at, number, segment.data_size)
            if at < segment.names_size:
                os.ftruncate(segment.names, at)      # torn; the answers behind it cannot be found
                self.used -= segment.names_size - at
                segment.names_size = at
        while self.used > self.size and self.segments:
            self._drop_oldest()

    # ------------------------------------------------------------------ writing

    def put(self, answers: Iterable[Answer]) -> None:
        """Writes them, and has them found. What is too large is left out, and what was there of its key goes."""
        small: list[Answer] = []
        gathered = 0
        for answer in answers:
            size = self.size_of(answer.record)
            if size > self.size // LARGEST or answer.record.head_len > 65536:
                self.index.add(COUNTER["too_large"], 1)
                self.forget(answer.record.key)
            elif size > AT_ONCE:
                self._write_large(answer)
            else:
                small.append(answer)
                gathered += size
            if gathered >= AT_ONCE:
                self._write_small(small)
                small, gathered = [], 0
        if small:
            self._write_small(small)

    @staticmethod
    def size_of(record: Record) -> int:
        """Bytes in both files."""
        return 2 * length_of(len(record.name), len(record.tags)) + record.head_len + record.body_len

    def _segment(self, needed: int, slots: int, nodes: int) -> Segment:
        """The one at the end, with so much room in all."""
        current = self.segments[-1] if self.segments else None
        if current is None or current.size >= max(self.size // SEGMENTS, 65536) or current.names_size > 1 << 30:
            current = self._begin_segment()
        while self.used + needed > self.size or self.index.room[0] < slots or self.index.room[1] < nodes:
            if self.segments[0] is current:
                if not current.size:
                    break
                current = self._begin_segment()
            self._drop_oldest()
        return current

    def _begin_segment(self) -> Segment:
        self.last += 1
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        data = os.open(self.file(f"{self.last:08}.data"), flags, 0o600)
        try:
            names = os.open(self.file(f"{self.last:08}.names"), flags, 0o600)
        except OSError:
            os.close(data)
            raise
        self.segments.append(Segment(self.last, data, names))
        return self.segments[-1]

    def _write_small(self, answers: list[Answer]) -> None:
        needed = sum(self.size_of(answer.record) for answer in answers)
        segment = self._segment(needed, len(answers), sum(len(answer.record.tags) for answer in answers) // 8)
        at, data, names = segment.data_size, [], []
        for answer in answers:
            packed = answer.record.pack(segment.number, at, self.seed)
            names.append(packed)
            data.append(packed)
            data.extend(answer.pieces())
            at += len(packed) + answer.record.head_len + answer.record.body_len
        blob = b"".join(data)
        if len(blob) != at - segment.data_size:
            raise ValueError("an answer is not as long as it said")
        self._append(segment, [blob], answers, names)

    def _write_large(self, answer: Answer) -> None:
        segment = self._segment(self.size_of(answer.record), 1, len(answer.record.tags) // 8)
        packed = answer.record.pack(segment.number, segment.data_size, self.seed)

        def pieces() -> Iterator[bytes]:
            yield packed
            yield from answer.pieces()

        self._append(segment, pieces(), [answer], [packed])

    def _append(self, segment: Segment, data: Iterable[bytes], answers: list[Answer], names: list[bytes]) -> None:
        """Answers first, then what says that they are there."""
        at, joined = segment.data_size, b"".join(names)
        try:
            for piece in data:
                at = write_all(segment.data, piece, at)
            write_all(segment.names, joined, segment.names_size)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(segment.names, segment.names_size)
                os.ftruncate(segment.data, segment.data_size)
            if error.errno in FULL and self.segments[0] is not segment:
                self._drop_oldest()                  # others fill the disk: some of it is theirs
            raise
        written = at - segment.data_size + len(joined)
        self.used += written
        segment.data_size = at
        names_at = segment.names_size
        for answer, packed in zip(answers, names, strict=True):
            size = len(packed) + answer.record.head_len + answer.record.body_len
            self.index.put(packed, size, names_at, answer.purges)
            names_at += len(packed)
        segment.names_size = names_at
        self.index.add(COUNTER["writes"], len(answers))
        self.index.add(COUNTER["bytes_written"], written)

    # ------------------------------------------------------------------ forgetting

    def _drop_oldest(self) -> None:
        segment = self.segments[0]
        self.dropping(segment.number)
        self.index.add(COUNTER["evictions"], self.index.drop(segment.number))
        self.segments.pop(0)
        self.used -= segment.size
        self.touched.discard(segment.number)
        segment.close()
        self._remove([segment.number])

    def forget(self, key: bytes) -> None:
        self._mark(self.index.forget(key), DEAD)

    def purge_tag(self, tag: int, purge: int, soft: bool) -> int:
        return self._mark(self.index.purge_tag(tag, purge, soft), STALE if soft else DEAD)

    def purge_prefix(self, tag: int, n: int, purge: int, soft: bool) -> int:
        """By the hash of the first `n` bytes of names; 0: all. Reads all files with names."""
        count = 0
        for segment in self.segments:
            names = read_all(segment.names, segment.names_size)
            places = self.index.purge_names(names, segment.number, tag, n, purge, soft)
            count += self._mark(places, STALE if soft else DEAD)
        return count

    def purge_all(self) -> int:
        count = self.index.counts()["entries"]
        while self.segments:
            self._drop_oldest()
        return count

    def _mark(self, places: bytes, state: int) -> int:
        """Writes the state of records, of which 8 bytes each say where they are."""
        word = state.to_bytes(4, "little")
        by_number = {segment.number: segment for segment in self.segments}
        for (place,) in zip(memoryview(places).cast("Q"), strict=True):
            segment = by_number[place >> 32]
            write_all(segment.names, word, (place & 0xFFFFFFFF) + STATE_AT)
            self.touched.add(segment.number)
        return len(places) // 8

    def settle(self) -> None:
        """What was purged stays so, also when the power fails."""
        for segment in self.segments:
            if segment.number in self.touched:
                os.fdatasync(segment.names)
        self.touched.clear()


def read_all(fd: int, size: int) -> bytes:
    parts, at = [], 0
    while at < size and (part := os.pread(fd, min(size - at, 16 * AT_ONCE), at)):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def write_all(fd: int, data: bytes, at: int) -> int:
    """Where it ends."""
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, at)
        view, at = view[n:], at + n
    return at

