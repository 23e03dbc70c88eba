"""Which answer goes when there is no room."""

import random
from bisect import bisect
from collections import OrderedDict
from itertools import accumulate

import pytest

from fastgw._core.cache_access import Access
from fastgw._core.cache_store import Storage

MIB = 1024 * 1024
ROOM = 786_432                    # bytes for answers in 2 MiB with 3000 records


def cache(entries=3000):
    return Access(Storage.private(2 * MIB, entries))


def ask(access, name, size):
    hit = access.get(b"%d" % name)
    if hit is None:
        assert access.put(b"%d" % name, bytes(size)) == "ok"
        return False
    hit.release()
    return True


class Lru:
    def __init__(self, room):
        self.room = room
        self.kept = OrderedDict()

    def ask(self, name, size):
        if name in self.kept:
            self.kept.move_to_end(name)
            return True
        blocks = -(-(size + len(b"%d" % name)) // 512) * 512
        while self.room < blocks:
            self.room += self.kept.popitem(last=False)[1]
        self.kept[name] = blocks
        self.room -= blocks
        return False


def zipf(dice, exponent, objects, requests):
    weights = list(accumulate(1 / rank**exponent for rank in range(1, objects + 1)))
    return [bisect(weights, dice.random() * weights[-1]) for _ in range(requests)]


def scans(dice, requests):
    """A third is asked for once, in runs of 200."""
    asked = []
    for number, name in enumerate(zipf(dice, 0.9, 5000, requests)):
        asked.append(name)
        if number % 400 == 399:
            asked += range(10_000 + number, 10_000 + number + 200)
    return asked


def close_together(dice, requests):
    """Each thing some times within a short while, and then no more."""
    asked = []
    for name in range(requests // 4):
        asked += [name] + [max(0, name - dice.randrange(1, 50)) for _ in range(3)]
    return asked


def rates(access, asked, sizes):
    """The hit rate of the later two thirds: ours, and LRU's with the same bytes."""
    assert access.stats()["bytes_max"] == ROOM
    lru, third = Lru(ROOM), len(asked) // 3
    hits = [(ask(access, name, sizes[name % len(sizes)]), lru.ask(name, sizes[name % len(sizes)])) for name in asked]
    assert access.audit() == []
    return [sum(column) / (len(asked) - third) for column in zip(*hits[third:], strict=True)]


@pytest.mark.parametrize("trace", ["zipf", "scans"])
def test_more_hits_than_lru_with_the_same_bytes(trace):
    dice = random.Random(3)
    sizes = [min(int(dice.lognormvariate(7.0, 1.0)), 30_000) for _ in range(5000)]
    asked = zipf(dice, 1.0, 5000, 40_000) if trace == "zipf" else scans(dice, 30_000)
    access = cache()
    ours, lru = rates(access, asked, sizes)
    assert ours > lru + 0.05, (ours, lru)
    assert access.stats()["new_percent"] < 10, "one that is popular stays so: what is new needs little room"


def test_what_is_new_gets_room_where_requests_come_close_together():
    dice = random.Random(5)
    access = cache()
    ours, lru = rates(access, close_together(dice, 40_000), [7000])
    assert access.stats()["new_percent"] > 30
    assert ours > lru - 0.02, (ours, lru)


def test_what_is_used_more_stays():
    access = cache(200)
    for name in range(150):                   # all are asked for again, each tenth much oftener
        for _ in range(12 if name % 10 == 0 else 2):
            ask(access, name, 100)
    for name in range(1000, 1400):            # and what comes then is asked for again too
        for _ in range(4):
            ask(access, name, 100)
    assert all(access.get(b"%d" % name) for name in range(0, 150, 10))
    assert sum(access.get(b"%d" % name) is not None for name in range(150)) < 30
    assert access.audit() == []


def test_of_two_that_are_used_alike_the_larger_goes():
    access = cache()
    for name in range(160):
        for _ in range(3):
            ask(access, name, 7000 if name % 2 else 400)
    for name in range(1000, 1300):
        for _ in range(3):
            ask(access, name, 2500)
    kept = [access.get(b"%d" % name) is not None for name in range(160)]
    assert sum(kept[::2]) == 80
    assert sum(kept[1::2]) < 40
    assert access.audit() == []


def test_what_comes_back_is_known():
    access = cache(200)
    for _ in range(8):
        ask(access, 7, 100)
    # all that is there is stronger than it, until it goes
    for name in range(1000, 1600):
        for _ in range(16):
            ask(access, name, 100)
    assert access.get(b"7") is None
    assert not ask(access, 7, 100)
    assert {name: uses for name, *_, uses in access.entries(most=200)}[b"7"] >= 5
