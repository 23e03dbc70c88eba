"""The writer in its thread, and readers beside a loop: what a disk does that does not do what it should."""

import asyncio
import errno
import os
import shutil
import threading
import time

import pytest

from fastgw.store.disk import reader as reader_module
from fastgw.store.disk import spill as spill_module
from tests.store.disk.world import MIB, World

PATIENCE = 60


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path / "cache")
    yield made
    made.spill.stop()
    made.spill.log.close()


def until(what):
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it did not come to it"
        time.sleep(0.01)


def started(world, monkeypatch):
    monkeypatch.setattr(spill_module, "PAUSE", 0.05)
    world.spill.start()


def ask(world, *names):
    """What a worker is told of them, all asked at once."""

    async def asking():
        loop = asyncio.get_running_loop()
        told = []
        for name in names:
            future = loop.create_future()
            there = world.reader.seek(name.encode(), future.set_result)
            told.append(future if there else None)
        return [None if each is None else (await asyncio.wait_for(each, PATIENCE)) for each in told]

    return asyncio.run(asking())


def test_the_thread(world, monkeypatch):
    started(world, monkeypatch)
    for number in range(30):
        world.put(f"a/{number}", b"%d" % number, ("t",) if number % 2 else ())
    until(lambda: world.index.counts()["entries"] == 30)
    before = world.spill.settled(PATIENCE)
    world.access.purge_tag(b"t")
    assert world.spill.settled(PATIENCE) - before == 15
    assert world.index.counts()["entries"] == 15
    world.put("last", b"last")
    world.spill.stop(PATIENCE)                       # what waits is written first
    assert world.spill.settled(0.01) is None
    world.restart()
    assert world.get("last") == b"last"
    assert world.get("a/1") is None
    assert world.get("a/2") == b"2"


def test_two_writers_in_turn(world, monkeypatch):
    """As at a binary upgrade: the new one has the disk when the old one ends."""
    world.put("a/1", b"x")
    world.turn()
    new = World.__new__(World)
    new.path, new.size, new.memory, new.slots = world.path, world.size, world.memory, world.slots
    new.spill = None
    new.born()
    assert new.spill.state == "locked"
    assert new.get("a/1") is None                    # it has not read it, and so gives nothing
    started(new, monkeypatch)
    world.spill.log.close()
    until(lambda: new.spill.state == "ready")
    assert new.get("a/1") == b"x"
    new.spill.stop(PATIENCE)


def test_a_full_disk(world, monkeypatch, caplog):
    started(world, monkeypatch)
    world.put("a/1", b"before")
    world.put("a/2", b"before")
    until(lambda: world.index.counts()["entries"] == 2)
    full = threading.Event()
    full.set()
    real = os.pwrite

    def pwrite(fd, data, at):
        if full.is_set() and len(data) > 4:          # a state takes no room
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    world.put("a/1", b"while it is full")
    until(lambda: world.index.counts()["errors"] > 0 and world.index.counts()["entries"] == 1)
    assert ask(world, "a/2") == [True]
    assert ask(world, "a/1") == [None]               # the old one must not come back
    full.clear()

    def written():
        world.put("a/3", b"after")
        assert world.spill.settled(PATIENCE) is not None
        return world.index.look(world.reader.recall.key(b"a/3")) is not None

    until(written)
    assert not world.spill.full
    assert [record.message for record in caplog.records if "cannot be written to" in record.message]
    assert world.spill.state == "ready"


def test_the_directory_goes_away(world, monkeypatch):
    started(world, monkeypatch)
    world.put("a/1", b"x")
    until(lambda: world.index.counts()["entries"] == 1)
    shutil.rmtree(world.path)
    assert ask(world, "a/1")[0] is not True
    until(lambda: os.path.exists(world.path) and world.spill.state == "ready")
    assert world.index.counts()["errors"] > 0
    world.put("a/2", b"y")
    until(lambda: world.index.counts()["entries"] == 1)
    assert ask(world, "a/1", "a/2") == [None, True]


def test_a_directory_that_may_not_be_used(tmp_path, monkeypatch, caplog):
    (tmp_path / "cache").mkdir()
    world = World(tmp_path / "cache")
    world.spill.log.close()
    world.spill.state = "starting"
    os.chmod(tmp_path / "cache", 0o777)
    started(world, monkeypatch)
    until(lambda: world.spill.state == "failing")
    assert "others may write to it" in caplog.text
    assert ask(world, "a/1") == [None]
    os.chmod(tmp_path / "cache", 0o700)
    until(lambda: world.spill.state == "ready")
    world.spill.stop(PATIENCE)


def test_readers(world):
    world.put("small", b"s" * 100)
    world.put("large", b"l" * 1_500_000)
    world.turn()
    world.forget_memory()
    assert ask(world, "small", "large", "none") == [True, True, None]
    assert world.access.get(b"large").read() == b"l" * 1_500_000
    counts = world.index.counts()
    assert (counts["hits"], counts["misses"]) == (2, 1)
    world.turn()
    world.forget_memory()
    assert ask(world, "small") == [True]             # a new reader has no file open yet
    world.access.purge_all()
    world.put("small", b"t")
    world.turn()
    assert world.access.audit() == []


def test_at_hand(world, monkeypatch):
    """What the system has in memory needs no thread, once the file is open."""
    for number in range(3):
        world.put(f"a/{number}", b"%d" % number * 1000)
    world.turn()
    world.forget_memory()
    assert ask(world, "a/0") == [True]
    monkeypatch.setattr(world.reader, "work", None)
    world.reader.threads.clear()
    place = world.index.look(world.reader.recall.key(b"a/1"))
    if world.reader.at_hand(place) is None:
        pytest.skip("this file system cannot say what is in memory")
    assert ask(world, "a/1", "a/2") == [True, True]


def test_a_disk_that_hangs(world, monkeypatch):
    """So many wait, and no more; the others are told at once that there is nothing."""
    for number in range(20):
        world.put(f"a/{number}", b"x")
    world.turn()
    world.forget_memory()
    world.reader.most = 8
    monkeypatch.setattr(world.reader, "at_hand", lambda place: None)
    free = threading.Event()
    real = os.pread

    def pread(fd, n, at):
        assert free.wait(PATIENCE)
        return real(fd, n, at)

    monkeypatch.setattr(os, "pread", pread)

    async def asking():
        told = []
        there = [world.reader.seek(f"a/{number}".encode(), told.append) for number in range(20)]
        assert there == [True] * 8 + [False] * 12
        assert world.index.counts()["busy"] == 12
        await asyncio.sleep(0)
        assert told == []
        free.set()
        end = time.monotonic() + PATIENCE
        while len(told) < 8:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        assert told == [True] * 8
        assert world.reader.waiting == 0
        assert len(world.reader.threads) == reader_module.THREADS

    asyncio.run(asking())


def test_what_is_broken_is_asked_once(world):
    world.put("a/1", b"x" * 1000)
    world.turn()
    world.forget_memory()
    [name] = [name for name in os.listdir(world.path) if name.endswith(".data")]
    with open(os.path.join(world.path, name), "r+b") as file:
        file.seek(500)
        file.write(b"y")
    assert ask(world, "a/1") == [None]
    assert world.index.counts()["broken"] == 1
    assert not world.reader.seek(b"a/1", None)
    assert world.access.get(b"a/1") is None
    world.put("a/1", b"z" * MIB)
    world.turn()
    world.forget_memory()
    assert ask(world, "a/1") == [True]               # the next one is another one


def test_segments_that_are_gone_are_let_go_of(tmp_path):
    world = World(tmp_path / "cache", size=MIB)
    for number in range(100):
        world.put(f"a/{number}", bytes(2000))
        world.turn()
    world.forget_memory()
    assert ask(world, "a/99") == [True]
    old = list(world.reader.files)
    for number in range(100, 1000):
        world.put(f"a/{number}", bytes(2000))
        world.turn()
    world.forget_memory()
    reader = world.reader
    assert ask(world, "a/999") == [True]
    assert not set(old) & set(reader.files)
    for number in range(100):
        assert world.get(f"a/{number}") is None
    world.spill.log.close()
