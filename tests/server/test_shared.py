"""Segments of the shared memory are handed on by layout."""

import os

from fastgw._core.bucket import BucketTable
from fastgw._core.cache_access import Access
from fastgw._core.health import HealthTable
from fastgw.server.shared import BUCKETS, BUCKETS_LAYOUT, SharedMemory


def handed(memory):
    """As they arrive in another process: descriptors of their own."""
    return {layout: os.dup(fd) for layout, fd in memory.hand_on().items()}


def test_what_a_gateway_had_is_there_for_the_next_one():
    first = SharedMemory(2, 10)
    slot = first.health.slot("up", "http://a:1")
    first.health.set_check(slot, "up", 2)
    second = SharedMemory(4, 20, handed(first))
    assert (second.empty, second.unknown) == ([], [])
    assert second.health.slot("up", "http://a:1") == slot
    assert second.health.read(slot) == first.health.read(slot)
    # one memory, not a copy: both count while one drains
    other = first.health.slot("up", "http://b:1")
    assert second.health.slot("up", "http://b:1") == other
    assert bytes(second.segments[0].memory[:64]) == bytes(first.segments[0].memory[:64]), "the seed of the hash"
    assert first.segments[0].fd != second.segments[0].fd
    for memory in (first, second):
        assert memory.cache.attach()
    assert Access(first.cache).put(b"a.example/x", b"body") == "ok"
    assert Access(second.cache).get(b"a.example/x").read() == b"body"


def test_another_layout_begins_empty_and_is_told():
    first = SharedMemory(1, 10)
    first.health.slot("up", "http://a:1")
    given = {layout.replace("health/1/", "health/0/"): fd for layout, fd in handed(first).items()}
    second = SharedMemory(1, 10, given)
    assert second.empty == [f"health/1/{HealthTable.size(32_768)}"]
    assert second.unknown == [f"health/0/{HealthTable.size(32_768)}"]
    assert not any(second.segments[1].memory[:])


def test_a_file_that_was_cut_is_not_mapped():
    first = SharedMemory(1, 10)
    given = handed(first)
    cut = os.memfd_create("cut")
    os.close(given[f"buckets/{BUCKETS_LAYOUT}/{BucketTable.size(BUCKETS)}"])
    given[f"buckets/{BUCKETS_LAYOUT}/{BucketTable.size(BUCKETS)}"] = cut
    second = SharedMemory(1, 10, given)
    assert second.empty == [f"buckets/{BUCKETS_LAYOUT}/{BucketTable.size(BUCKETS)}"]
    assert second.buckets.capacity == first.buckets.capacity


def test_descriptors_go_with_the_memory():
    def count():
        return len(os.listdir("/proc/self/fd"))

    before = count()
    memory = SharedMemory(1, 10)
    again = SharedMemory(1, 10, handed(memory))
    assert count() > before
    del memory, again
    assert count() == before
