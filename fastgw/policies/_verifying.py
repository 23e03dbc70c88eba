"""How much of a worker's time goes into tokens that it has not seen before.

A signature takes 40 to 400 microseconds in which nobody else is served (the libraries hold Python's lock: threads gain
nothing). Whoever sends nothing but new tokens would have all of it. So there is a budget: at most SHARE of the time, at
most BURST at once. What comes beyond waits, by address in turn, and what does not fit in there any more gets 503. A
token that was verified before is found in the cache and never comes here.

A flood is of tokens that are not good: nobody can make up others. Those take more of the budget than they took of the
time, and those that are good less, so that clients who sign each request anew, or tokens that are not to be remembered,
wait for nobody while they are alone. (What waits costs the worker more than a signature: a Task, a timer, and caches
that others have had meanwhile.)
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from fastgw._core.exchange import Problem
from fastgw._core.verified import Verified

T = TypeVar("T")

SHARE = 0.25
WASTED = 4
"""Times as much costs a token that is not good,"""
PROVEN = 1 / 3
"""and so much a good one: they may have three quarters of the time."""
BURST = 0.0001
"""Seconds."""
MOST = 1000
"""Tokens that wait."""
TICK = 0.001
"""uvloop counts in milliseconds."""
SAVED = max(BURST, TICK * SHARE)
"""What a tick brings is not lost."""


SIGNED = (Verified, dict)
"""What is known of a good token, and the parameters of a good signature."""


def busy() -> Problem:
    detail = "Too many new tokens are waiting to be verified."
    return Problem(503, "verification_busy", detail, headers={"Retry-After": "1"}, side=2)


class Verifying(Generic[T]):
    """The budget of one worker. `now` gives seconds, `cpu` those that this thread has worked: a machine that gives
    its time to others takes nothing of the budget."""

    def __init__(
        self, now: Callable[[], float] = time.perf_counter, cpu: Callable[[], float] = time.thread_time
    ) -> None:
        self.now = now
        self.cpu = cpu
        self.credit = BURST
        self.seen = now()
        self.waiting: dict[str, deque[tuple[Callable[[], T], asyncio.Future[T | Problem]]]] = {}
        self.count = 0
        self.timer: asyncio.Handle | None = None

    def has_credit(self) -> bool:
        now = self.now()
        self.credit = min(SAVED, self.credit + (now - self.seen) * SHARE)
        self.seen = now
        return self.credit > 0

    def spend(self, verify: Callable[[], T]) -> T:
        begun, times = self.cpu(), float(WASTED)
        try:
            result = verify()
            if isinstance(result, SIGNED):
                times = PROVEN
            elif not isinstance(result, Problem):
                times = 1.0
            return result
        finally:
            self.credit -= (self.cpu() - begun) * times

    def run(self, verify: Callable[[], T], client: str) -> T | Problem | Awaitable[T | Problem]:
        """Its result at once, or when its turn has come; a Problem when too many wait."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:                         # a trial without a gateway: nobody else is there
            return self.spend(verify)
        if not self.count and self.has_credit():
            return self.spend(verify)
        if self.count >= MOST and not self.make_room(client):
            return busy()
        future: asyncio.Future[T | Problem] = loop.create_future()
        self.waiting.setdefault(client, deque()).append((verify, future))
        self.count += 1
        if self.timer is None:
            self.timer = loop.call_later(TICK, self.advance)
        return future

    def make_room(self, client: str) -> bool:
        """Of the address that has most waiting, the last one goes; unless that is the one who asks."""
        longest = max(self.waiting, key=lambda address: len(self.waiting[address]))
        mine = len(self.waiting.get(client, ()))
        if mine + 1 >= len(self.waiting[longest]):
            return False
        _, future = self.waiting[longest].pop()
        self.count -= 1
        if not future.done():
            future.set_result(busy())
        return True

    def advance(self) -> None:
        """As many as the budget allows, one of each address in turn; after BURST everybody else has a turn."""
        self.timer = None
        begun = self.cpu()
        while self.count and self.has_credit():
            if self.cpu() - begun > BURST:
                self.timer = asyncio.get_running_loop().call_soon(self.advance)
                return
            client = next(iter(self.waiting))
            queue = self.waiting.pop(client)
            verify, future = queue.popleft()
            self.count -= 1
            if queue:
                self.waiting[client] = queue         # to the end of the line
            if future.done():                        # who asked has gone
                continue
            try:
                future.set_result(self.spend(verify))
            except Exception as error:
                future.set_exception(error)
        if self.count:
            self.timer = asyncio.get_running_loop().call_later(TICK, self.advance)
