"""One connection to a Redis server: commands leave in one write, their answers come in their order.

redis-py's own connections spend more Python on a round trip than Redis and the network together (`python -m
benchmarks.redis_limits`); here hiredis, which redis-py's authors keep too, packs and reads, and nothing lies between.

    wire = await dial(place, timeout)
    replies = await wire.ask([("GET", "a"), ("INCR", "b")], timeout)      # an exception among them answers one command
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import hiredis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    DataError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

Words = tuple[Any, ...]
ERRORS: dict[str, type[Exception]] = {
    "NOSCRIPT": NoScriptError,
    "READONLY": ReadOnlyError,
    "LOADING": BusyLoadingError,
    "CLUSTERDOWN": ClusterDownError,
    "NOAUTH": AuthenticationError,
    "WRONGPASS": AuthenticationError,
}
"""By the first word of an error that Redis answers; all others are a ResponseError."""
NOTHING = object()


def error_of(text: str) -> Exception:
    if text.startswith("ERR max number of clients"):
        return RedisConnectionError(text)            # said to a connection, whatever it asked
    return ERRORS.get(text.partition(" ")[0], ResponseError)(text)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is, and who says so to it. `path` is a Unix socket, in the place of `host` and `port`."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    tls: ssl.SSLContext | None = None
    greeting: tuple[Words, ...] = field(default=(), repr=False)
    """Commands that a connection begins with: AUTH, SELECT."""


class Wire(asyncio.Protocol):
    """One question at a time."""

    def __init__(self) -> None:
        self.reader = hiredis.Reader(replyError=error_of, notEnoughData=NOTHING)
        self.transport: asyncio.Transport | None = None
        self.future: asyncio.Future[list[Any]] | None = None
        self.replies: list[Any] = []
        self.wanted = 0
        self.alive = False

    async def ask(self, commands: Sequence[Words], timeout: float) -> list[Any]:
        """RedisConnectionError, RedisTimeoutError (both end the connection), or DataError for words that are none."""
        try:
            packed = [hiredis.pack_command(words) for words in commands]
        except TypeError as error:
            raise DataError(str(error)) from None
        if self.transport is None or not self.alive:
            raise RedisConnectionError("closed")
        loop = asyncio.get_running_loop()
        self.future = future = loop.create_future()
        self.replies, self.wanted = [], len(packed)
        self.transport.write(packed[0] if len(packed) == 1 else b"".join(packed))
        clock = loop.call_later(timeout, self.fail, RedisTimeoutError("no answer"))
        try:
            replies: list[Any] = await future
            return replies
        finally:
            clock.cancel()
            if self.future is not None:              # cancelled: the answer would be taken for the next one's
                self.fail(RedisConnectionError("given up"))

    def fail(self, error: Exception) -> None:
        future, self.future = self.future, None
        if future is not None and not future.done():
            future.set_exception(error)
        self.close()

    def close(self) -> None:
        self.alive = False
        if self.transport is not None:
            self.transport.abort()

    # ------------------------------------------------------------------ what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.alive = True

    def data_received(self, data: bytes) -> None:
        reader, replies = self.reader, self.replies
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not NOTHING:
                replies.append(reply)
        except hiredis.ProtocolError:
            return self.fail(RedisConnectionError("what is no answer of Redis"))
        if self.future is None or len(replies) > self.wanted:
            return self.fail(RedisConnectionError("an answer that nobody asked for"))
        if len(replies) == self.wanted:
            future, self.future = self.future, None
            if not future.done():
                future.set_result(replies)
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self.fail(RedisConnectionError("closed by the server"))


async def dial(place: Place, timeout: float) -> Wire:
    """A connection that said its greeting. RedisConnectionError, RedisTimeoutError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            if place.path is not None:
                _, wire = await loop.create_unix_connection(Wire, place.path)
            else:
                _, wire = await loop.create_connection(Wire, place.host, place.port, ssl=place.tls)
    except TimeoutError:
        raise RedisTimeoutError("no connection in time") from None
    except OSError as error:                         # an SSLError is one
        raise RedisConnectionError(type(error).__name__) from None
    if place.greeting:
        for words, reply in zip(place.greeting, await wire.ask(place.greeting, timeout), strict=True):
            if isinstance(reply, Exception):
                wire.close()
                # never the text: it may quote
                raise (AuthenticationError if words[0] == "AUTH" else RedisConnectionError)(f"{words[0]} was refused")
    return wire
