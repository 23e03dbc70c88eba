"""The supervisor: owns the listening sockets and the shared memory, forks, waits, and passes descriptors.

It does nothing that can fail for a configuration's sake: those failures belong to the agent. A child that dies is
replaced, with a pause that grows while it keeps dying; what waits in its accept queue is served by its successor,
because the sockets are ours.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Container, Sequence
from typing import Any

from fastgw.config.schema.address import Bind
from fastgw.observe import logging as process_log
from fastgw.server import control
from fastgw.server.activation import Sockets, explain_left
from fastgw.server.compiled import Compiled, Release
from fastgw.server.notify import Notifier
from fastgw.server.process import become_child, describe
from fastgw.server.shared import SharedMemory
from fastgw.server.sockets import ListenError, open_listener, open_single, remove_file, share_of
from fastgw.server.start import AgentStart, WorkerStart
from fastgw.server.worker import worker_main
from fastgw.upstreams.discovery import EndpointSet

logger = logging.getLogger("fastgw.supervisor")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 10.0
STABLE = 10.0
"""A child that lived so long, in seconds, died for a new reason: the pause starts over."""
GRACE = 2.0
"""Seconds that a child has beyond what it was given: then it is killed, be it stuck or stopped."""
MODEST = 10
"""The nice value of the agent: what it does can wait, requests can not."""
AGENTS = 3
"""So many agents in turn are asked for one reload that a SIGHUP wants: no file ends every agent for ever."""


class Child:
    """One place in the process tree, and who holds it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self.born = 0.0
        self.pause = FIRST_PAUSE
        self.due = 0.0


class Supervisor:
    """`agent_main(start)` is the life of the agent process (admin.agent; this room does not know that one)."""

    def __init__(
        self,
        compiled: Compiled,
        source: Any,
        workers: int,
        memory: SharedMemory,
        agent_main: Callable[[AgentStart], int],
        activated: Sockets | None = None,
    ) -> None:
        self.agent_main = agent_main
        self.activated = dict(activated or {})
        """Sockets of a service manager: they stay open, used or not, and their files are not ours."""
        self.release = Release.of(compiled)
        self.source = self.started_from = source
        self.count = workers
        self.memory = memory
        self.sockets: Sockets = {}
        self.pending: Sockets = {}
        self.notifier = Notifier()
        self.serving = False
        self.admin: socket.socket | None = None
        self.workers = [Child(f"fastgw-{slot}") for slot in range(workers)]
        self.agent = Child("fastgw-agent")
        self.links: dict[int, tuple[socket.socket, socket.socket]] = {}
        self.channel: tuple[socket.socket, socket.socket] | None = None
        self.addresses: dict[str, Any] = {}
        self.endpoints: dict[str, EndpointSet] = {}
        self.keys: dict[Any, Any] = {}               # Source → KeySet
        self.restarts = 0
        self.reloads_wanted = 0
        self.reloads_done = 0
        self.agents_left = 0
        self.stopping = False
        self.terms = 0
        self.agent_told = False
        self.deadline = 0.0
        self.parent = os.getpid()

    # ------------------------------------------------------------------ start

    def open(self) -> None:
        """Raises ListenError; nothing was forked yet."""
        for bind in self.release.head.server.binds:
            self.sockets[str(bind)] = self.open_one(bind)
        admin = self.release.head.admin
        if admin.enabled:
            given = self.activated.get(str(admin.bind))
            self.admin = given[0] if given else open_single(admin.bind)
        used = {*self.sockets, str(admin.bind)}
        left = {name: sockets for name, sockets in self.activated.items() if name not in used}
        for line in explain_left(left, used):
            logger.warning("%s", line)

    def open_one(self, bind: Bind) -> list[socket.socket]:
        """The sockets of a listener: those of the service manager where it has some of this address."""
        return self.activated.get(str(bind)) or open_listener(bind, self.count)

    def run(self) -> int:
        """Until the end; the exit code."""
        self.open()
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        selector = selectors.DefaultSelector()
        selector.register(reader, selectors.EVENT_READ)
        self.selector = selector
        gc.collect()
        gc.freeze()                                  # children share these pages; the collector must not touch them
        for slot in range(self.count):
            self.links[slot] = control.channel()
        self.fork_agent()
        for slot in range(self.count):
            self.fork_worker(slot)
        while True:
            timeout = self.next_timeout()
            for key, _ in selector.select(timeout):
                if key.fd == reader:
                    self.on_signals(os.read(reader, 512))
                else:
                    self.on_agent()
            self.reap()
            self.notifier.beat()
            if self.stopping:
                if self.finished():
                    # the interpreter gives them their defaults back on its way out: a late one would be the exit code
                    for number in (signal.SIGTERM, signal.SIGINT):
                        signal.signal(number, signal.SIG_IGN)
                    return 0
            else:
                self.refork()

    def next_timeout(self) -> float | None:
        dates = [child.due for child in (*self.workers, self.agent) if child.pid == 0 and child.due]
        if self.stopping:
            dates.append(self.deadline)
        beat = self.notifier.next_beat()
        if beat is not None:
            dates.append(beat)
        return max(0.0, min(dates) - time.monotonic()) if dates else None

    # ------------------------------------------------------------------ children

    def fork(self, child: Child) -> bool:
        """True in the child."""
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self.selector.close()
            become_child(child.name, self.parent)
            return True
        child.pid = pid
        child.born = time.monotonic()
        child.due = 0.0
        return False

    def fork_worker(self, slot: int) -> None:
        child = self.workers[slot]
        if not self.fork(child):
            return
        code = 1
        try:
            config = self.release.head
            if self.channel is not None:
                for end in self.channel:
                    end.close()
            for other, (agent_end, worker_end) in self.links.items():
                agent_end.close()
                if other != slot:
                    worker_end.close()
            if self.admin is not None:
                self.admin.close()
            own = {name: share_of(sockets, slot, self.count) for name, sockets in self.sockets.items()}
            self.close_sockets({sock for sockets in own.values() for sock in sockets})
            plan = os.dup(self.release.plan)
            self.release.close()
            start = WorkerStart(
                slot=slot,
                plan=plan,
                sockets=own,
                agent=self.links[slot][1],
                stats=self.memory.stats[slot],
                buckets=self.memory.buckets,
                health=self.memory.health,
                usage=self.memory.usage,
                key_file=config.api_keys.file,
                access_log=config.observability.access_log,
                drain=config.server.timeouts.drain,
                trial=self.memory.trials[slot],
                addresses=self.addresses,
                endpoints=self.endpoints,
                keys=self.keys,
            )
            code = worker_main(start)
        except BaseException:
            logger.exception("a worker could not start")
        finally:
            self.leave(code)

    def fork_agent(self) -> None:
        if self.channel is not None:
            self.selector.unregister(self.channel[0])
            for end in self.channel:
                end.close()
        self.channel = control.channel()
        if not self.fork(self.agent):
            self.selector.register(self.channel[0], selectors.EVENT_READ)
            if self.reloads_done < self.reloads_wanted and self.agents_left:
                self.ask_reload()                    # it came while there was no agent, or with one that died of it
            elif self.reloads_done < self.reloads_wanted:
                self.reloads_done = self.reloads_wanted
                logger.error("%d agents in turn died of a reload: it is given up", AGENTS)
                self.tell_reloaded(False)
            return
        code = 1
        try:
            self.close_sockets({self.admin})
            start = AgentStart(
                release=self.release,
                source=self.source,
                links={slot: ends[0] for slot, ends in self.links.items()},
                pids={slot: child.pid for slot, child in enumerate(self.workers) if child.pid},
                supervisor=self.channel[1],
                admin=self.admin,
                memory=self.memory,
                restarts=self.restarts,
                started_from=self.started_from,
                addresses=self.addresses,
                endpoints=self.endpoints,
                keys=self.keys,
            )
            os.nice(MODEST)
            code = self.agent_main(start)
        except BaseException:
            logger.exception("the agent could not start")
        finally:
            self.leave(code)

    def close_sockets(self, but: Container[Any] = ()) -> None:
        """In a child: a listener is closed when nobody has its sockets any more, so nobody has more than it uses."""
        for sockets in (*self.sockets.values(), *self.pending.values(), *self.activated.values()):
            for sock in sockets:
                if sock not in but:
                    sock.close()

    def leave(self, code: int) -> None:
        """A child never returns into the supervisor's code."""
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    def reap(self) -> None:
        for child in (*self.workers, self.agent):
            if child.pid == 0:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid == 0:
                continue
            child.pid = 0
            if child is self.agent:
                self.close_pending()                 # what it wanted them for is over
            if self.stopping:
                continue
            if time.monotonic() - child.born > STABLE:
                child.pause = FIRST_PAUSE
            child.due = time.monotonic() + child.pause
            child.pause = min(child.pause * 2, LONGEST_PAUSE)
            logger.error("%s (%d) ended with %s; it is replaced", child.name, pid, describe(status))

    def refork(self) -> None:
        now = time.monotonic()
        for slot, child in enumerate(self.workers):
            if child.pid == 0 and child.due <= now:
                self.restarts += 1
                old = self.links[slot]
                self.links[slot] = control.channel()
                for end in old:
                    end.close()
                assert self.channel is not None
                control.send(self.channel[0], {"op": "worker", "slot": slot}, [self.links[slot][0].fileno()])
                self.fork_worker(slot)
        if self.agent.pid == 0 and self.agent.due <= now:
            self.fork_agent()

    # ------------------------------------------------------------------ the agent's wishes

    def on_agent(self) -> None:
        assert self.channel is not None
        while True:
            try:
                received = control.receive(self.channel[0])
            except OSError:
                return
            if received is None:
                return
            message, fds = received
            try:
                self.handle(message, fds)
            except Exception:                        # whatever it is, the workers must not lose their supervisor by it
                logger.exception("the agent's %s failed", message["op"])
            finally:
                for fd in fds:
                    os.close(fd)

    def handle(self, message: control.Message, fds: list[int]) -> None:
        operation = message["op"]
        if operation == "open":
            self.open_more(message["binds"])
        elif operation == "commit":
            self.commit(message, fds)
        elif operation == "rollback":
            self.close_pending()
        elif operation == "addresses":
            self.addresses.update(message["addresses"])
        elif operation == "endpoints":
            self.endpoints.update(message["endpoints"])
            self.endpoints = {name: found for name, found in self.endpoints.items() if found is not None}
        elif operation == "keys":
            self.keys.update(message["keys"])
            self.keys = {source: found for source, found in self.keys.items() if found is not None}
        elif operation == "reloaded":
            self.reloads_done = message["number"]
            self.tell_reloaded(message["done"])
        elif operation == "serving":
            self.serves()
        elif operation == "stop":
            self.stop()

    def serves(self) -> None:
        """All workers accept, for the first time or again after an agent died."""
        if not self.serving:
            self.serving = True
            self.notifier.ready(self.state())

    def state(self) -> str:
        return f"serving with {self.count} workers, configuration {self.release.generation}"

    def tell_reloaded(self, done: bool) -> None:
        """The manager is waiting, whatever became of it; what is in force serves on."""
        if self.reloads_done >= self.reloads_wanted:
            self.notifier.ready(self.state() if done else f"{self.state()}; the last reload failed, see the log")

    def open_more(self, binds: list[Bind]) -> None:
        assert self.channel is not None
        self.close_pending()
        error = ""
        try:
            for bind in binds:
                self.pending[str(bind)] = self.open_one(bind)
        except ListenError as failure:
            error = str(failure)
            self.close_pending()
        fds = [sock.fileno() for sockets in self.pending.values() for sock in sockets]
        if len(fds) > control.MAX_FDS:
            error = f"at most {control.MAX_FDS // self.count} listeners can be added in one reload"
            fds = []
            self.close_pending()
        sockets = {name: len(found) for name, found in self.pending.items()}
        control.send(self.channel[0], {"op": "opened", "error": error, "sockets": sockets}, fds)

    def close_pending(self) -> None:
        for name, sockets in self.pending.items():
            self.close_listener(name, sockets)
        self.pending = {}

    def close_listener(self, name: str, sockets: Sequence[socket.socket]) -> None:
        if name not in self.activated:
            for sock in sockets:
                sock.close()
            remove_file(name)

    def commit(self, message: control.Message, fds: list[int]) -> None:
        """The configuration is in force: whoever is forked from now on begins with it."""
        self.release.close()
        self.release = message["release"].with_files(*map(os.dup, fds))
        # the next agent must know whose counters these are
        self.memory.route_slots, self.memory.service_slots = self.release.route_slots, self.release.service_slots
        self.source = message["source"]
        self.sockets.update(self.pending)
        self.pending = {}
        for name in message["removed"]:
            self.close_listener(name, self.sockets.pop(name, ()))
        assert self.channel is not None
        control.send(self.channel[0], {"op": "committed", "generation": self.release.generation})
        if self.serving and self.reloads_done >= self.reloads_wanted:
            self.notifier.status(self.state())
        log = self.release.head.observability.logging
        process_log.configure(log.level, log.format)

    # ------------------------------------------------------------------ signals and the end

    def on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                self.terms += 1
                self.stop(at_once=self.terms > 1)
            elif number == signal.SIGHUP:
                self.reloads_wanted += 1
                self.agents_left = AGENTS
                self.notifier.reloading()
                if self.agent.pid:
                    self.ask_reload()
            elif number == signal.SIGUSR1:
                self.signal_workers(signal.SIGUSR1)

    def ask_reload(self) -> None:
        assert self.channel is not None
        self.agents_left -= 1
        control.send(self.channel[0], {"op": "reload", "number": self.reloads_wanted})

    def signal_workers(self, number: int) -> None:
        for child in self.workers:
            if child.pid:
                os.kill(child.pid, number)

    def stop(self, at_once: bool = False) -> None:
        """Drains; `at_once`, a second SIGTERM, lets nothing come to its end."""
        now = time.monotonic()
        if not self.stopping:
            self.stopping = True
            self.deadline = now + self.release.head.server.timeouts.drain + GRACE
            logger.info("draining")
            self.notifier.stopping("draining")
        elif not at_once:
            return
        if at_once:
            self.deadline = min(self.deadline, now + GRACE)
        if self.channel is not None:
            control.send(self.channel[0], {"op": "draining"})
        self.signal_workers(signal.SIGTERM)

    def finished(self) -> bool:
        """All workers are gone, and then the agent too. It never waits: who is late is killed, stopped or stuck."""
        now = time.monotonic()
        late = now >= self.deadline
        if any(child.pid for child in self.workers):
            if late:
                logger.warning("workers that did not end in time are killed")
                self.signal_workers(signal.SIGKILL)
                self.deadline = now + GRACE
            return False
        if self.agent.pid:
            if not self.agent_told or late:
                os.kill(self.agent.pid, signal.SIGKILL if self.agent_told else signal.SIGTERM)
                self.agent_told = True
                self.deadline = now + GRACE
            return False
        for name in (*self.sockets, str(self.release.head.admin.bind) if self.admin is not None else ""):
            if name not in self.activated:
                remove_file(name)
        return True
