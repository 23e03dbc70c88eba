"""Health of endpoints, once per host: the checks, and the comparison of rates and latencies that workers count.

What is found stands in the shared table (`_core/health.pyx`), where it outlives this process; workers look there.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastgw._core.breaker import CircuitTable
from fastgw._core.health import R_LATENCY, R_SUCCESS_RATE, HealthTable
from fastgw.config import Config
from fastgw.config.schema.address import Origin
from fastgw.config.schema.health import HealthCheck
from fastgw.config.schema.health import Outliers as OutlierOptions
from fastgw.config.schema.services import Service
from fastgw.config.schema.tls import UpstreamTls
from fastgw.plan.addresses import host_of, known
from fastgw.plan.resilience import RouteCircuits
from fastgw.server.circuits import Circuits
from fastgw.server.discovery import Discovery, fallback_of
from fastgw.server.names import Resolver
from fastgw.upstreams.health import Check, trust_of

logger = logging.getLogger("fastgw.health")

NONE, UP, DOWN = range(3)
STATES = {"unchecked": NONE, "up": UP, "down": DOWN}
AT_A_TIME = 256
"""Checks under way."""
FIRST_SECONDS = 1.0
"""The first checks are spread over so long, or over an interval that is shorter."""
TOUCH_SECONDS = 60.0
LEAST_LATENCY = 1_000_000
"""Nanoseconds: who answers faster is no outlier, whatever the others do."""
Key = tuple[str, str]


@dataclass(slots=True)
class EndpointHealth:
    """What is known of one endpoint, for the admin API and metrics. Durations are seconds; `ejected_for` is what
    is left of an ejection; `why` is what the last bad check said."""

    service: str
    url: str
    state: str
    reason: str
    why: str
    since: float | None
    ejected_for: float | None
    ejections: int
    good: int
    bad: int

    @property
    def up(self) -> bool:
        return self.state in ("up", "unchecked")


class Watched:
    """An endpoint whose state is kept. `check` None: requests alone decide."""

    def __init__(self, service: str, origin: Origin, slot: int, check: Check | None) -> None:
        self.service = service
        self.origin = origin
        self.url = str(origin)
        self.slot = slot
        self.check = check
        self.good = self.bad = 0
        self.row = 0
        """Answers of one kind in a row: above 0 good ones, below bad ones."""
        self.why = ""
        self.task: asyncio.Task[None] | None = None
        self.before: tuple[int, int, int, int] | None = None


class Health:
    """`follow(config)` when it is in force; `refresh()` when discovery told other endpoints."""

    def __init__(
        self, table: HealthTable, names: Resolver, discovery: Discovery, circuits: CircuitTable
    ) -> None:
        self.table = table
        self.names = names
        self.discovery = discovery
        self.circuits = Circuits(circuits, table, self.endpoints)
        self.services: dict[str, Service] = {}
        self.trusts: dict[str, ssl.SSLContext | None] = {}
        self.watched: dict[Key, Watched] = {}
        self.judges: dict[str, tuple[OutlierOptions, asyncio.Task[None]]] = {}
        self.toucher: asyncio.Task[None] | None = None
        self.room = asyncio.Semaphore(AT_A_TIME)
        self.ejected: dict[Key, float] = {}

    def stop(self) -> None:
        for one in self.watched.values():
            if one.task is not None:
                one.task.cancel()
        for _, task in self.judges.values():
            task.cancel()
        if self.toucher is not None:
            self.toucher.cancel()
        self.watched.clear()
        self.judges.clear()
        self.toucher = None

    # ------------------------------------------------------------------ what is watched

    def follow(self, config: Config, circuits: RouteCircuits) -> None:
        self.circuits.follow(config, circuits)
        wanted = {name: one for name, one in config.services.items() if is_watched(one)}
        loop = asyncio.get_running_loop()
        for name in self.services.keys() | wanted.keys():
            # with another way to ask, what was found the old way says nothing
            old, new = self.services.get(name), wanted.get(name)
            if old is not None and (new is None or way(old) != way(new)):
                for key in [key for key in self.watched if key[0] == name]:
                    self.drop(key, forget=new is None or new.health_check is None)
        self.services = wanted
        for name, service in wanted.items():
            material = config.tls.services.get(name)
            self.trusts[name] = None
            if material is not None and service.health_check is not None:
                try:
                    self.trusts[name] = trust_of(
                        service.tls or UpstreamTls(), material.ca, material.cert, material.key,
                        service.health_check.type == "grpc",
                    )
                except (ssl.SSLError, OSError) as error:
                    logger.error("health checks of %s fail: its TLS files cannot be used: %s", name, error)
                for key, one in self.watched.items():
                    if key[0] == name and one.check is not None and one.check.trust is not None:
                        one.check.trust = self.trusts[name]
        for name in self.judges.keys() - {name for name, one in wanted.items() if one.outliers and one.outliers.rates}:
            self.judges.pop(name)[1].cancel()
        for name, service in wanted.items():
            options = service.outliers
            if options is None or not options.rates:
                continue
            running = self.judges.get(name)
            if running is None or running[0] != options:
                if running is not None:
                    running[1].cancel()
                self.judges[name] = options, loop.create_task(self.judge(name, options))
        if self.toucher is None:
            self.toucher = loop.create_task(self.touch())
        self.refresh()

    def endpoints(self, name: str, service: Service) -> Iterator[Origin]:
        told = self.discovery.known.get(name) if service.discovery is not None else None
        for found in told.endpoints if told is not None else fallback_of(service):
            yield found.origin

    def refresh(self) -> None:
        wanted: dict[Key, tuple[Service, Origin]] = {}
        for name, service in self.services.items():
            for origin in self.endpoints(name, service):
                wanted[name, str(origin)] = service, origin
        for key in self.watched.keys() - wanted.keys():
            self.drop(key, forget=True)
        full = 0
        for key, (service, origin) in wanted.items():
            if key not in self.watched:
                full += not self.watch(key, service, origin)
        if full:
            logger.error("there is no room for the state of %d endpoints: they count as healthy", full)

    def watch(self, key: Key, service: Service, origin: Origin) -> bool:
        """False: the table has no room."""
        slot = self.table.slot(*key)
        if slot < 0:
            return False
        check = None
        if service.health_check is not None:
            name = service.tls.server_name if service.tls is not None else None
            check = Check(service.health_check, origin, service.host, self.trusts.get(key[0]), name)
        else:
            self.table.set_check(slot, key[0], NONE)
        one = self.watched[key] = Watched(key[0], origin, slot, check)
        if check is not None:
            one.task = asyncio.get_running_loop().create_task(self.ask(one, check))
        return True

    def drop(self, key: Key, forget: bool) -> None:
        one = self.watched.pop(key)
        if one.task is not None:
            one.task.cancel()
        if forget:
            self.table.set_check(one.slot, one.service, NONE)

    async def touch(self) -> None:
        """Says now and then that the slots are used: one that nobody uses may become somebody else's."""
        while True:
            await asyncio.sleep(TOUCH_SECONDS)
            for key in self.watched:
                self.table.slot(*key)
            self.circuits.touch()

    # ------------------------------------------------------------------ checks

    async def ask(self, one: Watched, check: Check) -> None:
        """Until it is cancelled."""
        options = check.options
        await asyncio.sleep(random.uniform(0, min(options.interval, FIRST_SECONDS)))
        while True:
            try:
                addresses = known(one.origin) or self.names.known.get(one.url, ())
                async with self.room:
                    why = await check.run(host_of(addresses[0])) if addresses else "its name is not resolved"
            except Exception as error:
                logger.exception("a check of %s (%s) failed", one.url, one.service)
                why = type(error).__name__
            self.answered(one, options, why)
            await asyncio.sleep(options.interval * random.uniform(1 - options.jitter, 1 + options.jitter))

    def answered(self, one: Watched, options: HealthCheck, why: str) -> None:
        """The first answer decides alone; later ones when there are enough in a row."""
        state = STATES[self.table.read(one.slot)["check"]]
        if why:
            one.bad += 1
            one.row = min(one.row, 0) - 1
            one.why = why[:200]
            if state != DOWN and (state == NONE or -one.row >= options.unhealthy_threshold):
                logger.warning("health of %s: %s is down: %s", one.service, one.url, one.why)
                self.table.set_check(one.slot, one.service, DOWN)
        else:
            one.good += 1
            one.row = max(one.row, 0) + 1
            if state != UP and (state == NONE or one.row >= options.healthy_threshold):
                if state == DOWN:
                    logger.info("health of %s: %s is up again", one.service, one.url)
                self.table.set_check(one.slot, one.service, UP)

    # ------------------------------------------------------------------ rates and latencies

    async def judge(self, name: str, options: OutlierOptions) -> None:
        while True:
            await asyncio.sleep(options.interval)
            try:
                self.compare(name, options)
            except Exception:                        # the next interval tries again
                logger.exception("the endpoints of %s could not be compared", name)

    def compare(self, name: str, options: OutlierOptions) -> None:
        """Ejects who is much worse than the others, of those that had enough requests since the last time."""
        rates: dict[Key, float] = {}
        latencies: dict[Key, float] = {}
        ejected = many = 0
        now = time.monotonic_ns()
        for key, one in self.watched.items():
            if key[0] != name:
                continue
            many += 1
            seen = self.table.read(one.slot)
            if seen["ejected_until"] > now:
                ejected += 1
            counts = seen["requests"], seen["bad"], seen["latency"], seen["answers"]
            before, one.before = one.before or counts, counts
            requests, bad, latency, answers = (new - old for new, old in zip(counts, before, strict=True))
            if requests < options.min_requests or seen["ejected_until"] > now:
                continue
            rates[key] = 1 - bad / requests
            if answers:
                latencies[key] = latency / answers
        worst: dict[Key, tuple[float, int]] = {}
        if options.latency_above is not None and len(latencies) > 1:
            middle = Others(latencies)
            worst |= {
                key: (took, R_LATENCY)
                for key, took in latencies.items()
                if took > max(middle.median(took) * options.latency_above, LEAST_LATENCY)
            }
        if options.success_rate_below is not None and len(rates) > 1:
            middle = Others(rates)
            # a failing one comes before any slow one
            worst |= {
                key: (1e18 * (2 - rate), R_SUCCESS_RATE)
                for key, rate in rates.items()
                if rate < middle.median(rate) - options.success_rate_below
            }
        room = max(1, int(many * options.max_ejected)) - ejected if many > 1 else 0
        for key, (_, reason) in sorted(worst.items(), key=lambda item: -item[1][0])[: max(room, 0)]:
            base, longest = (int(s * 1e9) for s in (options.ejection_time, options.max_ejection_time))
            if self.table.eject(self.watched[key].slot, name, reason, base, longest):
                word = "latency" if reason == R_LATENCY else "success_rate"
                logger.warning("health of %s: %s is ejected: %s", name, key[1], word)

    # ------------------------------------------------------------------ what is told

    def states(self) -> list[EndpointHealth]:
        return [self.state(one) for one in self.watched.values()]

    def by_key(self) -> Mapping[Key, EndpointHealth]:
        return {(one.service, one.url): self.state(one) for one in self.watched.values()}

    def state(self, one: Watched) -> EndpointHealth:
        seen: dict[str, Any] = self.table.read(one.slot)
        now = time.monotonic_ns()
        state, reason, since, left = seen["check"], "", seen["since"], None
        service = self.services.get(one.service)
        if state == "down":
            reason = "check"
        elif seen["ejected_until"] > now and service is not None and service.outliers is not None:
            state, reason, since = "ejected", seen["reason"], seen["ejected_at"]
            left = (seen["ejected_until"] - now) / 1e9
        elif seen["ejected_until"]:
            since = max(since, seen["ejected_until"])
        return EndpointHealth(
            one.service, one.url, state, reason, one.why if state == "down" else "",
            (now - since) / 1e9 if since else None, left, seen["ejections"], one.good, one.bad,
        )  # fmt: skip


class Others:
    """The median of all values but one."""

    def __init__(self, values: Mapping[Key, float]) -> None:
        self.sorted = sorted(values.values())

    def median(self, value: float) -> float:
        """Without `value`, which is one of them."""
        at = bisect_left(self.sorted, value)
        count = len(self.sorted) - 1

        def other(k: int) -> float:
            return self.sorted[k if k < at else k + 1]

        return other(count // 2) if count % 2 else (other(count // 2 - 1) + other(count // 2)) / 2


def is_watched(service: Service) -> bool:
    """Is there a state of its endpoints, beyond that they are there?"""
    breaker = service.circuit_breaker
    return bool(service.health_check or service.outliers or (breaker is not None and breaker.scope == "endpoint"))


def way(service: Service) -> tuple[Any, ...]:
    """How its endpoints are asked."""
    return service.health_check, service.host, service.tls.server_name if service.tls is not None else None
