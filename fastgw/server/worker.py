"""A worker: serves with one data plane, and does what the agent asks."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from typing import Any

from fastgw.observe import logging as process_log
from fastgw.policies._mirror import Reports
from fastgw.server import control, plan_file
from fastgw.server.dataplane import DataPlane
from fastgw.server.loop import WorkerLoop
from fastgw.server.sockets import make_listen
from fastgw.server.start import WorkerStart

logger = logging.getLogger("fastgw.worker")

PUBLIC_SECONDS = 5.0


class Worker:
    def __init__(self, start: WorkerStart, loop: asyncio.AbstractEventLoop) -> None:
        self.start = start
        self.loop = loop
        self.agent = start.agent
        self.drain_seconds = start.drain
        self.stopped = asyncio.Event()
        self.draining = False
        self.questions: dict[str, asyncio.Future[Any]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        start.stats.reset_gauges()
        shared = start.health, start.usage, start.bans, start.circuits, start.cache, start.holds, start.limit_counts
        if not start.cache.attach():
            logger.error("the cache has no place for this process: it serves without")
        self.plane = DataPlane(loop, start.stats, start.buckets, self.ask_public, *shared)
        self.plane.read_api_keys(start.api_keys.file)
        if start.api_keys.store is not None:         # until the agent has told what it knows
            self.plane.take_api_keys({"whole": {}, "broken": True})

    def run(self) -> None:
        """Takes the plan it was born with and begins to accept."""
        spec = plan_file.read(self.start.plan)
        os.close(self.start.plan)
        self.plane.discover(self.start.endpoints)
        self.plane.keys.ask = lambda source: self.tell({"op": "keys_wanted", "source": source})
        self.plane.keys.take(self.start.keys)
        self.plane.adopt_now(spec)
        for url, addresses in self.start.addresses.items():
            self.plane.engine.set_addresses(url, addresses)
        self.plane.prepare_log(self.start.access_log)
        self.plane.adopt_log()
        if not self.start.held:
            self.accept()
        self.loop.add_reader(self.agent, self.on_agent)
        self.loop.add_signal_handler(signal.SIGTERM, self.stop)
        self.loop.add_signal_handler(signal.SIGUSR1, self.plane.reopen_log)
        self.loop.add_signal_handler(signal.SIGUSR2, self.retire)
        hello = {"op": "hello", "slot": self.start.slot, "pid": os.getpid(), "generation": spec.generation}
        self.tell({**hello, "held": self.start.held})

    def accept(self) -> None:
        for name, sockets in self.start.sockets.items():
            for sock in sockets:
                make_listen(sock)
            self.plane.listen(name, *sockets)

    def tell(self, message: control.Message, fds: tuple[int, ...] = ()) -> None:
        control.send(self.agent, message, fds)

    # ------------------------------------------------------------------ the agent's wishes

    def on_agent(self) -> None:
        while True:
            try:
                received = control.receive(self.agent)
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                self.loop.remove_reader(self.agent)    # our end stays: the next agent gets the other one
                return
            message, fds = received
            task = self.loop.create_task(self.handle(message, fds))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def handle(self, message: control.Message, fds: list[int]) -> None:
        operation = message["op"]
        try:
            answer = await getattr(self, f"on_{operation}")(message, fds)
            failure = None
        except Exception as error:
            logger.exception("the agent's %s failed", operation)
            answer, failure = None, f"{type(error).__name__}: {error}"
        finally:
            for fd in fds:
                os.close(fd)
        if "id" in message:
            self.tell({"op": "answer", "id": message["id"], "value": answer, "error": failure})

    async def on_prepare(self, message: control.Message, fds: list[int]) -> int:
        spec = plan_file.read(fds[0])
        await self.plane.prepare(spec, message["access_log"])
        return int(spec.generation)

    async def on_adopt(self, message: control.Message, fds: list[int]) -> None:
        """Everything was prepared everywhere: from here on the new configuration serves."""
        self.plane.adopt()
        self.drain_seconds = message["drain"]
        process_log.configure(*message["logging"])
        added: dict[str, list[socket.socket]] = {}
        for name, fd in zip(message["listen"], fds, strict=True):
            added.setdefault(name, []).append(socket.socket(fileno=os.dup(fd)))
        for name, sockets in added.items():
            self.plane.listen(name, *sockets)
        for name in message["unlisten"]:
            self.plane.unlisten(name)

    async def on_try(self, message: control.Message, fds: list[int]) -> None:
        """Another plan is made beside the one in force; from `on_share` on it serves a part of the clients."""
        await self.plane.prepare_trial(plan_file.read(fds[0]))

    async def on_share(self, message: control.Message, fds: list[int]) -> None:
        self.plane.begin_trial(self.start.trial, message["share"], message["by"], message["seed"], message["seconds"])

    async def on_return(self, message: control.Message, fds: list[int]) -> None:
        self.plane.end_trial()

    async def on_accept(self, message: control.Message, fds: list[int]) -> None:
        """All workers of a supervisor that takes over are there."""
        if self.start.held:
            self.start.held = False
            self.accept()

    async def on_forget(self, message: control.Message, fds: list[int]) -> None:
        self.plane.forget()

    async def on_snapshot(self, message: control.Message, fds: list[int]) -> dict[str, Any]:
        return self.plane.snapshot()

    async def on_mirrors(self, message: control.Message, fds: list[int]) -> Reports:
        return self.plane.mirrors()

    async def on_reset_mirrors(self, message: control.Message, fds: list[int]) -> None:
        self.plane.reset_mirrors(message["route"])

    async def on_addresses(self, message: control.Message, fds: list[int]) -> None:
        for url, addresses in message["addresses"].items():
            self.plane.engine.set_addresses(url, addresses)

    async def on_endpoints(self, message: control.Message, fds: list[int]) -> None:
        self.plane.discover(message["endpoints"])

    async def on_keys(self, message: control.Message, fds: list[int]) -> None:
        self.plane.keys.take(message["keys"], message["checked"])

    async def on_api_keys(self, message: control.Message, fds: list[int]) -> None:
        self.plane.take_api_keys(message)

    async def on_answer(self, message: control.Message, fds: list[int]) -> None:
        future = self.questions.pop(message["question"], None)
        if future is not None and not future.done():
            future.set_result(message["value"])

    async def ask_public(self, kind: str) -> tuple[int, str, bytes]:
        """A public endpoint: /health is ours, the others are the agent's to answer."""
        if kind == "health":
            return 200, "application/json", b'{"status":"ok"}\n'
        future = self.questions.get(kind)
        if future is None:                           # who asks while the agent is asked shares its answer
            future = self.questions[kind] = self.loop.create_future()
            self.tell({"op": "public", "kind": kind, "question": kind})
            self.loop.call_later(PUBLIC_SECONDS, self.give_up, kind, future)
        return await asyncio.shield(future)

    def give_up(self, kind: str, future: asyncio.Future[Any]) -> None:
        if self.questions.get(kind) is future:
            del self.questions[kind]
        if not future.done():
            future.set_result((503, "application/json", b'{"status":"the agent does not answer"}\n'))

    # ------------------------------------------------------------------ the end

    def stop(self) -> None:
        """SIGTERM: drain; a second one: at once."""
        if self.draining:
            self.plane.close()
            self.stopped.set()
            return
        self.end_with(self.plane.drain(self.drain_seconds))

    def retire(self) -> None:
        """SIGUSR2: others accept from our sockets now."""
        if not self.draining:
            self.end_with(self.plane.retire(self.drain_seconds))

    def end_with(self, draining: Coroutine[Any, Any, None]) -> None:
        self.draining = True
        task = self.loop.create_task(draining)
        self.tasks.add(task)
        task.add_done_callback(lambda _: self.stopped.set())


def worker_main(start: WorkerStart) -> int:
    """The life of a worker process; its exit code."""

    async def live() -> None:
        worker = Worker(start, asyncio.get_running_loop())
        worker.run()
        # nothing that is alive now will ever be garbage; cycles are rare on the request path
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        await worker.stopped.wait()

    try:
        with asyncio.Runner(loop_factory=WorkerLoop) as runner:
            runner.run(live())
    except Exception:
        logger.exception("the worker cannot go on")
        return 1
    return 0
