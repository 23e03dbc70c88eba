"""The gateway inside somebody else's asyncio program, and the single-process mode of `fastgw run`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any

from fastgw import __version__
from fastgw._core.cache_access import Access
from fastgw.admin.api import AdminServer, Api
from fastgw.admin.rollout import AtOnce
from fastgw.config import Config, ConfigError
from fastgw.observe.metrics import CONTENT_TYPE, View, render
from fastgw.plan.resilience import route_circuits
from fastgw.server.certificates import POLL_SECONDS, CertificateWatch
from fastgw.server.compiled import Compiled, compile_config, key_sources, restart_needed
from fastgw.server.dataplane import DataPlane
from fastgw.server.discovery import Changed, Discovery
from fastgw.server.health import Health
from fastgw.server.key_desk import KeyDesk
from fastgw.server.keysets import KeySets
from fastgw.server.limits import LimitDesk
from fastgw.server.mirrors import mirrors_view
from fastgw.server.names import Resolver
from fastgw.server.purges import PurgeShare
from fastgw.server.quotas import QuotaDesk
from fastgw.server.secret_sources import SOURCES
from fastgw.server.secrets import SecretWatch
from fastgw.server.shared import SharedMemory
from fastgw.server.sockets import ListenError, open_listener, open_single, remove_file
from fastgw.server.stale import StaleWatch, empty_services
from fastgw.server.views import config_view, overload_view, routes_view, services_view

logger = logging.getLogger("fastgw.gateway")


class Gateway:
    """`async with Gateway("gateway.yaml") as gateway: …`

    `source` is the path of a file, YAML text, or a mapping. Any asyncio loop with `add_reader` will do; uvloop is
    not required. `gateway.ports` are the ports of the TCP listeners, in the order of the file (port 0 takes a free
    one). `admin=True` also opens the admin listener. ConfigError has every problem; ListenError names the address.
    """

    def __init__(self, source: Any, *, admin: bool = False) -> None:
        self.source = source
        self.with_admin = admin
        self.compiled: Compiled | None = None
        self.plane: DataPlane | None = None
        self.ports: list[int] = []
        self.admin_port = 0
        self._sockets: dict[str, socket.socket] = {}
        self._memory: SharedMemory | None = None
        self._names: Resolver | None = None
        self._discovery: Discovery | None = None
        self._admin: AdminServer | None = None
        self._draining = False
        self.stop_wanted = asyncio.Event()
        self._lock = asyncio.Lock()
        self._reloads = {"ok": 0, "failed": 0}
        self._health: Health | None = None
        self._keys: KeySets | None = None
        self._certificates = CertificateWatch()
        self._watching: asyncio.Task[None] | None = None
        self._watching_secrets: asyncio.Task[None] | None = None
        self._watching_purges: asyncio.Task[None] | None = None
        self._purges: PurgeShare | None = None
        self._watching_api_keys: asyncio.Task[None] | None = None
        self._stale: StaleWatch | None = None
        self.quotas = QuotaDesk(lambda: (self.compiled.spec.generation if self.compiled else 0, self._config))
        self.rollout = AtOnce(source, self._config, self.reload)
        self._desk: KeyDesk | None = None

    async def __aenter__(self) -> Gateway:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        first = compile_config(self.source, 1, None, None)
        labels = first.config.observability.metrics.max_label_values
        memory = self._memory = SharedMemory(1, labels, cache=first.config.cache)
        compiled = compile_config(self.source, 1, memory.route_slots, memory.service_slots)
        memory.adopt(compiled.route_slots, compiled.service_slots)
        loop = asyncio.get_running_loop()
        memory.cache.attach()
        if memory.cache.disk is not None:
            memory.cache.disk.write(memory.cache)
        self._purges = PurgeShare(Access(memory.cache), self._config)
        shared = (
            memory.health, memory.usage, memory.bans, memory.circuits, memory.cache, memory.holds[0],
            memory.limit_counts,
        )  # fmt: skip
        plane = self.plane = DataPlane(loop, memory.stats[0], memory.buckets, self._public, *shared)
        self.compiled = compiled
        try:
            self._open(compiled)
            plane.read_api_keys(compiled.config.api_keys.file)
            plane.host.keys.broken |= compiled.config.api_keys.store is not None
            self._desk = KeyDesk(self._config, memory.usage, plane.take_api_keys)
            plane.adopt_now(compiled.spec)
            plane.prepare_log(compiled.config.observability.access_log)
            plane.adopt_log()
            self._names = Resolver(self._publish)
            self._discovery = Discovery(self._discovered, self._names)
            self._keys = KeySets(plane.keys.take)
            plane.keys.ask = self._keys.want
            await self._follow(compiled)
            self._health = Health(memory.health, self._names, self._discovery, memory.circuits)
            self._health.follow(compiled.config, route_circuits(compiled.config))
            for name, sock in self._sockets.items():
                plane.listen(name, sock)
            if self.with_admin and compiled.config.admin.enabled:
                await self._open_admin(compiled)
            self._certificates.follow(compiled.config, compiled.spec.tls, loop.time())
            self._stale = StaleWatch(loop.time())
            self._watching = loop.create_task(self._watch_certificates())
            self._watching_purges = loop.create_task(self.purges.run())
            self._watching_secrets = loop.create_task(SecretWatch(self._config, self.reload).run())
            self._watching_api_keys = loop.create_task(self._desk.watch())
        except BaseException:
            await self.stop(0)
            raise

    def _open(self, compiled: Compiled) -> None:
        for bind in compiled.config.server.binds:
            name = str(bind)
            if name not in self._sockets:
                self._sockets[name] = open_listener(bind, 1)[0]
        self.ports = [sock.getsockname()[1] for sock in self._sockets.values() if sock.family != socket.AF_UNIX]

    async def _open_admin(self, compiled: Compiled) -> None:
        admin = compiled.config.admin
        sock = open_single(admin.bind)
        self.admin_port = 0 if admin.bind.unix else sock.getsockname()[1]
        token = admin.token.reveal() if admin.token is not None else None
        self._admin = AdminServer(Api(self, token, compiled.config.observability.metrics.path))
        await self._admin.start(sock)

    async def stop(self, drain: float | None = None) -> None:
        """Drains for the configured time (or `drain` seconds), then closes everything."""
        self._draining = True
        for watching in (self._watching, self._watching_secrets, self._watching_api_keys, self._watching_purges):
            if watching is not None:
                watching.cancel()
        if self.plane is not None:
            seconds = self.compiled.config.server.timeouts.drain if drain is None and self.compiled else drain or 0.0
            await self.plane.drain(seconds)
        if self._health is not None:
            self._health.stop()
        if self._discovery is not None:
            self._discovery.stop()
        if self._names is not None:
            self._names.stop()
        if self._keys is not None:
            self._keys.stop()
        if self._admin is not None:
            await self._admin.close()
        if self._desk is not None:
            await self._desk.close()
        if self._memory is not None and self._memory.cache.disk is not None:
            await self._memory.cache.disk.stop()
        for name, sock in self._sockets.items():
            sock.close()
            remove_file(name)
        self._sockets.clear()

    @property
    def desk(self) -> KeyDesk:
        assert self._desk is not None
        return self._desk

    async def snapshots(self) -> list[dict[str, Any]]:
        assert self.plane is not None
        return [self.plane.snapshot()]

    @property
    def limits(self) -> LimitDesk:
        return LimitDesk(self.memory, self._config)

    @property
    def memory(self) -> SharedMemory:
        assert self._memory is not None
        return self._memory

    def _publish(self, addresses: Any) -> None:
        assert self.plane is not None
        for url, found in addresses.items():
            self.plane.engine.set_addresses(url, found)

    def _discovered(self, changed: Changed) -> None:
        assert self.plane is not None and self._names is not None
        self.plane.discover(changed)
        self._publish(self._names.known)             # endpoints it brought have addresses only now
        if self._health is not None:
            self._health.refresh()

    async def _public(self, kind: str) -> tuple[int, str, bytes]:
        if kind == "metrics":
            content_type, body = await self.metrics()
            return 200, content_type, body
        ready, _ = await self.ready()
        if kind == "health" or ready:
            return 200, "application/json", b'{"status":"ok"}\n'
        return 503, "application/json", b'{"status":"not ready"}\n'

    # ------------------------------------------------------------------ what the admin API shows

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        generation = self.compiled.spec.generation if self.compiled else 0
        facts = {"workers": 1, "of": 1, "draining": self._draining, "generation": generation}
        return self.compiled is not None and not self._draining, facts

    async def metrics(self) -> tuple[str, bytes]:
        assert self.plane is not None and self._memory is not None and self.compiled is not None
        snapshot = self.plane.snapshot()
        view = View(
            stats=self._memory.stats,
            routes=self._memory.route_slots.by_slot(),
            services=self._memory.service_slots.by_slot(),
            snapshots=[snapshot],
            generation=self.compiled.spec.generation,
            workers=1,
            reloads=self._reloads,
            dropped_lines=snapshot["dropped_lines"],
            version=__version__,
            certificates=self._certificates.states(),
            cache=Access(self._memory.cache).stats(),
            cache_disk=None if (disk := self._memory.cache.disk) is None else disk.view(),
            limit_table={"slots": self._memory.buckets.capacity, **self._memory.buckets.counts()},
            certificate_failures=self._certificates.failures,
            discovery=self._discovery.states() if self._discovery is not None else (),
            health=self._health.states() if self._health is not None else (),
            api_keys=await self.desk.used(self.compiled.config.observability.metrics.max_label_values),
            circuits=self._health.circuits.states() if self._health is not None else (),
            keys=self._keys.states() if self._keys is not None else (),
            limits=self._memory.limit_counts.rows(),
            secrets=SOURCES.states(),
        )
        return CONTENT_TYPE, render(view)

    @property
    def purges(self) -> PurgeShare:
        assert self._purges is not None
        return self._purges

    @property
    def health(self) -> Health:
        assert self._health is not None
        return self._health

    async def services(self) -> list[dict[str, Any]]:
        assert self.plane is not None and self.compiled is not None
        return services_view(self.compiled.config, [self.plane.snapshot()], self._discovery, self._health)

    async def overload(self) -> dict[str, Any]:
        return overload_view(await self.snapshots())

    async def mirrors(self) -> dict[str, list[dict[str, Any]]]:
        assert self.plane is not None and self._memory is not None and self.compiled is not None
        told, slots = [self.plane.mirrors()], self._memory.service_slots.by_slot()
        return mirrors_view(self.compiled.config, told, self._memory.stats, slots)

    async def reset_mirrors(self, route: str) -> None:
        assert self.plane is not None
        self.plane.reset_mirrors(route)

    async def routes(self) -> list[dict[str, Any]]:
        assert self.compiled is not None
        return routes_view(self.compiled.config)

    async def stale_routes(self) -> dict[str, Any]:
        """Between two questions nobody looks here: what moved then is dated at the second one."""
        assert self._stale is not None and self._memory is not None and self.compiled is not None
        now, slots = asyncio.get_running_loop().time(), self._memory.route_slots
        self._stale.look(self._memory.stats, slots, empty_services(await self.services()), now)
        rows = self._stale.report(self.compiled.config, slots, now)
        return {"observed": round(now - self._stale.begun, 1), "routes": rows}

    def _config(self) -> Config:
        assert self.compiled is not None
        return self.compiled.config

    async def config(self) -> dict[str, Any]:
        return config_view(self._config())

    async def reload(self, source: Any = None) -> tuple[bool, dict[str, Any]]:
        """Takes the source as it is now (or another one) into use, or nothing: (done, facts). One at a time."""
        async with self._lock:
            return await self._reload(source)

    async def _reload(self, source: Any) -> tuple[bool, dict[str, Any]]:
        assert self.plane is not None and self._memory is not None and self.compiled is not None
        wanted = self.source if source is None else source
        generation = self.compiled.spec.generation + 1
        try:
            slots = self._memory.route_slots, self._memory.service_slots
            new = compile_config(wanted, generation, *slots, self.compiled.spec.tls)
        except ConfigError as error:
            self._reloads["failed"] += 1
            return False, {"problems": [{n: getattr(p, n) for n in p.__slots__} for p in error.problems]}
        before = set(self._sockets)
        try:
            self._open(new)
            await self._follow(new)
            await self.plane.prepare(new.spec, new.config.observability.access_log)
            if self._names is not None:
                self._publish(self._names.known)     # the endpoints it brought exist only now
        except BaseException as failure:
            self._reloads["failed"] += 1
            for name in self._sockets.keys() - before:
                self._sockets.pop(name).close()
                remove_file(name)
            self.plane.forget()
            await self._follow(self.compiled)
            if not isinstance(failure, (ListenError, OSError)):
                raise
            return False, {"problems": [{"severity": "error", "code": "not_adopted", "message": str(failure)}]}
        self._memory.adopt(new.route_slots, new.service_slots)
        self.plane.adopt()
        if self._health is not None:
            self._health.follow(new.config, route_circuits(new.config))
        after = {str(bind) for bind in new.config.server.binds}
        for name in after - before:
            self.plane.listen(name, self._sockets[name])
        for name in before - after:
            self.plane.unlisten(name)
            self._sockets.pop(name).close()
            remove_file(name)
        keys = restart_needed(self.compiled.config, new.config)
        self.compiled = new
        self._certificates.follow(new.config, new.spec.tls, asyncio.get_running_loop().time())
        self.source = wanted
        self._reloads["ok"] += 1
        return True, {"generation": generation, "restart_needed": keys}

    async def _follow(self, compiled: Compiled) -> None:
        if self._names is not None and self._discovery is not None and self._keys is not None:
            following = self._names.follow(compiled.config), self._discovery.follow(compiled.config)
            await asyncio.gather(*following, self._keys.follow(key_sources(compiled.config)))

    async def _watch_certificates(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.refresh_certificates()
            except Exception as failure:             # the next look tries again
                logger.error("the certificates were not taken into use: %s", failure)

    async def refresh_certificates(self) -> bool:
        """Takes changed certificates and new ticket keys into use; the configuration stays as it is."""
        async with self._lock:
            assert self.plane is not None and self.compiled is not None
            if self._certificates.empty:
                return False
            loop = asyncio.get_running_loop()
            change = await loop.run_in_executor(None, self._certificates.poll, loop.time())
            if change is None:
                return False
            new = self.compiled.refreshed(change.material, change.rotate)
            await self.plane.prepare(new.spec, new.config.observability.access_log)
            self.plane.adopt()
            self.compiled = new
            self._certificates.taken(change, new.spec.tls, loop.time())
            return True

    async def upgrade(self) -> tuple[bool, dict[str, Any]]:
        return False, {"detail": "there is no supervisor in this process that another one could take over from"}

    async def drain(self) -> None:
        """What the admin API asks: `/ready` is false, nothing more is accepted (with a `drain_delay`: when who runs us
        calls `stop`), and who runs us is told by `stop_wanted`."""
        self._draining = True
        if self.plane is not None and not self._delay:
            self.plane.unlisten_all()
            self.plane.engine.drain()
        self.stop_wanted.set()

    @property
    def _delay(self) -> float:
        return self.compiled.config.server.timeouts.drain_delay if self.compiled is not None else 0.0

    async def leave(self, hurry: asyncio.Event) -> None:
        """Before `stop`: `/ready` is false from now on. Returns after `drain_delay`, or when `hurry` is set."""
        self._draining = True
        if self._delay:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), self._delay)
