"""The worker's loop: the reactor waits, and nothing that asyncio promises is late for it."""

import asyncio
import os
import socket
import threading
import time

import pytest

from fastgw._core.engine import Engine
from fastgw.server.loop import WorkerLoop
from fastgw.server.shared import SharedMemory

LIMIT = 60.0


@pytest.fixture
def driven():
    """Runs a coroutine in a WorkerLoop that an engine drives."""

    def run(work):
        async def live():
            loop = asyncio.get_running_loop()
            engine = Engine(loop, SharedMemory(1, 100).stats[0])
            try:
                for _ in range(5):
                    await asyncio.sleep(0)            # the reactor has taken over
                return await asyncio.wait_for(work(loop), LIMIT)
            finally:
                engine.close()

        with asyncio.Runner(loop_factory=WorkerLoop) as runner:
            return runner.run(live())

    return run


def quickest(driven, work):
    """The least that it takes of some tries: this machine may have other things to do."""
    return min(driven(work) for _ in range(4))


def test_a_timer_is_in_time(driven):
    async def work(loop):
        begun = time.monotonic()
        await asyncio.sleep(0.05)
        return time.monotonic() - begun

    assert 0.045 <= quickest(driven, work) < 0.5      # the reactor's own longest stay is a second


def test_timers_in_any_order_and_cancelled_ones(driven):
    async def work(loop):
        order = []
        done = loop.create_future()
        loop.call_later(0.08, lambda: (order.append("late"), done.set_result(None)))
        loop.call_later(0.02, order.append, "early")
        loop.call_later(0.01, order.append, "never").cancel()
        loop.call_at(loop.time() + 0.05, order.append, "middle")
        await done
        return order

    assert driven(work) == ["early", "middle", "late"]


def test_many_cancelled_timers_do_not_pile_up(driven):
    async def work(loop):
        for _ in range(20_000):
            loop.call_later(0.5, print).cancel()
        return len(loop._deadlines)

    assert driven(work) < 3_000


def test_callbacks_run_at_once(driven):
    async def work(loop):
        begun = time.monotonic()
        for _ in range(200):
            await asyncio.sleep(0)
        return time.monotonic() - begun

    assert quickest(driven, work) < 0.5


def test_another_thread_is_heard(driven):
    async def work(loop):
        heard = loop.create_future()
        begun = time.monotonic()
        threading.Timer(0.05, lambda: loop.call_soon_threadsafe(heard.set_result, None)).start()
        await heard
        await loop.run_in_executor(None, os.getpid)
        return time.monotonic() - begun

    assert quickest(driven, work) < 0.6


def test_descriptors_of_asyncio_are_watched(driven):
    async def work(loop):
        left, right = socket.socketpair()
        begun = time.monotonic()
        with left, right:
            left.setblocking(False)
            threading.Timer(0.05, right.send, (b"x",)).start()
            got = await loop.sock_recv(left, 10)
        reader, writer = await asyncio.open_connection(sock=socket.create_connection(listening.getsockname()))
        peer, _ = await loop.run_in_executor(None, listening.accept)
        with peer:
            threading.Timer(0.05, peer.send, (b"line\n",)).start()
            line = await reader.readline()
        writer.close()
        return got, line, time.monotonic() - begun

    with socket.create_server(("127.0.0.1", 0)) as listening:
        found = [driven(work) for _ in range(4)]
    assert {(got, line) for got, line, _ in found} == {(b"x", b"line\n")}
    assert min(took for _, _, took in found) < 0.9


def test_it_sleeps_when_nothing_happens(driven):
    async def work(loop):
        used = time.process_time()
        await asyncio.sleep(0.4)
        return time.process_time() - used

    assert driven(work) < 0.1


def test_without_the_epoll_of_uvloop_it_is_nested(driven, monkeypatch):
    monkeypatch.setattr(WorkerLoop, "_get_backend_id", None)

    async def work(loop):
        await asyncio.sleep(0.02)
        return loop._reactor

    assert driven(work) is None


def test_it_ends(driven):
    async def work(loop):
        return "done"

    begun = time.monotonic()
    assert driven(work) == "done"
    assert time.monotonic() - begun < 30
