"""Hit rate of the cache's storage beside LRU with the same bytes, on generated traces.

    python -m benchmarks.cache_traces                 # all traces; some minutes
    python -m benchmarks.cache_traces --requests 200000 zipf-0.9

Both see the same requests in the same run, with room for 1, 5 and 10 % of the bytes of all that the trace asks for.
What an answer takes is counted alike: name, head and body, rounded up to blocks of 512 bytes; LRU has exactly the
bytes that the storage has for answers, and no index to pay for. A miss is stored at once. The first third of the
requests fills the caches and is not counted. Results go to benchmarks/results/hit-rates.json and .md.

    zipf-A     objects are asked for by a Zipf law with exponent A; sizes are log-normal, of 2 KiB in the middle
    scan       zipf-0.9, and every third request is for something that is never asked for again, in runs of hundreds
    drift      zipf-0.9 whose popular objects change: after each twentieth of the trace a tenth of them is new
    recent     a third is new, the others are for one that was asked for lately (log-normal, 400 requests ago in the
               middle): what LRU is best at

Two bounds stand beside them, in the same bytes. `best set`: the objects that never leave were chosen with the whole
trace in sight, by requests ÷ size (more than any cache can know before the end). `bound`: no cache reaches more, even
one that knows the future, as each hit needs the room of its object from one request for it to the next, and there is
only so much room and time (PFOO-U; Berger, Beckmann, Harchol-Balter, "Practical bounds on optimal caching with
variable object sizes", 2018).
"""

from __future__ import annotations

import argparse
import json
import random
from bisect import bisect
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

from fastgw._core.cache_access import Access
from fastgw._core.cache_store import Storage

from .macro.facts import gather
from .macro.report import table

RESULTS = Path(__file__).resolve().parent / "results"
BLOCK = 512
OBJECTS = 60_000
HEAD = bytes(200)
MOST = 65_536
LARGE = bytes(MOST)
SHARES = (0.01, 0.05, 0.1)


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


def recent(dice: random.Random, new: float, requests: int) -> Iterator[int]:
    asked: list[int] = []
    names = 0
    for _ in range(requests):
        if not asked or dice.random() < new:
            names += 1
            asked.append(names)
        else:
            asked.append(asked[-min(len(asked), int(dice.lognormvariate(6, 2)) + 1)])
        yield asked[-1]


TRACES: Mapping[str, tuple[Callable[[random.Random, float, int], Iterator[int]], float]] = {
    "zipf-0.7": (zipf, 0.7),
    "zipf-0.9": (zipf, 0.9),
    "zipf-1.1": (zipf, 1.1),
    "scan": (scan, 0.9),
    "drift": (drift, 0.9),
    "recent": (recent, 1 / 3),
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


@dataclass(slots=True)
class Trace:
    """`sizes` are those of bodies, by name modulo their number."""

    name: str
    asked: list[int]
    sizes: list[int]

    @staticmethod
    def make(name: str, requests: int, seed: int) -> Trace:
        maker, parameter = TRACES[name]
        dice = random.Random(seed)
        of_objects = sizes(dice, OBJECTS)
        return Trace(name, list(maker(dice, parameter, requests)), of_objects)

    def size(self, name: int) -> int:
        return self.sizes[name % len(self.sizes)]

    def stored(self, name: int) -> int:
        """Bytes an answer takes in the storage."""
        return -(-(len(key(name)) + len(HEAD) + self.size(name)) // BLOCK) * BLOCK

    @property
    def footprint(self) -> int:
        return sum(self.stored(name) for name in set(self.asked))

    @property
    def counted_from(self) -> int:
        return len(self.asked) // 3


def key(name: int) -> bytes:
    return b"cdn.example.com/objects/%d" % name


@dataclass(slots=True)
class Row:
    """Shares of requests that hit, and of the bytes of bodies that came out of the cache."""

    trace: str
    share: float
    mib: float
    fastgw: float
    lru: float
    best_set: float
    bound: float
    fastgw_bytes: float
    lru_bytes: float
    new_percent: int


def storage_for(room: int) -> Access:
    """With so many bytes for answers, rounded up to 256 KiB, and more records than they can have answers."""
    records = max(1024, room // BLOCK)
    memory = room + 4 * 1024 * 1024
    while True:
        access = Access(Storage.private(memory, records))
        have = access.stats()["bytes_max"]
        if have - 256 * 1024 < room <= have:
            return access
        memory += room - have + 128 * 1024


def bounds(trace: Trace, room: int) -> tuple[float, float]:
    """`best set` and `bound`."""
    first, counted = trace.counted_from, len(trace.asked) - trace.counted_from
    last: dict[int, int] = {}
    again = [0] * counted
    volumes = []
    for number, name in enumerate(trace.asked):
        if number >= first and name in last:
            again[number - first] = 1
            volumes.append((number - max(last[name], first)) * trace.stored(name))
        last[name] = number
    volumes.sort()
    hits, volume = 0, 0
    for one in volumes:
        volume += one
        if volume > room * counted:
            hits += 1  # a part of it
            break
        hits += 1
    chosen, used = set(), 0
    times = Counter(trace.asked)
    for name in sorted(times, key=lambda name: times[name] / trace.stored(name), reverse=True):
        if used + trace.stored(name) <= room:
            chosen.add(name)
            used += trace.stored(name)
    kept = sum(known for name, known in zip(trace.asked[first:], again, strict=True) if name in chosen)
    return kept / counted, hits / counted


def run(trace: Trace, share: float, with_bounds: bool = True) -> Row:
    access = storage_for(int(trace.footprint * share))
    lru = Lru(access.stats()["bytes_max"])
    hits, sent, counted, asked_bytes = [0, 0], [0, 0], 0, 0
    for number, name in enumerate(trace.asked):
        size, text = trace.size(name), key(name)
        hit = access.get(text)
        if hit is None:
            access.put(text, LARGE[:size], head=HEAD)
        else:
            hit.release()
        known = lru.ask(name, trace.stored(name))
        if number >= trace.counted_from:
            counted += 1
            asked_bytes += size
            for which, found in enumerate((hit is not None, known)):
                hits[which] += found
                sent[which] += found * size
    best, most = bounds(trace, lru.room) if with_bounds else (0.0, 0.0)
    rates = [one / counted for one in hits] + [one / asked_bytes for one in sent]
    new = access.stats()["new_percent"]
    return Row(trace.name, share, lru.room / 2**20, rates[0], rates[1], best, most, rates[2], rates[3], new)


def as_table(rows: Sequence[Row]) -> str:
    head = ("trace", "of all bytes", "MiB", "fastgw", "LRU", "points", "best set", "bound", "bytes", "LRU", "new")
    return table(
        head,
        [
            (
                *(row.trace, f"{row.share:.0%}", f"{row.mib:.1f}", f"{row.fastgw:.1%}", f"{row.lru:.1%}"),
                *(f"{(row.fastgw - row.lru) * 100:+.1f}", f"{row.best_set:.1%}", f"{row.bound:.1%}"),
                *(f"{row.fastgw_bytes:.1%}", f"{row.lru_bytes:.1%}", f"{row.new_percent}%"),
            )
            for row in rows
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", default=list(TRACES), metavar="trace", help=", ".join(TRACES))
    parser.add_argument("--requests", type=int, default=400_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES, help="of the bytes of all that is asked for")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    facts = gather()
    rows = []
    for name in given.traces:
        trace = Trace.make(name, given.requests, given.seed)
        for share in given.shares:
            rows.append(run(trace, share))
            print(as_table(rows[-1:]).splitlines()[-1], flush=True)
    given.results.mkdir(parents=True, exist_ok=True)
    found = {**facts, "requests": given.requests, "seed": given.seed, "rows": [asdict(row) for row in rows]}
    (given.results / "hit-rates.json").write_text(json.dumps(found, indent=2) + "\n")
    note = (
        f"`python -m benchmarks.cache_traces --requests {given.requests} --seed {given.seed}`, "
        f"commit `{facts['commit']}`. What the columns are is told at the head of the module; `points` are fastgw's "
        "above LRU, `bytes` the share of bytes that came out of the cache (fastgw, LRU), `new` the share that the "
        "queue of what is new had at the end."
    )
    (given.results / "hit-rates.md").write_text(f"# Hit rates at equal bytes\n\n{note}\n\n{as_table(rows)}\n")


if __name__ == "__main__":
    main()
