"""Discovery of all services of a configuration: a watcher for each, what they found, what is told about them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from fastgw.config import Config
from fastgw.config.schema.services import Service
from fastgw.server.names import Resolver
from fastgw.upstreams.discovery import EndpointSet, Found, Watcher
from fastgw.upstreams.discovery.watcher import State

logger = logging.getLogger("fastgw.discovery")

Changed = Mapping[str, EndpointSet | None]


def fallback_of(service: Service) -> tuple[Found, ...]:
    return tuple(
        Found(one.url, one.weight, one.zone, tuple(sorted(one.labels.items())), one.priority)
        for one in service.endpoints
    )


class Discovery:
    """`publish({service: its endpoints, or None when it is not discovered any more})` for what changed. `known` is
    what is in force. Endpoints with host names are given to `names`, to be looked up."""

    def __init__(
        self, publish: Callable[[Changed], None], names: Resolver, known: Mapping[str, EndpointSet] | None = None
    ) -> None:
        self.publish = publish
        self.names = names
        self.known: dict[str, EndpointSet] = dict(known or {})
        self.versions: dict[str, int] = {name: found.version for name, found in self.known.items()}
        self.watchers: dict[str, Watcher] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.refresh: dict[str, float] = {}
        self.tried = False

    def stop(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        self.tasks.clear()
        self.watchers.clear()

    async def follow(self, config: Config) -> None:
        """Watches for the services of this configuration from now on. Returns when each new one has answered once, or
        its `wait` is over. A watcher whose options are the same goes on."""
        wanted = {name: service for name, service in config.services.items() if service.discovery is not None}
        gone = [name for name in self.known if name not in wanted]
        for name in [name for name in self.tasks if name not in wanted]:
            self.drop(name)
        for name in gone:
            del self.known[name]
        if gone:
            self.publish(dict.fromkeys(gone))
        first: dict[asyncio.Task[bool], tuple[str, float]] = {}
        loop = asyncio.get_running_loop()
        for name, service in wanted.items():
            options = service.discovery
            assert options is not None
            self.refresh[name] = service.dns.refresh
            running = self.watchers.get(name)
            if running is not None and running.options == options and running.fallback == fallback_of(service):
                continue
            self.drop(name)
            watcher = self.watchers[name] = Watcher(
                name, options, fallback_of(service), self.found, self.known.get(name), self.versions.get(name, 0)
            )
            self.tasks[name] = loop.create_task(watcher.live())
            first[loop.create_task(watcher.first.wait())] = name, options.wait
        self.look_up()
        if first:
            await self.wait(first)
        self.tried = True

    async def wait(self, first: dict[asyncio.Task[bool], tuple[str, float]]) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            for task, (name, seconds) in sorted(first.items(), key=lambda item: item[1][1]):
                await asyncio.wait([task], timeout=max(0.0, begun + seconds - loop.time()))
                if not task.done() and name not in self.known:
                    logger.warning(
                        "discovery of %s: no answer in %g s; until there is one, %s", name, seconds,
                        "the endpoints of the file are used" if self.watchers[name].fallback else "requests get 503",
                    )  # fmt: skip
        finally:
            for task in first:
                task.cancel()

    def drop(self, name: str) -> None:
        self.watchers.pop(name, None)
        task = self.tasks.pop(name, None)
        if task is not None:
            task.cancel()

    def found(self, found: EndpointSet) -> None:
        self.known[found.service] = found
        self.versions[found.service] = found.version
        self.publish({found.service: found})
        self.look_up()

    def look_up(self) -> None:
        """The host names among what was found."""
        self.names.also(
            (one.origin, self.refresh.get(name, 30.0))
            for name, found in self.known.items()
            for one in found.endpoints
        )

    def states(self) -> list[State]:
        return [watcher.state for watcher in self.watchers.values()]
