"""Hit rate of the cache's storage beside LRU with the same bytes, on generated traces.

    python -m benchmarks.cache_traces                 # all traces; some minutes
    python -m benchmarks.cache_traces --requests 200000 zipf-0.9

Both see the same requests in the same run. What an answer takes is counted alike: name, head and body, rounded up to
blocks of 512 bytes; LRU has exactly the bytes that the storage has for answers, and no index to pay for. A miss is
stored at once. The first third of the requests fills the caches and is not counted.

    zipf-A     objects are asked for by a Zipf law with exponent A; sizes are log-normal, of 2 KiB in the middle
    scan       zipf-0.9, and every third request is for something that is never asked for again, in runs of hundreds
    drift      zipf-0.9 whose popular objects change: after each twentieth of the trace a tenth of them is new
"""

from __future__ import annotations

import argparse
import random
from bisect import bisect
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate

from fastgw._core.cache_access import Access
from fastgw._core.cache_store import Storage

BLOCK = 512
OBJECTS = 60_000
HEAD = bytes(200)
MOST = 65_536
LARGE = bytes(MOST)


def sizes(dice: random.Random, count: int) -> list[int]:
    return [min(int(dice.lognormvariate(7.6, 1.0)), MOST) for _ in range(count)]


def zipf(dice: random.Random, exponent: float, requests: int) -> Iterator[int]:
    weights = list(accumulate(1.0 / rank**exponent for rank in range(1, OBJECTS + 1)))
    names = list(range(OBJECTS))
    dice.shuffle(names)
    for _ in range(requests):
        yield names[bisect(weights, dice.random() * weights[-1])]


def scan(dice: random.Random, exponent: float, requests: int) -> Iterator[int]:
    """Runs of 300 that are asked for once, after 600 that are not."""
    once = OBJECTS
    for done, name in enumerate(zipf(dice, exponent, requests), 1):
        yield name
        if done % 600 == 0:
            yield from range(once, once + 300)
            once += 300


def drift(dice: random.Random, exponent: float, requests: int) -> Iterator[int]:
    moved: dict[int, int] = {}
    for done, name in enumerate(zipf(dice, exponent, requests)):
        if done % (requests // 20) == 0:
            for _ in range(OBJECTS // 10):
                moved[dice.randrange(OBJECTS)] = dice.randrange(OBJECTS)
        yield moved.get(name, name)


TRACES = {
    "zipf-0.7": (zipf, 0.7),
    "zipf-0.9": (zipf, 0.9),
    "zipf-1.1": (zipf, 1.1),
    "scan": (scan, 0.9),
    "drift": (drift, 0.9),
}


class Lru:
    def __init__(self, room: int) -> None:
        self.room = room
        self.used = 0
        self.kept: OrderedDict[int, int] = OrderedDict()

    def ask(self, name: int, size: int) -> bool:
        if name in self.kept:
            self.kept.move_to_end(name)
            return True
        while self.used + size > self.room:
            self.used -= self.kept.popitem(last=False)[1]
        self.kept[name] = size
        self.used += size
        return False


def run(trace: str, share: float, requests: int, seed: int) -> tuple[float, float, int]:
    """Hit rates (ours, LRU's), and the bytes both had."""
    make, exponent = TRACES[trace]
    dice = random.Random(seed)
    of_objects = sizes(dice, OBJECTS)
    footprint = sum(of_objects) + OBJECTS * 500
    memory = int(footprint * share) + 12 * 1024 * 1024
    # the index of our storage is not LRU's: both have what is left for answers
    access = Access(Storage.private(memory, 24_000))
    lru = Lru(access.stats()["bytes_max"])
    hits = [0, 0]
    counted = 0
    for number, name in enumerate(make(dice, exponent, requests)):
        size = of_objects[name % OBJECTS]
        text = b"cdn.example.com/objects/%d" % name
        hit = access.get(text)
        if hit is None:
            access.put(text, LARGE[:size], head=HEAD)
        else:
            hit.release()
        blocks = -(-(len(text) + len(HEAD) + size) // BLOCK)
        known = lru.ask(name, blocks * BLOCK)
        if number * 3 >= requests:
            counted += 1
            hits[0] += hit is not None
            hits[1] += known
    return hits[0] / counted, hits[1] / counted, lru.room


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", default=list(TRACES), metavar="trace", help=", ".join(TRACES))
    parser.add_argument("--requests", type=int, default=600_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.02, 0.1], help="of all objects, above 12 MiB")
    given = parser.parse_args()
    print("| trace | MiB | fastgw | LRU | points |\n|---|---|---|---|---|")
    for trace in given.traces:
        for share in given.shares:
            ours, theirs, room = run(trace, share, given.requests, given.seed)
            row = f"| {trace} | {room / 2**20:.1f} | {ours:.1%} | {theirs:.1%} | {(ours - theirs) * 100:+.1f} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
