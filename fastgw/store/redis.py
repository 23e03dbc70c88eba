"""The store in a Redis server, by redis-py's asyncio client.

The policy that waits and the command that is under way have clocks of their own: the first stops waiting after the
`deadline` of a few milliseconds, the second goes on until `timeout`. So a connection can come about that takes longer
than a request may wait, and no connection is thrown away for an answer that comes a little late.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from redis.asyncio import Redis as Client
from redis.asyncio.connection import ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, MaxConnectionsError, RedisError, ResponseError

from fastgw.config.schema.stores import Redis
from fastgw.store.base import Store, StoreError, StoreState
from fastgw.store.breaker import Breaker

logger = logging.getLogger("fastgw.store")
T = TypeVar("T")

ADD = """
local sum = redis.call('INCRBY', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return sum
"""


def milliseconds(ttl: float) -> int:
    return max(1, int(ttl * 1000))


class TlsConnection(SSLConnection):
    """Trusts what `ca` has and nothing else; the library would add it to the authorities of the host."""

    def __init__(self, *, trust: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = trust


def client_of(options: Redis) -> Client:
    """Connects with the first command. One try anew when a kept connection turns out to be dead. OSError when `ca`
    cannot be read."""
    common: dict[str, Any] = {
        "username": options.username,
        "password": options.password.reveal() if options.password else None,
        "socket_timeout": options.timeout,
        "socket_connect_timeout": options.timeout,
        "max_connections": options.max_connections,
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        "health_check_interval": 0,
    }
    url = options.url
    if url.startswith("unix:"):
        common.pop("socket_connect_timeout")
    pool = ConnectionPool.from_url(url, **common)
    if url.startswith("rediss://"):
        pool.connection_class = TlsConnection
        pool.connection_kwargs["trust"] = ssl.create_default_context(cafile=options.ca)
    return Client(connection_pool=pool)


class RedisStore(Store):
    """At most `max_connections` commands are under way; one more fails at once."""

    name = "redis"

    def __init__(self, options: Redis, now: Callable[[], float] = time.monotonic) -> None:
        self.options = options
        self.breaker = Breaker(options.breaker, now)
        self.client: Client | None = None
        self.running: set[asyncio.Task[Any]] = set()
        self.calls = self.failures = 0

    def __repr__(self) -> str:
        return f"<RedisStore {self.options.url}>"

    def key(self, key: str) -> str:
        return f"{self.options.prefix}:{key}"

    async def run(self, command: Callable[[Client], Awaitable[T]]) -> T:
        """Any command, under the deadline and the breaker: `await store.run(lambda client: client.ping())`."""
        self.calls += 1
        if len(self.running) >= self.options.max_connections:
            self.failures += 1
            raise StoreError("busy", "all connections are")
        if not self.breaker.admits():
            self.failures += 1
            raise StoreError("paused", "it failed before")
        if self.client is None:
            try:
                self.client = client_of(self.options)
            except OSError as error:                 # an SSLError is one
                failure = StoreError("unreachable", f"its CA certificates cannot be read: {type(error).__name__}")
                self.bad(failure)
                raise failure from None
        task: asyncio.Task[T] = asyncio.get_running_loop().create_task(self.command(command(self.client)))
        self.running.add(task)
        task.add_done_callback(self.done)
        told = False
        try:
            # not asyncio.timeout: a hook takes its first step outside any Task
            done, _ = await asyncio.wait([task], timeout=self.options.deadline)
            told = True
            if not done:
                raise StoreError("deadline", f"no answer in {self.options.deadline * 1000:g} ms")
            result = task.result()
            self.breaker.good()
            return result
        except StoreError as error:
            if error.reason == "refused":            # an answer that says no is an answer
                self.failures += 1
                self.breaker.good()
            else:
                self.bad(error)
            raise
        finally:
            if not told:                             # who asked has gone, which says nothing of the store
                self.breaker.trying = False

    async def command(self, awaitable: Awaitable[T]) -> T:
        """Errors in our words: the library's could quote what was sent."""
        try:
            return await awaitable
        except MaxConnectionsError:
            raise StoreError("busy", "all connections are") from None
        except (ResponseError, DataError) as error:
            raise StoreError("refused", type(error).__name__) from None
        except (RedisError, OSError) as error:
            raise StoreError("unreachable", type(error).__name__) from None

    def done(self, task: asyncio.Task[Any]) -> None:
        self.running.discard(task)
        if not task.cancelled():
            task.exception()                         # read, so that a late failure is not reported as forgotten

    def bad(self, error: StoreError) -> None:
        self.failures += 1
        if self.breaker.bad():
            text = "the store %s fails (%s); it is left alone for %g s"
            logger.error(text, self.options.url, error, self.breaker.pause)

    async def get(self, key: str) -> bytes | None:
        return await self.run(lambda client: cast(Awaitable[bytes | None], client.get(self.key(key))))

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        await self.run(lambda client: client.set(self.key(key), value, px=milliseconds(ttl)))

    async def put_new(self, key: str, value: bytes, ttl: float) -> bool:
        return bool(await self.run(lambda client: client.set(self.key(key), value, px=milliseconds(ttl), nx=True)))

    async def delete(self, key: str) -> bool:
        return bool(await self.run(lambda client: client.delete(self.key(key))))

    async def add(self, key: str, amount: int, ttl: float) -> int:
        # one step, so that no counter is left without an end
        sent = (ADD, 1, self.key(key), str(amount), str(milliseconds(ttl)))
        return int(await self.run(lambda client: client.eval(*sent)))

    def state(self) -> StoreState:
        return StoreState(self.name, self.calls, self.failures, self.breaker.paused)

    async def close(self) -> None:
        for task in list(self.running):
            task.cancel()
        if self.client is not None:
            await self.client.aclose()
            await self.client.connection_pool.disconnect()
            self.client = None
