"""Keeps one source running for one service: pauses, the last good answer, what is told about it."""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fastgw.config.schema.discovery import Discovery
from fastgw.upstreams.discovery.base import EndpointSet, Found, Source, SourceError, all_of

logger = logging.getLogger("fastgw.discovery")

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
SOURCES = {"dns": "DnsSource", "file": "FileSource", "consul": "ConsulSource", "etcd": "EtcdSource",
           "kubernetes": "KubernetesSource"}  # fmt: skip


def make_source(service: str, options: Discovery) -> Source:
    """Only what is configured is imported."""
    module = importlib.import_module(f"fastgw.upstreams.discovery.{options.type}")
    source: Source = getattr(module, SOURCES[options.type])(service, options)
    return source


@dataclass(slots=True)
class State:
    """What is known of the discovery of one service, for metrics and the admin API.

    age       seconds since the source last confirmed the set; None when it never did
    left_out  endpoints beyond `max_endpoints`
    expired   the last good answer became too old: the endpoints of the file are used, or none
    """

    service: str
    source: str
    version: int
    endpoints: int
    age: float | None
    updates: int
    failures: int
    left_out: int
    expired: bool
    error: str


class Watcher:
    """`fallback` are the endpoints of the file; `before` is the set that is in force already."""

    def __init__(
        self,
        service: str,
        options: Discovery,
        fallback: tuple[Found, ...],
        publish: Callable[[EndpointSet], None],
        before: EndpointSet | None = None,
        version: int = 0,
    ) -> None:
        self.service = service
        self.options = options
        self.fallback = fallback
        self.publish = publish
        self.source = make_source(service, options)
        self.current = before
        self.version = before.version if before is not None else version
        self.confirmed: float | None = time.monotonic() if before is not None else None
        self.first = asyncio.Event()
        """Set by the first answer."""
        self.updates = self.failures = self.left_out = 0
        self.error = ""
        self.expired = False
        self.pause = FIRST_PAUSE
        self.expiry: asyncio.TimerHandle | None = None

    @property
    def state(self) -> State:
        age = None if self.confirmed is None else max(0.0, time.monotonic() - self.confirmed)
        count = len(self.current.endpoints) if self.current is not None else len(self.fallback)
        return State(
            self.service, str(self.source), self.version, count, age, self.updates, self.failures, self.left_out,
            self.expired, self.error,
        )  # fmt: skip

    async def live(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                try:
                    await self.source.run(self.seen, self.alive)
                except (SourceError, OSError) as error:     # TimeoutError is an OSError
                    self.failed(str(error) or type(error).__name__)
                except Exception as error:
                    logger.exception("discovery of %s: %s failed", self.service, self.source)
                    self.failed(type(error).__name__)
                wait = self.pause * random.uniform(0.5, 1.0)
                self.pause = min(self.pause * 2, LONGEST_PAUSE)
                await asyncio.sleep(wait)
        finally:
            if self.expiry is not None:
                self.expiry.cancel()

    def alive(self) -> None:
        """What is known is still so."""
        self.confirmed = time.monotonic()
        self.pause = FIRST_PAUSE
        self.first.set()
        if self.expiry is not None:
            self.expiry.cancel()
            self.expiry = None
        if self.error:
            self.error = ""
            logger.info("discovery of %s: %s answers again", self.service, self.source)

    def seen(self, found: Iterable[Found]) -> None:
        endpoints, left_out = all_of(found, self.options.max_endpoints)
        if left_out and not self.left_out:
            logger.warning(
                "discovery of %s: %s told %d endpoints more than `max_endpoints`; they are left out",
                self.service, self.source, left_out,
            )  # fmt: skip
        self.left_out = left_out
        if self.current is None or self.expired or endpoints != self.current.endpoints:
            self.expired = False
            self.put(endpoints)
        self.alive()

    def put(self, endpoints: tuple[Found, ...]) -> None:
        before = {one.origin for one in self.current.endpoints} if self.current is not None else set()
        after = {one.origin for one in endpoints}
        self.version += 1
        self.updates += 1
        self.current = EndpointSet(self.service, str(self.source), self.version, endpoints, time.time())
        logger.info(
            "discovery of %s: version %d has %d endpoints (%d new, %d gone)",
            self.service, self.version, len(endpoints), len(after - before), len(before - after),
        )  # fmt: skip
        self.publish(self.current)

    def failed(self, text: str) -> None:
        """Told once, until it answers again; counted every time."""
        self.failures += 1
        if not self.error:
            kept = "the last endpoints stay" if self.current is not None else "there are none yet"
            logger.warning("discovery of %s: %s: %s; %s", self.service, self.source, text, kept)
        self.error = text[:500]
        if self.expiry is None and not self.expired and self.confirmed is not None:
            left = self.confirmed + self.options.keep - time.monotonic()
            self.expiry = asyncio.get_running_loop().call_later(max(0.0, left), self.expire)

    def expire(self) -> None:
        """The last good answer is older than it may be."""
        self.expiry = None
        self.expired = True
        logger.error(
            "discovery of %s: %s has not answered for %g s; %s",
            self.service, self.source, self.options.keep,
            "the endpoints of the file are used" if self.fallback else "the service has no endpoints",
        )  # fmt: skip
        self.put(self.fallback)
