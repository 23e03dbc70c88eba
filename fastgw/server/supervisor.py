"""The supervisor: owns the listening sockets and the shared memory, forks, waits, and passes descriptors.

It does nothing that can fail for a configuration's sake: those failures belong to the agent. A child that dies is
replaced, with a pause that grows while it keeps dying; what waits in its accept queue is served by its successor,
because the sockets are ours.
"""

from __future__ import annotations

import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastgw.config.schema.address import Bind
from fastgw.observe import logging as process_log
from fastgw.server import control
from fastgw.server.compiled import Compiled, Release
from fastgw.server.estate import Estate
from fastgw.server.handover import Handover
from fastgw.server.listeners import Listeners, remove_pid, write_pid
from fastgw.server.notify import Notifier
from fastgw.server.process import Child, become_child, describe, leave
from fastgw.server.shared import SharedMemory
from fastgw.server.sockets import ListenError
from fastgw.server.start import AgentStart, WorkerStart
from fastgw.server.upgrade import Predecessor
from fastgw.server.worker import worker_main
from fastgw.upstreams.discovery import EndpointSet

logger = logging.getLogger("fastgw.supervisor")

GRACE = 2.0
"""Seconds that a child has beyond what it was given: then it is killed, be it stuck or stopped."""
MODEST = 10
"""The nice value of the agent: what it does can wait, requests can not."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)
AGENTS = 3
"""So many agents in turn are asked for one reload that a SIGHUP wants: no file ends every agent for ever."""


class Supervisor:
    """`agent_main(start)` is the life of the agent process (admin.agent; this room does not know that one).

    `before` is whom it takes over from: no worker accepts before all can. `command` is what an upgrade executes.
    """

    def __init__(
        self,
        compiled: Compiled,
        source: Any,
        workers: int,
        memory: SharedMemory,
        agent_main: Callable[[AgentStart], int],
        listeners: Listeners,
        before: Predecessor | None = None,
        command: Sequence[str] = (),
        pid_file: str = "",
    ) -> None:
        self.agent_main = agent_main
        self.listeners = listeners
        self.before = before
        self.handover = Handover(self, list(command))
        self.pid_file = pid_file
        self.exit_code = 0
        self.release = Release.of(compiled)
        self.source = self.started_from = source
        if before is not None and before.estate.source:
            self.source = before.estate.source
        self.count = workers
        self.memory = memory
        self.notifier = Notifier()
        self.notifier.muted = before is not None
        self.serving = False
        self.admin: socket.socket | None = None
        self.admin_bind: Bind | None = None
        self.workers = [Child(f"fastgw-{slot}") for slot in range(workers)]
        self.agent = Child("fastgw-agent")
        self.links: dict[int, tuple[socket.socket, socket.socket]] = {}
        self.channel: tuple[socket.socket, socket.socket] | None = None
        left = before.estate if before is not None else Estate()
        self.addresses: dict[str, Any] = dict(left.addresses)
        self.endpoints: dict[str, EndpointSet] = dict(left.endpoints)
        self.keys: dict[Any, Any] = dict(left.keys)  # Source → KeySet
        self.restarts = 0
        self.reloads_wanted = self.reloads_done = self.agents_left = 0
        self.stopping = False
        self.terms = 0
        self.agent_told = False
        self.deadline = self.drain_at = 0.0
        self.parent = os.getpid()

    # ------------------------------------------------------------------ start

    def open(self) -> None:
        """Raises ListenError; nothing was forked yet. OSError when the pid file cannot be written."""
        admin = self.release.head.admin
        self.admin_bind = admin.bind if admin.enabled else None
        self.admin = self.listeners.open(self.release.head.server.binds, self.admin_bind)
        if self.pid_file and self.before is None:
            write_pid(self.pid_file)

    def run(self) -> int:
        """Until the end; the exit code."""
        self.open()
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        self.selector = selectors.DefaultSelector()
        self.watch(reader, lambda: self.on_signals(os.read(reader, 512)))
        gc.collect()
        gc.freeze()                                  # children share these pages; the collector must not touch them
        for slot in range(self.count):
            self.links[slot] = control.channel()
        self.fork_agent()
        for slot in range(self.count):
            self.fork_worker(slot)
        while True:
            timeout = self.next_timeout()
            for key, _ in self.selector.select(timeout):
                key.data()
            self.reap()
            self.handover.look()
            self.notifier.beat()
            if self.drain_at and not self.stopping:
                self.stop()                          # when it is time
            if self.stopping:
                if self.finished():
                    # the interpreter gives them their defaults back on its way out: a late one would be the exit code
                    for number in (signal.SIGTERM, signal.SIGINT):
                        signal.signal(number, signal.SIG_IGN)
                    return self.exit_code
            else:
                self.refork()

    def watch(self, what: Any, act: Callable[[], None]) -> None:
        self.selector.register(what, selectors.EVENT_READ, act)

    def unwatch(self, what: Any) -> None:
        self.selector.unregister(what)

    def next_timeout(self) -> float | None:
        dates = [child.due for child in (*self.workers, self.agent) if child.pid == 0 and child.due]
        if self.stopping:
            dates.append(self.deadline)
        elif self.drain_at:
            dates.append(self.drain_at)
        beat = self.notifier.next_beat()
        if beat is not None:
            dates.append(beat)
        look = self.handover.next_look()
        if look is not None:
            dates.append(time.monotonic() + look)
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
            own = self.listeners.share(slot)
            self.listeners.forget({sock for sockets in own.values() for sock in sockets})
            plan = os.dup(self.release.plan)
            self.release.close()
            start = WorkerStart(
                slot=slot,
                plan=plan,
                sockets=own,
                agent=self.links[slot][1],
                **self.memory.of_worker(slot),
                api_keys=config.api_keys,
                access_log=config.observability.access_log,
                drain=config.server.timeouts.drain,
                addresses=self.addresses,
                endpoints=self.endpoints,
                keys=self.keys,
                held=self.held,
            )
            code = worker_main(start)
        except BaseException:
            logger.exception("a worker could not start")
        finally:
            leave(code)

    def fork_agent(self) -> None:
        if self.channel is not None:
            self.unwatch(self.channel[0])
            for end in self.channel:
                end.close()
        self.channel = control.channel()
        if not self.fork(self.agent):
            self.watch(self.channel[0], self.on_agent)
            if self.drain_at:
                self.tell_agent({"op": "draining"})
            if self.reloads_done < self.reloads_wanted and self.agents_left:
                self.ask_reload()                    # it came while there was no agent, or with one that died of it
            elif self.reloads_done < self.reloads_wanted:
                self.reloads_done = self.reloads_wanted
                logger.error("%d agents in turn died of a reload: it is given up", AGENTS)
                self.tell_reloaded(False)
            return
        code = 1
        try:
            self.listeners.forget({self.admin})
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
                held=self.held,
            )
            os.nice(MODEST)
            code = self.agent_main(start)
        except BaseException:
            logger.exception("the agent could not start")
        finally:
            leave(code)

    def reap(self) -> None:
        for child in (*self.workers, self.agent):
            if child.pid == 0:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid == 0:
                continue
            child.pid = 0
            if child is self.agent:
                self.listeners.rollback()            # what it wanted them for is over
            else:
                self.memory.holds[0].forget(self.workers.index(child))    # what it had under way it has no more
            if self.stopping:
                continue
            if self.held:
                self.give_up(f"{child.name} ended with {describe(status)}")
                return
            child.wait()
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
            self.listeners.rollback()
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
        elif operation == "upgrade":
            self.handover.begin(asked=True)
        elif operation == "stop":
            self.stop()

    @property
    def held(self) -> bool:
        """Until all workers can accept, none does: the one before serves, and would go on if we came to nothing."""
        return self.before is not None

    def serves(self) -> None:
        """All workers accept, for the first time or again after an agent died."""
        if self.serving or self.stopping:
            return
        self.serving = True
        if self.before is not None:
            self.before.serving()
            self.before = None
            self.notifier.muted = False
            self.listeners.held = False
            if self.pid_file:
                try:
                    write_pid(self.pid_file)
                except OSError as error:
                    logger.error("the pid file %s cannot be written: %s", self.pid_file, error.strerror)
        self.notifier.ready(self.state())

    def give_up(self, why: str) -> None:
        """Before it took over anything."""
        assert self.before is not None
        self.before.failed(why)
        logger.error("this process does not take over: %s", why)
        self.exit_code = 1
        self.stop(at_once=True)

    def state(self) -> str:
        return f"serving with {self.count} workers, configuration {self.release.generation}"

    def tell_reloaded(self, done: bool) -> None:
        """The manager is waiting, whatever became of it; what is in force serves on."""
        if self.reloads_done >= self.reloads_wanted:
            self.notifier.ready(self.state() if done else f"{self.state()}; the last reload failed, see the log")

    def open_more(self, binds: list[Bind]) -> None:
        assert self.channel is not None
        error = ""
        try:
            self.listeners.prepare(binds)
        except ListenError as failure:
            error = str(failure)
        pending = self.listeners.pending
        fds = [sock.fileno() for sockets in pending.values() for sock in sockets]
        if len(fds) > control.MAX_FDS:
            error = f"at most {control.MAX_FDS // self.count} listeners can be added in one reload"
            fds = []
            self.listeners.rollback()
        sockets = {name: len(found) for name, found in pending.items()}
        control.send(self.channel[0], {"op": "opened", "error": error, "sockets": sockets}, fds)

    def commit(self, message: control.Message, fds: list[int]) -> None:
        """The configuration is in force: whoever is forked from now on begins with it."""
        self.release.close()
        self.release = message["release"].with_files(*map(os.dup, fds))
        # the next agent must know whose counters these are
        self.memory.route_slots, self.memory.service_slots = self.release.route_slots, self.release.service_slots
        self.source = message["source"]
        self.listeners.commit(message["removed"])
        assert self.channel is not None
        control.send(self.channel[0], {"op": "committed", "generation": self.release.generation})
        if self.serving and self.reloads_done >= self.reloads_wanted:
            self.notifier.status(self.state())
        log = self.release.head.observability.logging
        process_log.configure(log.level, log.format)

    # ------------------------------------------------------------------ signals and the end

    def on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if self.handover.takes(number):
                continue
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
            elif number == signal.SIGUSR2:
                self.handover.begin(asked=False)

    def ask_reload(self) -> None:
        self.agents_left -= 1
        self.tell_agent({"op": "reload", "number": self.reloads_wanted})

    def tell_agent(self, message: control.Message) -> None:
        if self.channel is not None:
            control.send(self.channel[0], message)

    def signal_workers(self, number: int) -> None:
        for child in self.workers:
            if child.pid:
                os.kill(child.pid, number)

    def stop(self, at_once: bool = False) -> None:
        """Drains, `drain_delay` after the first call; `at_once`, a second SIGTERM, lets nothing come to its end."""
        now = time.monotonic()
        timeouts = self.release.head.server.timeouts
        if self.stopping and not at_once:
            return
        if not self.drain_at:
            self.drain_at = now + timeouts.drain_delay
            logger.info("draining")
            self.notifier.stopping("draining")
            self.tell_agent({"op": "draining"})
            self.handover.abort()
        if now < self.drain_at and not at_once:
            return
        if not self.stopping:
            self.stopping = True
            self.deadline = now + timeouts.drain + GRACE
        if at_once:
            self.deadline = min(self.deadline, now + GRACE)
        self.listeners.forget()                      # as the workers do: who comes now is refused, not kept waiting
        self.signal_workers(signal.SIGTERM)

    def retire(self) -> None:
        """Another supervisor serves at our sockets. Clients may keep their connections for one more request."""
        self.stopping = True
        self.deadline = time.monotonic() + self.release.head.server.timeouts.drain + GRACE
        self.listeners.forget()
        self.signal_workers(signal.SIGUSR2)

    def finished(self) -> bool:
        """All workers are gone, and then the agent too. It never waits: who is late is killed, stopped or stuck."""
        now = time.monotonic()
        late = now >= self.deadline
        if self.handover.abort():
            return False
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
        if not self.handover.done and not self.held:  # else they are somebody else's
            self.listeners.remove_files(self.admin_bind)
        if self.pid_file:
            remove_pid(self.pid_file)
        return True
