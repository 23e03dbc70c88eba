"""The event loop of a worker: uvloop, whose waiting is done by the reactor.

Nested the usual way, an event of a client costs two epolls and a turn of libuv. In a worker nearly all events are
clients' and upstreams', so here the reactor waits, with the loop's own epoll among its descriptors, and lets the loop
run when it has something to do. What the loop has to do beyond events of its descriptors, callbacks and timers, it
says by the two methods that everything in asyncio schedules by.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVarTuple

import uvloop

Args = TypeVarTuple("Args")
MILLISECOND = 1_000_000


class WorkerLoop(uvloop.Loop):
    """An asyncio loop. `drive_with(reactor)` hands the waiting over."""

    def __init__(self) -> None:
        super().__init__()
        self._reactor: Any = None
        self._deadlines: list[int] = []
        self._known: set[int] = set()

    def drive_with(self, reactor: Any) -> None:
        """Called by the engine, from a callback of this loop."""
        backend = getattr(self, "_get_backend_id", None)  # libuv's epoll; uvloop has it for its own tests
        if backend is None:
            reactor.start()                           # nested the usual way
            return
        self._reactor = reactor
        reactor.start_driving(backend())
        if self._deadlines:
            reactor.due = self._deadlines[0]

    def again(self, drive: Callable[[], None]) -> None:
        """The reactor's own turn after this one; it is no work of the loop."""
        super().call_soon(drive)

    def passed(self) -> None:
        """The next deadline was reached: the loop sees to its timers, we look for the one after it."""
        now = time.monotonic_ns()
        while self._deadlines and self._deadlines[0] <= now:
            self._known.discard(heapq.heappop(self._deadlines))
        if self._deadlines:
            self._reactor.due = self._deadlines[0]

    def call_soon(
        self, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> asyncio.Handle:
        if self._reactor is not None:
            self._reactor.owed = True
        return super().call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        # libuv's timers count in whole milliseconds, of a clock that is up to one behind
        at = (time.monotonic_ns() // MILLISECOND + round(delay * 1000) + 1) * MILLISECOND
        if delay >= 1:
            # a coarser step, and each kept once: timers that are set and cancelled all the time must not pile up
            at += -at % (10 * MILLISECOND)
        if at not in self._known:
            self._known.add(at)
            heapq.heappush(self._deadlines, at)
        if self._reactor is not None:
            if delay <= 0:
                self._reactor.owed = True
            elif at < self._reactor.due:
                self._reactor.due = at
        return super().call_later(delay, callback, *args, context=context)
