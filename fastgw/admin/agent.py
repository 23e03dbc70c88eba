"""The agent: what is done once per host. It can die and be replaced without a request noticing.

It answers the admin listener, renders metrics, resolves the names of endpoints, and takes a new configuration to all
workers in two phases: every worker prepares it, and only when all have is it adopted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from fastgw._core.cache_access import Access
from fastgw.admin.api import AdminServer, Api, problem_view
from fastgw.admin.handing import Handing
from fastgw.admin.link import ANSWER_SECONDS, Link, ask_all, close_all
from fastgw.admin.mirrors import MirrorViews
from fastgw.admin.rollout import Refused, Rollout
from fastgw.admin.shown import Shown
from fastgw.config import ConfigError
from fastgw.observe import logging as process_log
from fastgw.server import control
from fastgw.server.certificates import POLL_SECONDS, CertificateWatch
from fastgw.server.compiled import Release, restart_needed
from fastgw.server.compiler import compile_aside
from fastgw.server.discovery import Changed, Discovery
from fastgw.server.health import Health
from fastgw.server.key_desk import KeyDesk
from fastgw.server.keysets import KeySets, Told
from fastgw.server.limits import LimitDesk
from fastgw.server.names import Resolver
from fastgw.server.purges import PurgeShare
from fastgw.server.quotas import QuotaDesk
from fastgw.server.secrets import SecretWatch
from fastgw.server.sockets import share_of
from fastgw.server.stale import StaleWatch
from fastgw.server.start import AgentStart

logger = logging.getLogger("fastgw.agent")

PREPARE_SECONDS = 30.0


class Agent(Shown, MirrorViews):
    def __init__(self, start: AgentStart) -> None:
        self.current = start.release
        self.source = start.source
        self.started_from = start.started_from
        self.supervisor = start.supervisor
        self.memory = start.memory
        self.restarts = start.restarts
        self.links = {slot: Link(slot, sock) for slot, sock in start.links.items()}
        for slot, pid in start.pids.items():
            self.links[slot].pid = pid               # they were serving before this agent was born
        self.admin_socket = start.admin
        self.draining = False
        self.reloads = {"ok": 0, "failed": 0}
        self.loop = asyncio.get_running_loop()
        self.lock = asyncio.Lock()
        self.next_reload: asyncio.Task[tuple[bool, dict[str, Any]]] | None = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self.opened: asyncio.Future[dict[str, list[int]]] | None = None
        self.committed: asyncio.Future[None] | None = None
        self.names = Resolver(self.publish_addresses, start.addresses)
        self.discovery = Discovery(self.publish_endpoints, self.names, start.endpoints)
        self.health = Health(self.memory.health, self.names, self.discovery, self.memory.circuits)
        self.keys = KeySets(self.publish_keys, start.keys)
        self.certificates = CertificateWatch()
        self.desk = KeyDesk(lambda: self.current.head, self.memory.usage, self.tell_all)
        self.limits = LimitDesk(self.memory, lambda: self.current.config())
        self.quotas = QuotaDesk(lambda: (self.current.generation, self.current.config))
        self.purges = PurgeShare(Access(self.memory.cache), lambda: self.current.head)
        self.stale = StaleWatch(self.loop.time())
        self.rollout = Rollout(self)
        self.handing = Handing(self, start.held)
        token, metrics = self.current.head.admin.token, self.current.head.observability.metrics.path
        self.server = AdminServer(Api(self, token.reveal() if token is not None else None, metrics))
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        for link in self.links.values():
            self.watch(link)
            control.send(link.sock, {"op": "return"})    # of what the agent before tried, nobody knows the end
        self.loop.add_reader(self.supervisor, self.on_supervisor)
        self.loop.add_signal_handler(signal.SIGTERM, self.stopped.set)
        if not self.handing.held:
            await self.answer_admin()
        await self.follow(self.current)
        if self.handing.held:
            await self.handing.accept()
            await self.answer_admin()
        self.tell_serving()
        self.health.follow(self.current.head, self.current.circuits)
        self.certificates.follow(self.current.head, self.current.tls, self.loop.time())
        self.spawn(self.watch_certificates())
        self.spawn(self.watch_stale())
        self.spawn(SecretWatch(lambda: self.current.head, self.reload).run())
        self.spawn(self.desk.watch())
        self.spawn(self.purges.run())
        if self.memory.cache.disk is not None:
            self.memory.cache.disk.write(self.memory.cache)
        await self.stopped.wait()
        await self.server.close(answers=self.handing.over)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.desk.close(), 2)
        if self.memory.cache.disk is not None:
            await self.memory.cache.disk.stop()

    async def answer_admin(self) -> None:
        if self.admin_socket is not None:
            await self.server.start(self.admin_socket)

    def spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    # ------------------------------------------------------------------ workers

    def watch(self, link: Link) -> None:
        self.loop.add_reader(link.sock, self.on_worker, link)

    def on_worker(self, link: Link) -> None:
        while True:
            try:
                received = control.receive(link.sock)
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                self.loop.remove_reader(link.sock)
                link.pid = 0
                return
            message, fds = received
            for fd in fds:
                os.close(fd)
            if message["op"] == "answer":
                self.answered(link, message)
            elif message["op"] == "hello":
                self.spawn(self.greet(link, message))
            elif message["op"] == "keys_wanted":
                self.keys.want(message["source"])
            elif message["op"] == "public":
                self.spawn(self.public(link, message))

    def answered(self, link: Link, message: control.Message) -> None:
        future = link.waiting.get(message["id"])
        if future is not None and not future.done():
            if message["error"] is None:
                future.set_result(message["value"])
            else:
                future.set_exception(RuntimeError(f"worker {link.slot}: {message['error']}"))

    async def greet(self, link: Link, message: control.Message) -> None:
        """A worker is there."""
        control.send(link.sock, {"op": "endpoints", "endpoints": self.discovery.known})
        control.send(link.sock, {"op": "addresses", "addresses": self.names.known})
        control.send(link.sock, {"op": "keys", "keys": self.keys.known, "checked": ()})
        control.send(link.sock, self.desk.everything())      # it may have missed a change since it was born
        async with self.lock:
            if message["generation"] != self.current.generation:
                # born while a configuration was adopted, with the plan and the listeners of the one before
                logger.info("worker %d began with an older configuration; it is replaced", link.slot)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(message["pid"], signal.SIGTERM)
                return
            link.generation = self.current.generation
            link.pid = message["pid"]
            await self.rollout.join(link)
        await self.handing.greeted(link, message)
        self.tell_serving()

    def tell_serving(self) -> None:
        """The supervisor tells a service manager."""
        if self.complete and not self.handing.held:
            control.send(self.supervisor, {"op": "serving"})

    @property
    def complete(self) -> bool:
        """All workers serve, and every name, registry and issuer was asked once."""
        tried = self.names.tried and self.discovery.tried and self.keys.tried
        return tried and all(link.serves for link in self.links.values())

    async def public(self, link: Link, message: control.Message) -> None:
        if message["kind"] == "metrics":
            content_type, body = await self.metrics()
            value = (200, content_type, body)
        else:
            ready, _ = await self.ready()
            body = b'{"status":"ready"}\n' if ready else b'{"status":"not ready"}\n'
            value = (200 if ready else 503, "application/json", body)
        control.send(link.sock, {"op": "answer", "question": message["question"], "value": value})

    def tell_all(self, message: control.Message) -> None:
        for sock in (*(link.sock for link in self.links.values()), self.supervisor):
            control.send(sock, message)

    def publish_addresses(self, addresses: Mapping[str, Any]) -> None:
        self.tell_all({"op": "addresses", "addresses": dict(addresses)})

    def publish_keys(self, told: Told, checked: tuple[Any, ...]) -> None:
        self.tell_all({"op": "keys", "keys": dict(told), "checked": checked})

    async def follow(self, release: Release) -> None:
        following = self.names.follow(release.head), self.discovery.follow(release.head)
        await asyncio.gather(*following, self.keys.follow(release.keys))

    def publish_endpoints(self, changed: Changed) -> None:
        """What discovery found. Endpoints that are new get the addresses of their names, where these are known."""
        origins = {str(one.origin) for found in changed.values() if found is not None for one in found.endpoints}
        addresses = {url: found for url, found in self.names.known.items() if url in origins}
        self.tell_all({"op": "endpoints", "endpoints": dict(changed)})
        if addresses:
            self.publish_addresses(addresses)
        self.health.refresh()

    async def snapshots(self) -> list[dict[str, Any]]:
        return await ask_all(self.links.values(), {"op": "snapshot"}, 1.0)

    # ------------------------------------------------------------------ the supervisor

    def on_supervisor(self) -> None:
        while True:
            try:
                received = control.receive(self.supervisor)
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                self.stopped.set()
                return
            message, fds = received
            if message["op"] == "worker":
                self.replaced(message, fds)
            elif message["op"] == "opened":
                self.on_opened(message, fds)
            elif message["op"] == "committed":
                if self.committed is not None and not self.committed.done():
                    self.committed.set_result(None)
            elif message["op"] == "reload":
                self.spawn(self.hang_up(message["number"]))
            elif message["op"] == "draining":
                self.draining = True
                self.rollout.decide("aborted", "the gateway goes")
            elif message["op"] in ("upgrading", "upgraded"):
                self.handing.hear(message)

    def replaced(self, message: control.Message, fds: list[int]) -> None:
        slot = message["slot"]
        old = self.links[slot]
        self.loop.remove_reader(old.sock)
        old.sock.close()
        for future in old.waiting.values():
            if not future.done():
                future.set_exception(RuntimeError(f"worker {slot} died"))
        self.restarts += 1
        link = self.links[slot] = Link(slot, socket.socket(fileno=fds[0]))
        link.sock.setblocking(False)
        self.watch(link)

    def on_opened(self, message: control.Message, fds: list[int]) -> None:
        if self.opened is not None and not self.opened.done():
            if message["error"]:
                self.opened.set_exception(RuntimeError(message["error"]))
            else:
                rest = iter(fds)
                self.opened.set_result({name: list(islice(rest, n)) for name, n in message["sockets"].items()})

    # ------------------------------------------------------------------ a new configuration

    async def hang_up(self, number: int) -> None:
        """SIGHUP: the supervisor remembers it until it is done, and would ask the next agent."""
        done, _ = await self.reload()
        control.send(self.supervisor, {"op": "reloaded", "number": number, "done": done})

    async def reload(self) -> tuple[bool, dict[str, Any]]:
        """All workers adopt the file as it is now, or none does. (done, facts for the caller)

        Who asks while one is under way waits for the next one, with all others who ask meanwhile. A caller who goes
        away changes nothing.
        """
        if self.next_reload is None:
            self.next_reload = self.spawn(self.reload_in_turn())
        return await asyncio.shield(self.next_reload)

    async def reload_in_turn(self) -> tuple[bool, dict[str, Any]]:
        async with self.lock:
            self.next_reload = None                  # from here on the file is read
            return await self.attempt(self.renew)

    async def attempt(self, work: Callable[[], Awaitable[dict[str, Any]]]) -> tuple[bool, dict[str, Any]]:
        """Something with a new configuration, the lock held: (done, facts)."""
        try:
            return True, await work()
        except ConfigError as error:
            self.reloads["failed"] += 1
            for problem in error.problems:
                logger.error("%s", problem)
            return False, {"problems": [problem_view(problem) for problem in error.problems]}
        except Exception as failure:
            self.reloads["failed"] += 1
            logger.error("the new configuration was not adopted: %s", failure)
            code = failure.code if isinstance(failure, Refused) else "not_adopted"
            return False, {"problems": [{"severity": "error", "code": code, "message": str(failure)}]}

    async def renew(self) -> dict[str, Any]:
        self.rollout.nothing_is_tried()
        return await self.put_in_force(await self.compiled(self.source))

    async def compiled(self, source: Any) -> Release:
        slots = self.memory.route_slots, self.memory.service_slots
        return await compile_aside(source, self.current.generation + 1, *slots, self.current.tls)

    async def put_in_force(self, new: Release) -> dict[str, Any]:
        facts = await self.take_over(new)
        self.certificates.follow(new.head, new.tls, self.loop.time())
        self.reloads["ok"] += 1
        logger.info("configuration %d is in force", new.generation)
        return facts

    async def watch_certificates(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.refresh_certificates()
            except Exception as failure:             # the next look tries again
                logger.error("the certificates were not taken into use: %s", failure)

    async def refresh_certificates(self) -> bool:
        """Brings changed certificates and new ticket keys to all workers, or to none; the configuration stays."""
        async with self.lock:
            if self.certificates.empty or self.rollout.running or self.handing.busy:
                return False
            change = await self.loop.run_in_executor(None, self.certificates.poll, self.loop.time())
            if change is None:
                return False
            new = self.current.refreshed(change.material, change.rotate)
            await self.take_over(new)
            self.certificates.taken(change, new.tls, self.loop.time())
            return True

    async def take_over(self, new: Release) -> dict[str, Any]:
        self.handing.check()
        before = {str(bind) for bind in self.current.head.server.binds}
        after = {str(bind): bind for bind in new.head.server.binds}
        added = [after[name] for name in after if name not in before]
        removed = sorted(before - after.keys())
        links = [link for link in self.links.values() if link.serves]
        keys = restart_needed(self.current.head, new.head)
        opened: dict[str, list[int]] = {}
        try:
            await self.follow(new)
            opened = await self.open(added) if added else {}
            prepare = {"op": "prepare", "access_log": new.head.observability.access_log}
            await self.all(links, lambda link: link.ask(prepare, [new.plan], PREPARE_SECONDS))
            for link in links:                       # the endpoints it brought exist only now
                control.send(link.sock, {"op": "addresses", "addresses": self.names.known})
            shares = {link.slot: self.share(link.slot, opened) for link in links}
        except BaseException:
            for link in links:
                control.send(link.sock, {"op": "forget"})
            control.send(self.supervisor, {"op": "rollback"})
            close_all(opened)
            await self.follow(self.current)
            new.close()
            raise
        committed = self.commit(new, removed)
        # from here on it only goes forward: a worker that cannot adopt now is replaced by one that has
        await asyncio.gather(*(self.adopt(link, *shares[link.slot], removed) for link in links))
        self.health.follow(new.head, new.circuits)
        self.desk.adopted()
        await self.closed(committed)
        close_all(opened)
        if keys:
            logger.warning("these keys take effect at the next start: %s", ", ".join(keys))
        process_log.configure(new.head.observability.logging.level, new.head.observability.logging.format)
        warnings = [problem_view(problem) for problem in new.warnings]
        return {"generation": new.generation, "warnings": warnings, "restart_needed": keys}

    def commit(self, new: Release, removed: list[str]) -> asyncio.Future[None]:
        """Every worker has prepared it: whoever is forked from now on begins with it. Done when that is so."""
        committed = self.committed = self.loop.create_future()
        self.current.close()
        self.current = new
        self.memory.adopt(new.route_slots, new.service_slots)
        assert isinstance(new.routes, int)           # it was compiled in another process
        commit = {"op": "commit", "removed": removed, "release": new.summary(), "source": self.source}
        control.send(self.supervisor, commit, [new.plan, new.routes])
        return committed

    async def closed(self, committed: asyncio.Future[None]) -> None:
        """Until the supervisor has closed its sockets of the listeners that are no more, the last ones to be."""
        try:
            await asyncio.wait_for(committed, ANSWER_SECONDS)
        except TimeoutError:
            logger.error("the supervisor did not answer in %g s: removed listeners may still be open", ANSWER_SECONDS)

    def share(self, slot: int, opened: Mapping[str, list[int]]) -> tuple[list[str], list[int]]:
        """What a worker gets of new listeners: names and descriptors, one of each per socket."""
        pairs = [(name, fd) for name, fds in opened.items() for fd in share_of(fds, slot, len(self.links))]
        return [name for name, _ in pairs], [fd for _, fd in pairs]

    async def adopt(self, link: Link, listen: Sequence[str], fds: Sequence[int], unlisten: Sequence[str]) -> None:
        try:
            await link.ask(self.adoption(listen, unlisten), fds)
            link.generation = self.current.generation
        except RuntimeError as error:
            logger.error("%s; it is replaced", error)
            with contextlib.suppress(ProcessLookupError):
                os.kill(link.pid, signal.SIGKILL)

    async def all(self, links: list[Link], ask: Callable[[Link], Any]) -> None:
        results = await asyncio.gather(*(ask(link) for link in links), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def open(self, binds: list[Any]) -> dict[str, list[int]]:
        """New listening sockets from the supervisor, by listener."""
        self.opened = self.loop.create_future()
        control.send(self.supervisor, {"op": "open", "binds": binds})
        try:
            return await asyncio.wait_for(self.opened, ANSWER_SECONDS)
        finally:
            self.opened = None

    def adoption(self, listen: Sequence[str], unlisten: Sequence[str]) -> control.Message:
        config = self.current.head
        log = config.observability.logging
        return {
            "op": "adopt",
            "listen": list(listen),
            "unlisten": list(unlisten),
            "drain": config.server.timeouts.drain,
            "logging": (log.level, log.format),
        }

    # ------------------------------------------------------------------ what the admin API asks

    async def upgrade(self) -> tuple[bool, dict[str, Any]]:
        return await self.handing.upgrade()

    async def drain(self) -> None:
        self.draining = True
        control.send(self.supervisor, {"op": "stop"})


def agent_main(start: AgentStart) -> int:
    """The life of the agent process; its exit code."""

    async def live() -> None:
        await Agent(start).run()

    try:
        asyncio.run(live())
    except Exception:
        logger.exception("the agent cannot go on")
        return 1
    return 0
