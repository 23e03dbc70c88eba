"""Buckets: GCRA against a model, and the table shared by processes that race and die."""

import mmap
import os
import random
import signal
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw._core.bucket import BucketTable
from tests.processes import FORK, at_once

SECOND = 10**9


def later(seconds: float = 3600.0) -> int:
    """A time for `now` that is ahead of the real clock, so that nothing depends on how fast the test is."""
    return time.monotonic_ns() + int(seconds * SECOND)


def test_siphash_is_the_reference_one():
    # the vector of the SipHash paper: key 00 01 … 0f, message 00 01 … 0e
    memory = mmap.mmap(-1, BucketTable.size(4))
    BucketTable.format(memory, bytes(range(16)))
    assert BucketTable(memory).key_of(bytes(range(15))) == 0xA129CA6149BE45E5


def test_burst_then_one_per_interval():
    table = BucketTable.private(16)
    now = later()
    assert [table.try_take(7, SECOND, 3, now)[:2] for _ in range(4)] == [
        (True, 2),
        (True, 1),
        (True, 0),
        (False, 0),
    ]
    assert table.try_take(7, SECOND, 3, now)[2:4] == (3 * SECOND, SECOND)
    assert table.try_take(7, SECOND, 3, now + SECOND - 1)[0] is False
    assert table.try_take(7, SECOND, 3, now + SECOND)[0] is True


@given(
    st.integers(1, 10**7),
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3 * 10**7)), min_size=1, max_size=80),
)
@settings(max_examples=60, deadline=None)
def test_admits_what_the_model_admits(interval, burst, steps):
    table = BucketTable.private(16)
    now = later()
    tats: dict[int, int] = {}
    for key, pause in steps:
        now += pause
        tat = max(tats.get(key, 0), now)
        expected = tat + interval <= now + burst * interval
        if expected:
            tats[key] = tat + interval
        assert table.try_take(key, interval, burst, now)[0] is expected


def test_a_full_group_has_no_room_and_idle_buckets_give_theirs():
    table = BucketTable.private(4)
    assert (table.groups, table.capacity) == (1, 15)
    now = time.monotonic_ns()
    for key in range(1, 16):
        assert table.try_take(key, 3600 * SECOND, 1, now)[0]
    assert table.occupied() == 15
    assert table.try_take(99, SECOND, 1, now) is None
    other = BucketTable.private(4)
    for key in range(1, 200):
        assert other.try_take(key, 1, 1)[0], "an idle bucket's slot is used again"


def test_memory_that_is_not_a_table_is_refused():
    with pytest.raises(ValueError, match="not a BucketTable"):
        BucketTable(mmap.mmap(-1, 8192))
    with pytest.raises(ValueError, match="too small"):
        BucketTable(bytearray(100))


def test_a_million_keys_fit_the_size_that_is_told():
    table = BucketTable.private(20_000)
    now = time.monotonic_ns()
    keys = random.Random(1)
    refused = sum(
        table.try_take(keys.getrandbits(64) | 1, 3600 * SECOND, 1, now) is None for _ in range(20_000)
    )
    assert refused <= 2
    assert BucketTable.size(1_000_000) <= 70 * 2**20


def test_a_half_done_insertion_is_finished_by_the_next():
    table = BucketTable.private(4)
    table.announce(5)
    assert table.try_take(9, SECOND, 2, later())[:2] == (True, 1)
    assert table.try_take(5, SECOND, 2, later())[:2] == (True, 1)


def shared_table(keys: int) -> tuple[int, BucketTable]:
    fd = os.memfd_create("buckets")
    os.ftruncate(fd, BucketTable.size(keys))
    memory = mmap.mmap(fd, 0)
    BucketTable.format(memory)
    return fd, BucketTable(memory)


def hammer(sender, number, fd, now, burst):
    table = BucketTable(mmap.mmap(fd, 0))
    admitted = sum(table.try_take(77, SECOND, burst, now)[0] for _ in range(burst))
    sender.send(admitted)


def test_four_processes_admit_exactly_what_one_would():
    fd, _ = shared_table(16)
    burst = 40_000
    assert sum(at_once(4, hammer, fd, later(), burst)) == burst
    os.close(fd)


def churn(sender, number, fd, seconds):
    """Many keys in one group, short intervals: buckets are claimed, become idle and are taken over all the
    time."""
    table = BucketTable(mmap.mmap(fd, 0))
    keys = random.Random(number)
    taken: list[tuple[int, int]] = []
    stop = time.monotonic_ns() + int(seconds * SECOND)
    while True:
        now = time.monotonic_ns()
        if now > stop:
            break
        key = keys.randrange(1, 25)
        result = table.try_take(key, INTERVAL, BURST, now)
        if result and result[0]:
            taken.append((key, result[4]))
    sender.send(taken)


INTERVAL, BURST = 20_000, 3


def test_nothing_is_admitted_twice_while_slots_change_hands():
    fd, table = shared_table(4)
    assert table.groups == 1
    by_key: dict[int, list[int]] = {}
    for taken in at_once(4, churn, fd, 1.0):
        for key, now in taken:
            by_key.setdefault(key, []).append(now)
    assert len(by_key) == 24 and sum(map(len, by_key.values())) > 1000
    for times in by_key.values():
        times.sort()
        # GCRA's promise: any n requests take at least (n - burst) * interval
        tat = 0
        for now in times:
            tat = max(tat, now) + INTERVAL
            assert tat <= now + BURST * INTERVAL, "more was admitted than one process would have"
    os.close(fd)


def endless(fd, number):
    table = BucketTable(mmap.mmap(fd, 0))
    keys = random.Random(number)
    while True:
        table.try_take(keys.randrange(1, 40), 50_000, 2)


def test_kill_in_the_middle_leaves_it_consistent():
    fd, table = shared_table(4)
    for number in range(12):
        worker = FORK.Process(target=endless, args=(fd, number), daemon=True)
        worker.start()
        deadline = time.monotonic() + 60
        while not table.occupied() and time.monotonic() < deadline:
            pass
        os.kill(worker.pid, signal.SIGKILL)
        worker.join(60)
    # whatever was left half done: every key can be used, and counts exactly
    now = later()
    for key in range(100, 110):
        assert sum(table.try_take(key, SECOND, 5, now)[0] for _ in range(9)) == 5
    os.close(fd)
