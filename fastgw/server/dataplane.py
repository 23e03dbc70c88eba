"""What serves in one process: the engine, its plan, its listeners, its access log. Used by workers and `Gateway`."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import asdict
from itertools import chain
from typing import Any

from fastgw._core.bans import BanTable
from fastgw._core.breaker import CircuitTable
from fastgw._core.cache_store import Storage
from fastgw._core.engine import Engine
from fastgw._core.exchange import Consumer, Exchange, Reply, Route
from fastgw._core.health import HealthTable
from fastgw._core.holds import HoldTable
from fastgw._core.key_auth import KeyTable
from fastgw._core.limit_counts import LimitCounts
from fastgw._core.plan import Plan
from fastgw._core.record import Stats
from fastgw._core.trial import Trial, TrialCounts
from fastgw._core.usage import UsageTable
from fastgw.config.schema.observe import AccessLog as AccessLogConfig
from fastgw.observe.access_log import INTERVAL, AccessLog
from fastgw.plan import Host, PlanSpec, build, build_now, discover
from fastgw.plan.resilience import limits_view, pressure_view
from fastgw.policies._contract import Ledger
from fastgw.policies._keysets import ring_of
from fastgw.policies._mirror import Reports, reports_of
from fastgw.policies.base import cache_view, stores_of
from fastgw.server.keys import Stamp, read, usable
from fastgw.server.sockets import tune
from fastgw.upstreams.discovery import EndpointSet

logger = logging.getLogger("fastgw.server")

PAUSE = 0.001
"""Between two slices of a build: the loop serves meanwhile, and sleeps. uvloop counts in milliseconds: with less, it
would not sleep, and a worker that never sleeps keeps others from its core for a whole turn of the scheduler."""
FREED = 250
"""Routes: about 30 microseconds of work."""
PublicSource = Callable[[str], Awaitable[tuple[int, str, bytes]]]


def open_log(settings: AccessLogConfig) -> AccessLog:
    headers, cookies = settings.record_headers, settings.record_cookies
    return AccessLog(settings.path, settings.format, settings.fields, headers=headers, cookies=cookies)


class DataPlane:
    """`public(kind)` gives status, content type and body of a public endpoint (health, ready, metrics)."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stats: Stats,
        buckets: Any,
        public: PublicSource,
        health: HealthTable | None = None,
        usage: UsageTable | None = None,
        bans: BanTable | None = None,
        circuits: CircuitTable | None = None,
        cache: Storage | None = None,
        holds: HoldTable | None = None,
        limit_counts: LimitCounts | None = None,
    ) -> None:
        self.loop = loop
        self.engine = Engine(loop, stats)
        self.public = public
        keys = KeyTable(usage)
        self.host = Host(
            bucket_table=buckets,
            bans=bans,
            public=self.answer_public,
            health=health,
            keys=keys,
            circuits=circuits,
            cache=cache,
            holds=holds,
            limit_counts=limit_counts,
        )
        self.keys = ring_of(self.host.shared)
        self.api_keys_read: Stamp | None = None
        self.log: AccessLog | None = None
        self.log_settings: AccessLogConfig | None = None
        self.flusher: asyncio.TimerHandle | None = None
        self.prepared: Plan | None = None
        self.prepared_log: tuple[AccessLogConfig, AccessLog | None] | None = None
        self.listeners: dict[str, list[int]] = {}
        self.sockets: dict[str, tuple[socket.socket, ...]] = {}
        self.accepting = self.next_accepting = (4096, 0.0)
        self.tried: Plan | None = None
        self.trial_ends: asyncio.TimerHandle | None = None

    async def answer_public(self, kind: str, exchange: Exchange) -> Reply:
        status, content_type, body = await self.public(kind)
        return Reply(status, body, {"Cache-Control": "no-store"}, content_type)

    # ------------------------------------------------------------------ plans

    def adopt_now(self, spec: PlanSpec) -> None:
        self.accepting = self.next_accepting = spec.accepting
        self.engine.adopt(build_now(spec, self.engine, self.host))

    async def prepare(self, spec: PlanSpec, log: AccessLogConfig) -> None:
        """Does all that can fail: opens the access log, builds the plan in slices between requests.

        `adopt` then takes both into use. OSError when the log cannot be opened.
        """
        self.prepare_log(log)
        self.prepared = await self.build(spec)
        self.next_accepting = spec.accepting

    async def build(self, spec: PlanSpec) -> Plan:
        steps: Generator[None, None, Plan] = build(spec, self.engine, self.host)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                plan: Plan = stop.value
                return plan
            await asyncio.sleep(PAUSE)

    def adopt(self) -> None:
        if self.prepared is None:
            raise RuntimeError("no plan was prepared")
        self.forget_trial()
        old: Plan | None = self.engine.plan
        routes = list(old.routes) if old is not None else []
        old = None
        self.engine.adopt(self.prepared)
        self.prepared = None
        if self.accepting != self.next_accepting:
            self.accepting = self.next_accepting
            for sock in chain.from_iterable(self.sockets.values()):
                tune(sock, *self.accepting)
        self.let_go(routes)
        self.adopt_log()

    # ------------------------------------------------------------------ a plan that is tried

    async def prepare_trial(self, spec: PlanSpec) -> None:
        """Builds another plan, which nobody is served by yet. Endpoints that are in both stay as they are in force."""
        self.end_trial()
        before = [(one, one.limits, one.zone, one.labels, one.priority) for one in self.engine.known_endpoints()]
        try:
            self.tried = await self.build(spec)
        finally:
            for endpoint, limits, zone, labels, priority in before:
                endpoint.limits, endpoint.zone, endpoint.labels, endpoint.priority = limits, zone, labels, priority

    def begin_trial(self, counts: TrialCounts, share: float, by: str | None, seed: int, seconds: float) -> None:
        """The plan that was prepared serves `share` of the clients; see trial.Trial. It ends by itself in so many
        seconds, whoever was to end it."""
        if self.tried is None or self.engine.plan is None:
            raise RuntimeError("no plan was prepared to be tried")
        self.engine.begin_trial(Trial(self.engine.plan, self.tried, counts, share, by, seed))
        self.trial_ends = self.loop.call_later(seconds, self.trial_overdue)

    def trial_overdue(self) -> None:
        logger.error("nobody ended the trial of a configuration: the one in force serves alone again")
        self.end_trial()

    def end_trial(self) -> None:
        """The plan in force serves alone; what is under way on the other one comes to its end there."""
        if self.tried is not None and self.engine.plan is not None:
            self.forget_trial()
            self.engine.adopt(self.engine.plan)      # endpoints that only the other one had retire

    def forget_trial(self) -> None:
        if self.tried is not None:
            self.engine.end_trial()
            self.let_go(list(self.tried.routes))
            self.tried = None
        if self.trial_ends is not None:
            self.trial_ends.cancel()
            self.trial_ends = None

    def let_go(self, routes: list[Route]) -> None:
        """Frees the routes of a plan that was replaced, some at a time: all of them at once are a stall too."""
        del routes[-FREED:]
        if routes:
            self.loop.call_later(PAUSE, self.let_go, routes)

    def forget(self) -> None:
        self.prepared = None
        self.forget_log()

    def discover(self, changed: Mapping[str, EndpointSet | None]) -> None:
        """What discovery found; see plan.build.discover."""
        discover(self.engine, self.host, changed)

    def read_api_keys(self, path: str | None) -> None:
        """Takes the managed keys as the file has them, if it has changed since."""
        if path is None:
            self.host.keys.replace({})
            self.api_keys_read = None
            return
        try:
            records, stamp = read(path)
        except (OSError, ValueError) as error:
            logger.error("the API keys cannot be read, and who brings one that is unknown gets 503: %s", error)
            self.host.keys.broken = True
            return
        if stamp != self.api_keys_read or self.host.keys.broken:
            self.host.keys.replace(usable(records))
            self.api_keys_read = stamp

    def take_api_keys(self, message: Mapping[str, Any]) -> None:
        """What key_desk.KeyDesk tells."""
        keys = self.host.keys
        if message.get("all"):
            self.read_api_keys(message["file"])
            keys.meet({})
            keys.hold(0)
            return
        if "whole" in message:
            keys.replace(message["whole"])
            keys.broken = bool(message.get("broken"))
            self.api_keys_read = None                # what it holds now is none of a file that was read
        elif message["put"] or message["drop"]:
            keys.change(message["put"], message["drop"])
        if "people" in message:
            keys.meet({name: Consumer(*facts) for name, facts in message["people"].items()})
        if "fresh" in message:
            keys.hold(message["fresh"])

    # ------------------------------------------------------------------ listeners

    def listen(self, name: str, *socks: socket.socket) -> None:
        """Accepts on all sockets of a listener from now on."""
        if name not in self.listeners:
            for sock in socks:
                tune(sock, *self.accepting)
            self.listeners[name] = [self.engine.listen(sock, name) for sock in socks]
            self.sockets[name] = socks

    def unlisten(self, name: str) -> None:
        """Stops listening and closes the sockets, at once: others may hold references to them."""
        self.sockets.pop(name, None)
        for lid in self.listeners.pop(name, ()):
            self.engine.unlisten(lid).close()

    def unlisten_all(self) -> None:
        """Nobody is to wait in a queue that is not looked at any more: who comes now is refused, and goes elsewhere."""
        for name in list(self.listeners):
            self.unlisten(name)

    # ------------------------------------------------------------------ the access log

    def prepare_log(self, settings: AccessLogConfig) -> None:
        """The same settings again change nothing; other ones take over with `adopt_log`."""
        self.forget_log()
        if settings != self.log_settings:
            log = open_log(settings) if settings.enabled else None
            self.prepared_log = settings, log

    def forget_log(self) -> None:
        if self.prepared_log is not None and self.prepared_log[1] is not None:
            self.prepared_log[1].close()
        self.prepared_log = None

    def adopt_log(self) -> None:
        if self.prepared_log is None:
            return
        old = self.log
        (self.log_settings, self.log), self.prepared_log = self.prepared_log, None
        self.engine.set_access_log(self.log)
        if old is not None:
            old.close(wait=0)                        # requests are served meanwhile, however slow its disk is
        if self.log is not None and self.flusher is None:
            self.flush()

    def flush(self) -> None:
        if self.log is None:
            self.flusher = None
            return
        self.log.flush()
        self.flusher = self.loop.call_later(INTERVAL, self.flush)

    def reopen_log(self) -> None:
        if self.log is not None:
            self.log.reopen()

    # ------------------------------------------------------------------ life

    def snapshot(self) -> dict[str, Any]:
        if self.host.limit_counts is not None:
            self.host.limit_counts.flush()
        dropped = self.log.dropped if self.log is not None else 0
        own = {
            "pid": os.getpid(),
            "dropped_lines": dropped,
            "stores": [asdict(store.state()) for store in stores_of(self.host.shared).values()],
            "mirrors": [(key[0], report.outcomes) for key, report in self.mirrors().items()],
            "limits": limits_view(self.host.limits),
            "pressure": pressure_view(self.host.shared),
            "cache": cache_view(self.host.shared),
            "contract": self.host.shared.get_or_create("contract", Ledger).rows(),
        }
        return {**self.engine.snapshot(), **own}

    def mirrors(self) -> Reports:
        """What was found by comparing the answers to copies of requests."""
        return reports_of(self.host.shared)

    def reset_mirrors(self, route: str) -> None:
        for key in [key for key in self.mirrors() if key[0] == route]:
            del self.mirrors()[key]

    async def retire(self, seconds: float) -> None:
        """Drains where somebody else serves at the same address: kept connections may have one more request for half of
        the time, and its answer tells their clients to go. So no request meets a connection that is being closed."""
        self.unlisten_all()
        self.engine.retire(seconds / 2)
        half = self.loop.time() + seconds / 2
        while (self.engine.connections or self.engine.arriving) and self.loop.time() < half:
            await asyncio.sleep(0.02)
        await self.drain(seconds / 2)

    async def drain(self, seconds: float) -> None:
        """Lets what is in flight come to its end; what is not done in time is cut."""
        self.unlisten_all()
        self.engine.drain(seconds / 2)
        end = self.loop.time() + seconds
        while self.engine.connections and self.loop.time() < end:
            await asyncio.sleep(0.02)
        if self.engine.connections:
            logger.warning("%d connections did not end in time and are cut", self.engine.connections)
        self.close()

    def close(self) -> None:
        self.engine.close()
        self.forget()
        if self.trial_ends is not None:
            self.trial_ends.cancel()
        if self.flusher is not None:
            self.flusher.cancel()
        if self.log is not None:
            self.log.close()
