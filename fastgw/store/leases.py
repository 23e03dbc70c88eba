"""Slices of a limit that several hosts share, taken ahead: most requests are decided without a round trip.

A worker takes `slice` requests of a key at a time, asks for more before they are used up, and gives back what it has
not used in `ttl` seconds. What a slice admits was charged when it was taken, so it can be used when the limit has
already refilled: in any window as many requests as lie in slices can be admitted beyond it, `slice` for each worker of
each host. How many really were is found by the script, which hears with each slice what became of the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastgw.store.base import StoreError
from fastgw.store.limits import CHARGE, LEASE, US, Decided, Decision, Level, Rule, charges
from fastgw.store.redis import RedisStore

MAX_KEYS = 50_000
"""Of one worker; the one that was asked for longest ago gives its slice back early."""
AT_ONCE = 500
"""Slices that are given back in one turn."""


@dataclass(slots=True)
class Waiting:
    cost: int
    told: Decided


@dataclass(slots=True)
class Slice:
    """Of all limits of one key, as a request is charged to each of them. `tokens` and `marks` stand for one limit
    each."""

    names: tuple[str, ...]
    tokens: list[int]
    marks: list[int]
    levels: tuple[Level, ...] = ()
    until: float = 0.0                    # when it goes back
    used: int = 0                         # since Redis was told last,
    since: float = 0.0                    # and from when on
    refused_until: float = 0.0            # there is nothing before,
    again: float = 0.0                    # and nobody asks before, in case that somebody forgets the key's level
    asking: bool = False
    waiting: deque[Waiting] = field(default_factory=deque)


class Leases:
    """The slices of one worker under one policy. `slice`: how many requests are taken at a time."""

    def __init__(
        self, store: RedisStore, rules: Sequence[Rule], slice: int, ttl: float, over: Callable[[int, int], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.store = store
        self.rules = tuple(rules)
        self.slice = slice
        self.ttl = ttl
        self.over = over
        self.now = now
        self.slices: OrderedDict[tuple[str, ...], Slice] = OrderedDict()
        self.sweeping: asyncio.TimerHandle | None = None

    def decide(self, names: tuple[str, ...], cost: int, told: Decided) -> Decision | None:
        """The decision where it can be made at once; else None, and `told` is called with it. StoreError as in
        limits.py; the names are those of `SharedLimits.decide`."""
        found = self.slices.get(names)
        now = self.now()
        if found is None:
            found = self.slices[names] = Slice(names, [0] * len(self.rules), [0] * len(self.rules))
            if len(self.slices) > MAX_KEYS:
                self.give_back(self.slices.popitem(last=False)[1])
        else:
            self.slices.move_to_end(names)
        if found.waiting:
            found.waiting.append(Waiting(cost, told))
            return None
        if now < found.until and min(found.tokens) >= cost:
            decision = self.admitted(found, cost, now)
            if not found.asking and min(found.tokens) * 4 < self.slice:
                self.ahead(found)
            return decision
        if now < found.refused_until and now < found.again:
            return self.refused(found, now)
        found.waiting.append(Waiting(cost, told))
        if not found.asking:
            try:
                self.ask(found, max(self.slice, cost))
            except StoreError:
                found.waiting.pop()
                raise
        return None

    def admitted(self, found: Slice, cost: int, now: float) -> Decision:
        if not found.used:
            found.since = now
        found.used += cost
        for n in range(len(found.tokens)):
            found.tokens[n] -= cost
        levels = zip(found.tokens, found.levels, strict=True)
        return Decision(True, tuple(Level(level.remaining + left, level.reset, 0, 0) for left, level in levels))

    def refused(self, found: Slice, now: float) -> Decision:
        retry = max(0.001, found.refused_until - now)
        return Decision(False, tuple(
            Level(level.remaining, level.reset, retry if level.retry else 0, 0) for level in found.levels
        ))  # fmt: skip

    def unasked(self, names: tuple[str, ...], cost: int) -> None:
        """A request was admitted without Redis: it is told of it with the next slice."""
        found = self.slices.get(names)
        if found is not None:
            if not found.used:
                found.since = self.now()
            found.used += cost

    def keys(self, names: Sequence[str]) -> list[str]:
        """Where the levels stand."""
        return [self.store.key(f"limit:{{{name}}}:{n}:{rule.kind}:leased")
                for n, (name, rule) in enumerate(zip(names, self.rules, strict=True))]  # fmt: skip

    def charge(self, names: tuple[str, ...], cost: int) -> None:
        """Afterwards, out of the slice, and what it does not have in Redis, whether it is there or not. Nobody waits;
        while Redis does not answer nothing is charged there."""
        found = self.slices.get(names)
        rest = [cost] * len(self.rules)
        if found is not None and self.now() < found.until:
            for n, tokens in enumerate(found.tokens):
                taken = min(cost, tokens)
                found.tokens[n] -= taken
                rest[n] -= taken
        if any(rest):
            with contextlib.suppress(StoreError):
                self.store.run(CHARGE, self.keys(names), charges(self.rules, rest), lambda reply, error: None)

    # ------------------------------------------------------------------ Redis

    def ahead(self, found: Slice) -> None:
        """A slice before the last is used up. Without Redis the requests find out themselves."""
        try:
            self.ask(found, self.slice)
        except StoreError:
            return

    def arguments(self, found: Slice, wants: Sequence[int], now: float) -> tuple[list[str], list[Any]]:
        """What is reported and returned is gone from the slice from here on."""
        keys: list[str] = []
        words: list[Any] = []
        levels = self.keys(found.names)
        expired = now >= found.until
        since = int((now - found.since) * US) if found.used else 0
        for n, (name, rule) in enumerate(zip(found.names, self.rules, strict=True)):
            keys += (levels[n], self.store.key(f"limit:{{{name}}}:{n}:{rule.kind}:used"))
            back = found.tokens[n] if expired else 0
            found.tokens[n] -= back
            words += (*rule.words(), wants[n], found.used, since, back, found.marks[n])
        found.used = 0
        return keys, words

    def ask(self, found: Slice, want: int) -> None:
        now = self.now()
        used, since = found.used, found.since
        wants = [max(1, want - tokens) for tokens in found.tokens] if now < found.until else [want] * len(found.tokens)
        keys, words = self.arguments(found, wants, now)

        def answered(reply: Any, error: StoreError | None) -> None:
            found.asking = False
            if error is not None:
                found.used, found.since = found.used + used, (since if used else found.since)
                waiting, found.waiting = found.waiting, deque()
                for one in waiting:
                    one.told(None, error)
                return
            self.granted(found, reply, want, now)

        try:
            self.store.run(LEASE, keys, words, answered)
        except StoreError:
            found.used, found.since = used, since
            raise
        found.asking = True

    def granted(self, found: Slice, reply: Any, want: int, asked: float) -> None:
        """A slice of a window ends when the window does, by a clock that is ours: counted from when it was asked
        for."""
        now = self.now()
        valid = self.ttl
        levels = []
        short = False
        for n in range(len(self.rules)):
            got, left, reset, retry, ends, mark, over = reply[n * 7 : 7 + n * 7]
            if over:
                self.over(n, over)
            if ends >= 0:
                valid = min(valid, ends / US)
                if mark != found.marks[n]:
                    found.tokens[n] = 0              # of a window that is over
            found.tokens[n] += got
            found.marks[n] = mark
            levels.append(Level(left, reset / US, retry / US, 0))
            if got == 0:
                short = True
                found.refused_until = now + retry / US
                found.again = now + self.ttl
        found.levels = tuple(levels)
        found.until = asked + valid
        if not short:
            found.refused_until = 0.0
        self.serve(found, now, short or want > self.slice)
        if self.sweeping is None:
            self.sweeping = asyncio.get_running_loop().call_later(self.ttl, self.sweep)

    def serve(self, found: Slice, now: float, last: bool) -> None:
        """Who waits, in the order they came. `last`: there is no more for those that it is not enough for."""
        while found.waiting:
            cost = found.waiting[0].cost
            if min(found.tokens) >= cost:
                found.waiting[0].told(self.admitted(found, cost, now), None)
            elif last:
                found.waiting[0].told(self.refused(found, now), None)
            else:
                break
            found.waiting.popleft()
        if found.waiting and not found.asking:
            try:
                self.ask(found, max(self.slice + 1, sum(one.cost for one in found.waiting)))
            except StoreError as error:
                waiting, found.waiting = found.waiting, deque()
                for one in waiting:
                    one.told(None, error)

    def give_back(self, found: Slice) -> None:
        """What is left of a slice, and what became of the rest."""
        if not found.used and not any(found.tokens):
            return
        found.until = 0.0
        keys, words = self.arguments(found, [0] * len(self.rules), self.now())
        try:
            self.store.run(LEASE, keys, words, self.gave_back)
        except StoreError:
            return                                   # charged and not used: the limit refills

    def gave_back(self, reply: Any, error: StoreError | None) -> None:
        for n in range(len(self.rules) if error is None else 0):
            if over := reply[n * 7 + 6]:
                self.over(n, over)

    def sweep(self) -> None:
        """Slices whose time is over go back."""
        now = self.now()
        done: list[tuple[str, ...]] = []
        for names, one in self.slices.items():
            if now < one.until or len(done) >= AT_ONCE:
                break                                # the others were used later
            if not one.asking and not one.waiting:
                done.append(names)
        for names in done:
            self.give_back(self.slices.pop(names))
        again = 0.01 if len(done) >= AT_ONCE else self.ttl
        self.sweeping = asyncio.get_running_loop().call_later(again, self.sweep) if self.slices else None

    def close(self) -> None:
        """Gives everything back, as far as Redis can be reached."""
        if self.sweeping is not None:
            self.sweeping.cancel()
            self.sweeping = None
        for one in self.slices.values():
            self.give_back(one)
        self.slices.clear()
