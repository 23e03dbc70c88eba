"""Host names of endpoints, looked up in the background: again and again, the last good answer is kept."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastgw.config import Config
from fastgw.config.schema.address import Origin
from fastgw.plan.addresses import Address, known, resolve

logger = logging.getLogger("fastgw.names")

FIRST_SECONDS = 5.0
AT_A_TIME = 16
"""Look-ups under way."""
Addresses = dict[str, tuple[Address, ...]]
Wanted = dict[str, tuple[Origin, float]]
"""URL → what is looked up, and how often."""


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
        self.declared: Wanted = {}
        self.found: Wanted = {}

    def stop(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        self.tasks.clear()

    async def follow(self, config: Config) -> None:
        """Looks up the names of this configuration from now on; returns when each was tried once, or took too long."""
        self.declared = names_of(
            (endpoint.url, service.dns.refresh)
            for service in config.services.values()
            for endpoint in service.endpoints
        )
        first = [asyncio.create_task(done.wait()) for done in self.watch_wanted()]
        if first:
            await asyncio.wait(first, timeout=FIRST_SECONDS)
            for waiting in first:
                waiting.cancel()
        self.tried = True

    def also(self, found: Iterable[tuple[Origin, float]]) -> None:
        """Endpoints that discovery found: their names are looked up too, from now on."""
        self.found = names_of(found)
        self.watch_wanted()

    def watch_wanted(self) -> list[asyncio.Event]:
        """Begins and ends look-ups; for each new one an event that is set when it was tried."""
        wanted = {**self.found, **self.declared}
        for url in self.tasks.keys() - wanted.keys():
            self.tasks.pop(url).cancel()
            self.known.pop(url, None)
        new = []
        for url, (origin, refresh) in wanted.items():
            if url not in self.tasks:
                done = asyncio.Event()
                self.tasks[url] = asyncio.get_running_loop().create_task(self.watch(url, origin, refresh, done))
                new.append(done)
        return new

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


def names_of(origins: Iterable[tuple[Origin, float]]) -> Wanted:
    """Those that are no addresses, each with the shortest of its intervals."""
    wanted: Wanted = {}
    for origin, refresh in origins:
        if not known(origin):
            url = str(origin)
            wanted[url] = (origin, min(refresh, wanted[url][1]) if url in wanted else refresh)
    return wanted


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
