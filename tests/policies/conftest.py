"""A gateway in this process, on a real socket, in front of a scripted upstream."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastgw._core.engine import Engine
from fastgw._core.record import Stats
from fastgw.config import load
from fastgw.plan import Host, build_now, compile_spec
from fastgw.policies import RESOLVER
from fastgw.testing import FakeUpstream, RawClient


class Running:
    """One data plane in a thread of its own."""

    def __init__(self, text: str) -> None:
        self.config = load(text, resolver=RESOLVER, env={})
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.address = self.sock.getsockname()
        self.stats = Stats(slots=8, services=8)
        self.records: list[tuple[int, str | None]] = []
        self.loop = asyncio.new_event_loop()
        self.failure: BaseException | None = None
        ready = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self.thread.start()
        assert ready.wait(60)
        if self.failure:
            raise self.failure

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.engine = Engine(self.loop, self.stats)
            self.engine.set_access_log(lambda exchange: self.records.append((exchange.status, exchange.code)))
            self.host = Host(strict=True)
            self.engine.adopt(build_now(compile_spec(self.config), self.engine, self.host))
            self.engine.listen(self.sock)
        except BaseException as error:
            self.failure = error
            ready.set()
            return
        self.loop.call_soon(ready.set)
        self.loop.run_forever()
        self.engine.close()
        self.loop.close()

    def call(self, function: Callable[[], Any]) -> Any:
        """Runs it in the gateway's thread."""
        done: list[Any] = []
        event = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (done.append(function()), event.set()))
        assert event.wait(60)
        return done[0]

    def client(self) -> RawClient:
        return RawClient(self.address)

    def stop(self) -> None:
        if self.loop.is_closed():
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(60)


@pytest.fixture
def gateway() -> Iterator[Callable[[str], Running]]:
    running: list[Running] = []

    def start(text: str) -> Running:
        running.append(Running(text))
        return running[-1]

    yield start
    for each in running:
        each.stop()


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as server:
        yield server
