"""Redis servers: one server, one that Sentinels know (both by connections of our own, `wire.py`), or a Cluster, as
redis-py reaches it.

    client = connect(options)
    replies = await client.send([("GET", "a"), ("INCR", "b")], name)    # one write, one answer

What raises has failed as a whole; an exception among the replies is the answer to one command.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis as Single
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ClusterDownError, ReadOnlyError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from fastgw.config.fields import Secret
from fastgw.config.schema.stores import Redis
from fastgw.store.wire import Place, Wire, Words, dial

GONE = RedisConnectionError()
LOST = (RedisConnectionError, ClusterDownError, ReadOnlyError)
"""What a server answers, or fails with, that may have handed its keys on."""


class Trust:
    """What new connections trust, and by which certificate they are known: of files that are read again when they are
    others. A renewal that cannot be read leaves what there was."""

    def __init__(self, options: Redis) -> None:
        """OSError (an SSLError is one) when a file cannot be read."""
        self.options = options
        self.seen = self.look()
        self.context = self.read()

    def look(self) -> list[tuple[int, int]]:
        names = [name for name in (self.options.ca, self.options.cert, self.options.key) if name is not None]
        return [(found.st_mtime_ns, found.st_ino) for found in map(os.stat, names)]

    def read(self) -> ssl.SSLContext:
        options = self.options
        context = ssl.create_default_context(cafile=options.ca)
        if options.cert is not None:
            passphrase = options.passphrase.reveal() if options.passphrase else ""
            # always told: nobody is there to be asked for it
            context.load_cert_chain(options.cert, options.key, lambda: passphrase)
        return context

    def get(self) -> ssl.SSLContext:
        with contextlib.suppress(OSError):
            seen = self.look()
            if seen != self.seen:
                self.context = self.read()
                self.seen = seen
        return self.context


class TlsConnection(SSLConnection):
    """Trusts what `ca` has and nothing else; the library would add it to the authorities of the host."""

    def __init__(self, *, trust: Trust, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context = trust  # type: ignore[assignment]     # asked by `get` for each connection


def common(options: Redis) -> dict[str, Any]:
    """What redis-py's connections have, to Sentinels and in a Cluster. It tries nothing anew: who calls does."""
    return {
        "username": options.username,
        "password": secret(options.password),
        "socket_timeout": options.timeout,
        "socket_connect_timeout": options.timeout,
        "max_connections": options.max_connections,
        "retry": Retry(NoBackoff(), 0, supported_errors=(RedisConnectionError,)),
        "health_check_interval": 0,
        "protocol": 2,
    }


def host_port(node: str) -> tuple[str, int]:
    parts = urlsplit(f"//{node}")
    return str(parts.hostname), int(parts.port or 0)


class Client:
    """One server, under the name ``""``. Connections are kept; there are as many as are asked at once."""

    def __init__(self, options: Redis, trust: Trust | None) -> None:
        self.options = options
        self.trust = trust
        self.idle: list[Wire] = []
        self.closed = False
        # what an answer means is as redis-py has it, here and in a Cluster
        self.meanings = Single(protocol=2).response_callbacks

    def server_of(self, key: str) -> str:
        """The name of the server that has a key."""
        return ""

    async def send(self, commands: Sequence[Words], server: str) -> list[Any]:
        try:
            return self.meant(commands, await self.once(commands))
        except (RedisTimeoutError, AuthenticationError):
            raise
        except RedisConnectionError:
            # who was restarted, or gave its place to another one: kept connections are dead, a new one may do
            self.forget()
            return self.meant(commands, await self.once(commands))

    async def once(self, commands: Sequence[Words]) -> list[Any]:
        timeout = self.options.timeout
        wire = self.kept() or await dial(await self.place(), timeout)
        try:
            return await wire.ask(commands, timeout)
        finally:
            if self.closed:
                wire.close()
            elif wire.alive:
                self.idle.append(wire)

    def kept(self) -> Wire | None:
        while self.idle:
            wire = self.idle.pop()
            if wire.alive:
                return wire
        return None

    def forget(self) -> None:
        for wire in self.idle:
            wire.close()
        self.idle.clear()

    def meant(self, commands: Sequence[Words], replies: list[Any]) -> list[Any]:
        meanings = self.meanings
        for n, words in enumerate(commands):
            if words[0] in meanings and not isinstance(replies[n], Exception):
                replies[n] = meanings[words[0]](replies[n])
        return replies

    async def place(self) -> Place:
        """Where the server is now."""
        url = parse_url(str(self.options.url))
        user = url.get("username") or self.options.username
        password = url.get("password") or secret(self.options.password)
        place = Place(url.get("host", "localhost"), url.get("port", 6379), url.get("path"), self.context())
        return replace(place, greeting=greeting(user, password, url.get("db", 0)))

    def context(self) -> ssl.SSLContext | None:
        return self.trust.get() if self.trust is not None else None

    async def close(self) -> None:
        self.closed = True
        self.forget()


def secret(text: Secret | None) -> str | None:
    return text.reveal() if text else None


def greeting(user: str | None, password: str | None, database: int) -> tuple[Words, ...]:
    words: list[Words] = []
    if password is not None:
        words.append(("AUTH", user, password) if user is not None else ("AUTH", password))
    if database:
        words.append(("SELECT", database))
    return tuple(words)


class SentinelClient(Client):
    """The server that the Sentinels name. A connection that breaks, or to a server that may not be written to any
    more, asks them again."""

    def __init__(self, options: Redis, trust: Trust | None, sentinels: Sentinel) -> None:
        super().__init__(options, trust)
        self.sentinels = sentinels
        self.address: tuple[str, int] | None = None

    async def once(self, commands: Sequence[Words]) -> list[Any]:
        replies = await super().once(commands)
        if any(isinstance(reply, ReadOnlyError) for reply in replies):
            raise RedisConnectionError("it is no master any more")
        return replies

    async def place(self) -> Place:
        told = self.options.sentinel
        assert told is not None
        host, port = await self.sentinels.discover_master(told.master)
        if isinstance(host, bytes):
            host = host.decode()
        if (host, port) != self.address:
            self.forget()                            # connections to the one before
            self.address = host, port
        words = greeting(self.options.username, secret(self.options.password), told.database)
        return Place(host, port, tls=self.context(), greeting=words)

    async def close(self) -> None:
        await super().close()
        for one in self.sentinels.sentinels:
            await one.aclose()
            await one.connection_pool.disconnect()


class ClusterClient(Client):
    """The servers of a Cluster, each by its name, ``""`` while they are not known."""

    def __init__(self, cluster: RedisCluster) -> None:  # its connections are redis-py's own
        self.cluster = cluster
        self.refreshing: asyncio.Task[None] | None = None

    def server_of(self, key: str) -> str:
        nodes = self.cluster.nodes_manager.slots_cache.get(self.cluster.keyslot(key))
        return nodes[0].name if nodes else ""

    async def send(self, commands: Sequence[Words], server: str) -> list[Any]:
        try:
            replies = await self.once(commands)
        except RedisConnectionError:
            replies = [GONE] * len(commands)
        except RedisTimeoutError:
            await self.refreshed(server)             # nobody waits for the answers any more
            raise
        lost = [n for n, reply in enumerate(replies) if isinstance(reply, LOST)]
        if lost:
            # it died, or somebody else has its keys now, or only the kept connections are dead
            await self.refreshed(server)
            for n, reply in zip(lost, await self.once([commands[n] for n in lost]), strict=True):
                replies[n] = reply
        elif any(isinstance(reply, RedisTimeoutError) for reply in replies):
            await self.refreshed(server)
        return replies

    async def once(self, commands: Sequence[Words]) -> list[Any]:
        pipeline = self.cluster.pipeline()
        for words in commands:
            pipeline.execute_command(*words)
        return await pipeline.execute(raise_on_error=False)

    async def refreshed(self, server: str) -> None:
        if self.refreshing is None:
            self.refreshing = asyncio.get_running_loop().create_task(self.refresh(server))
        await asyncio.shield(self.refreshing)

    async def refresh(self, server: str) -> None:
        """Who has which keys. Connections to servers that are left stay as they are."""
        try:
            for node in self.cluster.get_nodes():
                if node.name == server:
                    await node.disconnect_free_connections()
            await self.cluster.nodes_manager.initialize(last_failed_node_name=server or None)
        finally:
            self.refreshing = None

    async def close(self) -> None:
        if self.refreshing is not None:
            self.refreshing.cancel()
            await asyncio.gather(self.refreshing, return_exceptions=True)
        await self.cluster.aclose()


def connect(options: Redis) -> Client:
    """Connects with the first command. OSError when `ca`, `cert` or `key` cannot be read."""
    trust = Trust(options) if options.encrypted else None
    if options.cluster is not None:
        return ClusterClient(cluster_of(options, trust))
    if options.sentinel is not None:
        return SentinelClient(options, trust, sentinels_of(options, trust))
    return Client(options, trust)


def sentinels_of(options: Redis, trust: Trust | None) -> Sentinel:
    """The Sentinels, as redis-py asks them."""
    told = options.sentinel
    assert told is not None
    own = common(options) | {"username": told.username, "password": secret(told.password)}
    kind: type[Connection] = Connection
    if trust is not None:
        kind, own["trust"] = TlsConnection, trust
    manager = Sentinel([])  # type: ignore[no-untyped-call]
    for node in told.nodes:
        host, port = host_port(node)
        pool = ConnectionPool(connection_class=kind, host=host, port=port, **own)
        manager.sentinels.append(Single(connection_pool=pool))
    return manager


def cluster_of(options: Redis, trust: Trust | None) -> RedisCluster:
    assert options.cluster is not None
    nodes = [ClusterNode(*host_port(node)) for node in options.cluster.nodes]
    # slots without a server are no reason to do without the others
    cluster = RedisCluster(startup_nodes=nodes, require_full_coverage=False, **common(options))
    if trust is not None:
        cluster.connection_kwargs.update(trust=trust, connection_class=TlsConnection)
        for node in cluster.nodes_manager.startup_nodes.values():
            node.connection_class = TlsConnection
            node.connection_kwargs["trust"] = trust
    return cluster
