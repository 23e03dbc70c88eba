"""Limits that several hosts share, decided by one script in Redis, with the clock of Redis.

    limits = SharedLimits(store)
    limits.decide(["…"], (Rule("bucket", 100, 60.0, 100),), 1, told)       # told(Decision or None, StoreError or None)

Several rules are one round trip: all of them admit, or none is charged. `leases.py` takes slices of a limit ahead
instead.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastgw.store.base import StoreError
from fastgw.store.redis import RedisStore, Script

FOLDER = Path(__file__).parent
COMMON = (FOLDER / "limits.lua").read_text()
EXACT = Script(COMMON + (FOLDER / "limits_exact.lua").read_text())
LEASE = Script(COMMON + (FOLDER / "limits_lease.lua").read_text())
CHARGE = Script(COMMON + (FOLDER / "limits_charge.lua").read_text())
DROP = Script("return redis.call('DEL', unpack(KEYS))")
GRAIN = 64
"""Parts of a microsecond: an interval is so many whole ones, which the numbers of Lua add without rounding."""
MAX_DEBTS = 10_000
"""Keys whose requests are remembered while Redis does not answer."""
US = 1e6

Kind = Literal["bucket", "fixed", "sliding", "log"]


@dataclass(frozen=True, slots=True)
class Rule:
    """`requests` in `per` seconds. A `bucket` (GCRA) holds `burst`, by default as many; as a queue that leaks it
    tells when the turn of one that is admitted comes (`Level.delay`)."""

    kind: Kind
    requests: int
    per: float
    burst: int = 0

    @property
    def interval(self) -> float:
        """Microseconds for one request, rounded up: never more than was asked for."""
        return math.ceil(self.per * US * GRAIN / self.requests) / GRAIN

    @property
    def capacity(self) -> int:
        """What may come at once."""
        return (self.burst or self.requests) if self.kind == "bucket" else self.requests

    def words(self) -> tuple[Any, ...]:
        return self.kind, self.requests, math.ceil(self.per * US), self.interval, self.capacity


@dataclass(frozen=True, slots=True)
class Level:
    """`remaining` requests; seconds until all of them are back (`reset`), until one like this would be admitted
    (`retry`, 0 when it was), and until its turn comes in a queue that leaks (`delay`)."""

    remaining: int
    reset: float
    retry: float
    delay: float


@dataclass(frozen=True, slots=True)
class Decision:
    admitted: bool
    levels: tuple[Level, ...]


Decided = Callable[[Decision | None, StoreError | None], None]


class Debts:
    """Requests that were admitted without Redis, to be charged when it answers again. Bounded: of more keys than
    MAX_DEBTS the oldest are forgotten."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.kept: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def add(self, key: str, amount: int) -> None:
        count, since = self.kept.pop(key, (0, self.now()))
        self.kept[key] = count + amount, since
        if len(self.kept) > MAX_DEBTS:
            self.kept.popitem(last=False)

    def take(self, key: str) -> tuple[int, int]:
        """(requests, microseconds since the first)"""
        found = self.kept.pop(key, None) if self.kept else None
        if found is None:
            return 0, 0
        return found[0], max(0, int((self.now() - found[1]) * US))


def charges(rules: Sequence[Rule], costs: Sequence[int]) -> list[Any]:
    return [word for rule, cost in zip(rules, costs, strict=True) for word in (*rule.words(), cost)]


async def look(store: RedisStore, keys: Sequence[str], rules: Sequence[Rule]) -> list[Level]:
    """How the limits stand; nothing is charged. StoreError."""
    words = [word for rule in rules for word in (*rule.words(), 0, 0)]
    reply = await store.evaluate(EXACT, keys, 0, *words)
    told = [reply[1 + number * 5 : 6 + number * 5] for number in range(len(rules))]
    return [Level(left, reset / US, retry / US, delay / US) for left, reset, retry, delay, _ in told]


async def drop(store: RedisStore, keys: Sequence[str]) -> int:
    """Forgets what stands there: how many keys. StoreError."""
    return int(await store.evaluate(DROP, keys))


class SharedLimits:
    """`over(number, requests)` hears of what turns out to have been admitted beyond which of the rules."""

    def __init__(
        self, store: RedisStore, over: Callable[[int, int], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.store = store
        self.over = over
        self.debts = Debts(now)

    def key(self, name: str, number: int, rule: Rule) -> str:
        """What has the same name is on one server of a Cluster. Another kind of limit has another key: what stands
        there has another form."""
        return self.store.key(f"limit:{{{name}}}:{number}:{rule.kind}")

    def decide(self, names: Sequence[str], rules: Sequence[Rule], cost: int, told: Decided) -> None:
        """`names`: for each rule what is counted together, in letters and digits. StoreError when it is known at once
        that there will be no decision."""
        arguments: list[Any] = [cost]
        owed = []
        keys = [self.key(name, number, rule) for number, (name, rule) in enumerate(zip(names, rules, strict=True))]
        for key, rule in zip(keys, rules, strict=True):
            debt, since = self.debts.take(key)
            if debt:
                owed.append((key, debt))
            arguments += (*rule.words(), debt, since)

        def answered(reply: Any, error: StoreError | None) -> None:
            if error is not None:
                self.owe(owed)
                told(None, error)
                return
            levels = []
            for number in range(len(rules)):
                left, reset, retry, delay, over = reply[1 + number * 5 : 6 + number * 5]
                levels.append(Level(left, reset / US, retry / US, delay / US))
                if over:
                    self.over(number, over)
            told(Decision(reply[0] == 1, tuple(levels)), None)

        try:
            self.store.run(EXACT, keys, arguments, answered)
        except StoreError:
            self.owe(owed)
            raise

    def charge(self, names: Sequence[str], rules: Sequence[Rule], cost: int) -> None:
        """Afterwards, whether it is there or not; nobody waits for it. While Redis does not answer it is a debt."""
        keys = [self.key(name, number, rule) for number, (name, rule) in enumerate(zip(names, rules, strict=True))]

        def answered(reply: Any, error: StoreError | None) -> None:
            if error is not None:
                self.owe([(key, cost) for key in keys])

        try:
            self.store.run(CHARGE, keys, charges(rules, [cost] * len(keys)), answered)
        except StoreError as error:
            answered(None, error)

    def unasked(self, names: Sequence[str], rules: Sequence[Rule], cost: int) -> None:
        """A request was admitted without Redis."""
        for number, (name, rule) in enumerate(zip(names, rules, strict=True)):
            self.debts.add(self.key(name, number, rule), cost)

    def owe(self, debts: Sequence[tuple[str, int]]) -> None:
        for key, amount in debts:
            self.debts.add(key, amount)
