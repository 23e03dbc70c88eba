"""Host names of endpoints, looked up in the background: again and again, the last good answer is kept."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from fastgw.config import Config
from fastgw.config.schema.address import Origin
from fastgw.plan.addresses import Address, known, resolve

logger = logging.getLogger("fastgw.names")

FIRST_SECONDS = 5.0
AT_A_TIME = 16
"""Look-ups under way."""
Addresses = dict[str, tuple[Address, ...]]


class Resolver:
    """`publish({url: addresses})` is called for what changed. `known` is what is in force."""

    def __init__(
        self, publish: Callable[[Mapping[str, Any]], None], addresses: Mapping[str, Any] | None = None
    ) -> None:
        self.publish = publish
        self.known: Addresses = dict(addresses or {})
        self.tried = False
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.failing: set[str] = set()
        self.room = asyncio.Semaphore(AT_A_TIME)

    def stop(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        self.tasks.clear()

    async def follow(self, config: Config) -> None:
        """Looks up the names of this configuration from now on; returns when each was tried once, or took too long."""
        wanted: dict[str, tuple[Origin, float]] = {}
        for service in config.services.values():
            for endpoint in service.endpoints:
                if not known(endpoint.url):
                    url = str(endpoint.url)
                    refresh = service.dns.refresh
                    wanted[url] = (endpoint.url, min(refresh, wanted[url][1]) if url in wanted else refresh)
        for url in self.tasks.keys() - wanted.keys():
            self.tasks.pop(url).cancel()
            self.known.pop(url, None)
        first = []
        for url, (origin, refresh) in wanted.items():
            if url not in self.tasks:
                done = asyncio.Event()
                self.tasks[url] = asyncio.get_running_loop().create_task(self.watch(url, origin, refresh, done))
                first.append(asyncio.create_task(done.wait()))
        if first:
            await asyncio.wait(first, timeout=FIRST_SECONDS)
            for waiting in first:
                waiting.cancel()
        self.tried = True

    async def watch(self, url: str, origin: Origin, refresh: float, done: asyncio.Event) -> None:
        while True:
            try:
                async with self.room:
                    found = await look_up(origin)
            except OSError as error:
                if url not in self.failing:
                    self.failing.add(url)
                    kept = "the last addresses stay" if url in self.known else "there are none"
                    logger.warning("%s: the name cannot be resolved (%s); %s", url, error.strerror or error, kept)
            else:
                self.failing.discard(url)
                if found and set(found) != set(self.known.get(url, ())):
                    self.known[url] = found
                    self.publish({url: found})
            done.set()
            await asyncio.sleep(refresh)


async def look_up(origin: Origin) -> tuple[Address, ...]:
    """`resolve` in a thread that nobody waits for at the end: a name server that is silent must not hold up a stop,
    as it would by the loop's executor, whose threads are joined."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[Address, ...]] = loop.create_future()

    def tell(found: tuple[Address, ...], error: OSError | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)

    def work() -> None:
        found: tuple[Address, ...] = ()
        failure = None
        try:
            found = resolve(origin)
        except OSError as error:
            failure = error
        except Exception as error:                   # a name that cannot even be asked for, as UnicodeError tells
            failure = OSError(str(error))
        with contextlib.suppress(RuntimeError):      # the loop was closed meanwhile
            loop.call_soon_threadsafe(tell, found, failure)

    threading.Thread(target=work, name="look-up", daemon=True).start()
    return await answer
