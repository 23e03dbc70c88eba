"""Requests under way: exact between processes, given back, and nothing leaked by the dead."""

import mmap
import os
import random
import signal
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw._core.holds import HoldTable
from tests.processes import FORK, at_once


def shared(workers: int = 4, keys: int = 64) -> int:
    fd = os.memfd_create("holds")
    os.ftruncate(fd, HoldTable.size(keys, workers))
    HoldTable.format(mmap.mmap(fd, 0), keys, workers)
    return fd


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.booleans()), max_size=80))
@settings(max_examples=60, deadline=None)
def test_counts_what_the_model_counts(steps):
    fd = shared()
    tables = [HoldTable(mmap.mmap(fd, 0), me) for me in range(3)]
    held: list[tuple[int, int, int]] = []
    for me, key, taking in steps:
        if taking:
            mark = tables[me].try_take(key, 3)
            assert (mark is not None) is (sum(k == key for _, k, _ in held) < 3)
            if mark is not None:
                held.append((me, key, mark))
        elif held:
            me, key, mark = held.pop(0)
            tables[me].release(mark)
    assert tables[0].under_way() == len(held)
    os.close(fd)


def test_what_a_dead_worker_held_is_free_again():
    fd = shared()
    dead, alive = HoldTable(mmap.mmap(fd, 0), 0), HoldTable(mmap.mmap(fd, 0), 1)
    assert dead.try_take(5, 2) is not None and alive.try_take(5, 2) is not None
    assert alive.try_take(5, 2) is None
    assert dead.lock(9)
    assert alive.try_take(9, 1) == -1, "the lock is held"
    alive.forget(0)
    assert alive.try_take(5, 2) is not None and alive.try_take(5, 2) is None
    assert alive.try_take(9, 1) >= 0, "its lock is free again too"
    os.close(fd)


def test_a_full_group_has_no_room_and_what_is_idle_gives_its_place():
    table = HoldTable.private(4)
    assert table.groups == 1
    marks = [table.try_take(key, 1) for key in range(1, 17)]
    assert all(mark >= 0 for mark in marks) and table.try_take(99, 1) == -1
    table.release(marks[3])
    assert table.try_take(99, 1) >= 0 and table.try_take(4, 1) == -1


def test_memory_that_is_not_a_table_is_refused():
    with pytest.raises(ValueError, match="not a HoldTable"):
        HoldTable(mmap.mmap(-1, 8192))
    with pytest.raises(ValueError):
        HoldTable.size(4, 0)


def hold(sender, me, fd, limit, stop):
    table = HoldTable(mmap.mmap(fd, 0), me)
    worst, got = 0, 0
    keys = random.Random(me)
    for _ in range(stop):
        key = keys.randrange(1, 40)
        mark = table.try_take(key, limit)
        if mark is not None and mark >= 0:
            got += 1
            worst = max(worst, table.counts().get(key, 0) if got % 64 == 0 else 0)
            table.release(mark)
    sender.send((got, worst))


def test_processes_that_come_and_go_leave_nothing_behind():
    fd = shared(keys=4)
    found = at_once(4, hold, fd, 2, 10_000)
    assert all(got > 100 for got, _ in found)
    assert HoldTable(mmap.mmap(fd, 0), 0).under_way() == 0
    os.close(fd)


def grab(sender, me, fd, limit):
    table = HoldTable(mmap.mmap(fd, 0), me)
    sender.send(sum(table.try_take(7, limit) is not None for _ in range(limit)))


def test_four_processes_get_exactly_as_many_places_as_there_are():
    fd = shared()
    limit = 5000
    got = sum(at_once(4, grab, fd, limit))
    table = HoldTable(mmap.mmap(fd, 0), 0)
    assert got == table.under_way() <= limit
    while table.try_take(7, limit) is not None:
        got += 1
    assert got == limit
    os.close(fd)


def endless(me, fd):
    table = HoldTable(mmap.mmap(fd, 0), me)
    keys = random.Random(me)
    while True:
        table.try_take(keys.randrange(1, 60), 3)


def test_killed_in_the_middle():
    fd = shared(keys=4)
    table = HoldTable(mmap.mmap(fd, 0), 3)
    for me in (0, 1, 2, 0, 1, 2):
        worker = FORK.Process(target=endless, args=(me, fd), daemon=True)
        worker.start()
        deadline = time.monotonic() + 60
        while not table.under_way() and time.monotonic() < deadline:
            pass
        os.kill(worker.pid, signal.SIGKILL)
        worker.join(60)
        table.forget(me)
    assert table.under_way() == 0
    assert [table.try_take(5, 2) is not None for _ in range(3)] == [True, True, False]
    os.close(fd)
