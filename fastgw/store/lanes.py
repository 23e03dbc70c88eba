"""Commands on their way to one server: those of one turn of the event loop leave in one write.

A lane has few connections. While all of them wait for answers, what comes meanwhile waits too, and leaves together with
the next one that comes free: the busier the lane, the more commands share a round trip.

Who waits and the command that is under way have clocks of their own: the first is told after the `deadline` of a few
milliseconds, the second goes on until the client's own timeout. So a connection can come about that takes longer than a
request may wait, and no connection is thrown away for an answer that comes a little late.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    DataError,
    MaxConnectionsError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from fastgw.config.schema.stores import Redis
from fastgw.store.base import StoreError
from fastgw.store.breaker import Breaker
from fastgw.store.wire import Words

MAX_BATCH = 500
"""Commands of one write."""
LATE = 0.002
"""Seconds. A loop that comes to a deadline later than this looks for answers once more before it gives up."""

Told = Callable[[Any, StoreError | None], None]
"""Called once, with the answer or with what went wrong."""
Send = Callable[[Sequence[Words]], Awaitable[list[Any]]]


class Ask:
    """A command, and who is to be told; nobody, when he was told already."""

    __slots__ = ("told", "words")

    def __init__(self, words: Words, told: Told) -> None:
        self.words = words
        self.told: Told | None = told

    def tell(self, result: Any, error: StoreError | None) -> bool:
        told, self.told = self.told, None
        if told is None:
            return False
        told(result, error)
        return True


def in_our_words(error: BaseException) -> StoreError:
    """The library's own could quote what was sent."""
    name = type(error).__name__
    if isinstance(error, MaxConnectionsError):
        return StoreError("busy", "all connections are")
    # answers that come from a server which cannot serve are no answers
    if isinstance(error, (BusyLoadingError, ClusterDownError, ReadOnlyError)):
        return StoreError("unreachable", name)
    if isinstance(error, (ResponseError, DataError)):
        return StoreError("refused", name)
    if isinstance(error, (RedisError, RedisClusterException, OSError, asyncio.CancelledError)):
        return StoreError("unreachable", name)
    return StoreError("failed", name)


class Lane:
    """`failed(error, opened)` is told of each failure, and whether it opened the breaker."""

    def __init__(
        self, options: Redis, breaker: Breaker, send: Send, failed: Callable[[StoreError, int, bool], None]
    ) -> None:
        self.options = options
        self.breaker = breaker
        self.send = send
        self.failed = failed
        self.waiting: deque[Ask] = deque()
        self.turn: list[Ask] | None = None           # asked for since the loop's last turn
        self.running: set[asyncio.Task[None]] = set()
        self.round_trips = 0

    def submit(self, words: Words, told: Told) -> None:
        """StoreError when it is known at once that there will be no answer; then nobody is told."""
        if len(self.waiting) >= self.options.max_waiting:
            raise StoreError("busy", "too many commands wait")
        if not self.breaker.admits():
            raise StoreError("paused", "it failed before")
        ask = Ask(words, told)
        if self.turn is None:
            self.turn = []
            loop = asyncio.get_running_loop()
            loop.call_soon(self.flush)
            loop.call_later(self.options.deadline, self.expire, self.turn, loop.time() + self.options.deadline + LATE)
        self.turn.append(ask)
        self.waiting.append(ask)

    def flush(self) -> None:
        self.turn = None
        while self.waiting and len(self.running) < self.options.max_connections:
            batch: list[Ask] = []
            while self.waiting and len(batch) < MAX_BATCH:
                ask = self.waiting.popleft()
                if ask.told is not None:             # else the deadline was faster
                    batch.append(ask)
            if batch:
                task = asyncio.get_running_loop().create_task(self.exchange(batch))
                self.running.add(task)
                task.add_done_callback(self.done)

    def done(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        if not task.cancelled():
            task.exception()                         # nobody else looks at it
            self.flush()

    async def exchange(self, batch: list[Ask]) -> None:
        self.round_trips += 1
        try:
            replies = await self.send([ask.words for ask in batch])
        except BaseException as error:
            self.fail(batch, in_our_words(error))
            if not isinstance(error, Exception):
                raise
            return
        good = False
        lost = []
        for ask, reply in zip(batch, replies, strict=True):
            if not isinstance(reply, BaseException):
                good |= ask.tell(reply, None)
                continue
            failure = in_our_words(reply)
            if failure.reason == "refused":          # an answer that says no is an answer
                if ask.tell(None, failure):
                    good = True
                    self.failed(failure, 1, False)
            else:
                lost.append((ask, failure))
        if good:
            self.breaker.good()
        if lost:
            self.fail([ask for ask, _ in lost], lost[0][1])

    def fail(self, batch: list[Ask], error: StoreError) -> None:
        """Once for all of them. What the deadline has told of already was counted then."""
        told = sum([ask.tell(None, error) for ask in batch])
        if told:
            self.failed(error, told, self.breaker.bad())

    def expire(self, turn: list[Ask], late: float) -> None:
        if all(ask.told is None for ask in turn):
            return
        loop = asyncio.get_running_loop()
        if loop.time() > late:
            # the loop was busy elsewhere, and looks at its timers before it looks at its sockets
            loop.call_later(LATE / 2, self.expire, turn, float("inf"))
            return
        self.fail(turn, StoreError("deadline", f"no answer in {self.options.deadline * 1000:g} ms"))
        self.waiting = deque(ask for ask in self.waiting if ask.told is not None)

    async def close(self) -> None:
        tasks = list(self.running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.fail(list(self.waiting), StoreError("unreachable", "the store was closed"))
        self.waiting.clear()
