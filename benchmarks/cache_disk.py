"""The cache's level on disk: what a write, a start, a look-up and a read of it cost, beside a file for each answer.

`python -m benchmarks.cache_disk [--answers 20000] [--bytes 10000] [--dir DIR]`. Everything is in the memory of the
system when it is read: figures are the processor's, not the disk's.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fastgw._core.cache_disk import DiskIndex
from fastgw._core.cache_feed import Recall
from fastgw._core.cache_store import Storage
from fastgw.store.disk.log import Answer, DiskLog
from fastgw.store.disk.reader import DiskReader
from fastgw.store.disk.records import Record

SEED = bytes(16)
MIB = 1024 * 1024


def timed(what: str, count: int, work: Callable[[], object]) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    work()
    elapsed, used = time.perf_counter() - began, time.process_time() - cpu
    print(f"{what:44} {elapsed / count * 1e6:9.1f} µs each, CPU {used / count * 1e6:7.1f} µs, {elapsed:6.2f} s in all")


def log(path: Path, names: list[bytes], body: bytes) -> None:
    storage = Storage.private(64 * MIB)
    recall = Recall(storage)
    slots = len(names) * 2
    size = len(names) * (len(body) + 2000) * 2
    memory = mmap.mmap(-1, DiskIndex.size(slots))
    index = DiskIndex(memory, slots, SEED)
    files = DiskLog(str(path), size, index, SEED)
    files.open()
    now = time.time_ns()
    times = now, now + 10**12, now + 10**12

    def answers() -> Iterator[Answer]:
        for name in names:
            record = Record(recall.key(name), name, bytes(8), bytes(64), times, 0, len(body), 0)
            yield Answer(record, 0, lambda: (body,))

    timed("log: write", len(names), lambda: files.put(answers()))
    files.close()
    index = DiskIndex(mmap.mmap(-1, DiskIndex.size(slots)), slots, SEED)
    files = DiskLog(str(path), size, index, SEED)
    timed("log: start", len(names), files.open)
    index.open(0)
    reader = DiskReader(storage, index, str(path), SEED)
    keys = [recall.key(name) for name in names]
    timed("log: look-up", len(names), lambda: [index.look(key) for key in keys])

    def read() -> None:
        for key in keys:
            place = index.look(key)
            assert place is not None
            os.pread(reader.file(place[0]).fd, place[2], place[1])

    timed("log: look-up and read", len(names), read)
    timed("log: remove half", len(names) // 2, lambda: [files.forget(key) for key in keys[::2]])
    files.close()


def separate(path: Path, names: list[bytes], body: bytes) -> None:
    """As nginx keeps them: DIR/c/29/MD5, by way of a temporary file."""
    places = [path / digest[-1] / digest[-3:-1] / digest for digest in (hashlib.md5(name).hexdigest() for name in
    names)]

    def write() -> None:
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            new = f"{place}.new"
            fd = os.open(new, os.O_WRONLY | os.O_CREAT, 0o600)
            os.write(fd, bytes(300) + body)
            os.close(fd)
            os.rename(new, place)

    def start() -> None:
        for folder, _, found in os.walk(path):
            for name in found:
                fd = os.open(os.path.join(folder, name), os.O_RDONLY)
                os.read(fd, 300)
                os.close(fd)

    def read() -> None:
        for place in places:
            fd = os.open(place, os.O_RDONLY)
            os.read(fd, 300 + len(body))
            os.close(fd)

    timed("a file each: write", len(names), write)
    timed("a file each: start", len(names), start)
    timed("a file each: read", len(names), read)
    timed("a file each: remove half", len(names) // 2, lambda: [place.unlink() for place in places[::2]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=10_000)
    parser.add_argument("--dir", help="where to write; by default the system's place for temporary files")
    args = parser.parse_args()
    names = [b"shop.example/products/%d\0pr" % number for number in range(args.answers)]
    body = random.Random(1).randbytes(args.bytes)
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        log(Path(folder, "log"), names, body)
        separate(Path(folder, "files"), names, body)


if __name__ == "__main__":
    main()
