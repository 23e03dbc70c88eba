"""What the admin API shows of an agent."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from fastgw import __version__
from fastgw._core.cache_access import Access
from fastgw.admin.link import Link
from fastgw.observe.metrics import CONTENT_TYPE, View, render
from fastgw.server.certificates import CertificateWatch
from fastgw.server.compiled import Release
from fastgw.server.discovery import Discovery
from fastgw.server.health import Health
from fastgw.server.key_desk import KeyDesk
from fastgw.server.keysets import KeySets
from fastgw.server.secret_sources import SOURCES
from fastgw.server.shared import SharedMemory
from fastgw.server.stale import LOOK_SECONDS, StaleWatch, empty_services
from fastgw.server.views import config_view, overload_view, routes_view, services_view

if TYPE_CHECKING:
    from fastgw.admin.handing import Handing
    from fastgw.admin.rollout import Rollout

logger = logging.getLogger("fastgw.agent")


class Shown:
    """The part of the agent that changes nothing."""

    current: Release
    memory: SharedMemory
    links: dict[int, Link]
    restarts: int
    reloads: dict[str, int]
    draining: bool
    loop: asyncio.AbstractEventLoop
    certificates: CertificateWatch
    discovery: Discovery
    health: Health
    keys: KeySets
    desk: KeyDesk
    stale: StaleWatch
    rollout: Rollout
    handing: Handing

    @property
    @abstractmethod
    def complete(self) -> bool: ...

    @abstractmethod
    async def snapshots(self) -> list[dict[str, Any]]: ...

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        serving = sum(link.serves for link in self.links.values())
        facts = {
            "workers": serving,
            "of": len(self.links),
            "draining": self.draining,
            "generation": self.current.generation,
        }
        if self.handing.over:
            return True, facts                       # the gateway is; who kept a connection to us hears it here
        return self.complete and not self.draining, facts

    async def metrics(self) -> tuple[str, bytes]:
        snapshots = await self.snapshots()
        view = View(
            stats=self.memory.stats,
            routes=self.memory.route_slots.by_slot(),
            services=self.memory.service_slots.by_slot(),
            snapshots=snapshots,
            generation=self.current.generation,
            workers=sum(link.serves for link in self.links.values()),
            restarts=self.restarts,
            reloads=self.reloads,
            dropped_lines=sum(snapshot["dropped_lines"] for snapshot in snapshots),
            version=__version__,
            certificates=self.certificates.states(),
            certificate_failures=self.certificates.failures,
            discovery=self.discovery.states(),
            health=self.health.states(),
            circuits=self.health.circuits.states(),
            keys=self.keys.states(),
            secrets=SOURCES.states(),
            rollouts=self.rollout.ends,
            trial=self.rollout.seen(),
            limits=self.memory.limit_counts.rows(),
            limit_table={"slots": self.memory.buckets.capacity, **self.memory.buckets.counts()},
            cache=Access(self.memory.cache).stats(),
            cache_disk=None if (disk := self.memory.cache.disk) is None else disk.view(),
            api_keys=await self.desk.used(self.current.head.observability.metrics.max_label_values),
        )
        return CONTENT_TYPE, render(view)

    async def services(self) -> list[dict[str, Any]]:
        return services_view(self.current.head, await self.snapshots(), self.discovery, self.health)

    async def overload(self) -> dict[str, Any]:
        return overload_view(await self.snapshots())

    async def routes(self) -> list[dict[str, Any]]:
        return routes_view(self.current.config())

    async def stale_routes(self) -> dict[str, Any]:
        await self.look_stale()
        now = self.loop.time()
        rows = self.stale.report(self.current.config(), self.memory.route_slots, now)
        return {"observed": round(now - self.stale.begun, 1), "routes": rows}

    async def look_stale(self) -> None:
        empty = empty_services(await self.services())
        self.stale.look(self.memory.stats, self.memory.route_slots, empty, self.loop.time())

    async def watch_stale(self) -> None:
        while True:
            try:
                await self.look_stale()
            except Exception:                        # the next look tries again
                logger.exception("the routes' traffic could not be looked at")
            await asyncio.sleep(LOOK_SECONDS)

    async def config(self) -> dict[str, Any]:
        return config_view(self.current.config())
