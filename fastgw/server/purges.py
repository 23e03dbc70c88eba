"""Purges of the cache: of this host, and of all hosts that share a Redis.

With `cache.purges: redis` a purge of the admin API is also written to a stream there (`PREFIX:cache:purges`), which
each host reads twice a second. How far a host has read stands in the memory of its cache, beside what it purges. So a
host that was away, or whose Redis was, makes up for it; and where it cannot know what it missed (the stream was cut or
lost meanwhile) it purges everything.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fastgw._core.cache_access import Access
from fastgw.config import Config

logger = logging.getLogger("fastgw.cache")

INTERVAL = 0.5
KEPT = 10_000
"""Purges in the stream, at least."""
SOME = 500
PATIENCE = 5.0
BEGINNING = (0, 1)
"""Before every entry of a stream."""


class Purge(BaseModel):
    """What the admin API takes, and the stream carries."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: str | None = Field(None, min_length=1, max_length=16_384)
    prefix: str | None = Field(None, min_length=1, max_length=16_384)
    tag: str | None = Field(None, min_length=1, max_length=4096)
    all: bool = False
    soft: bool = False

    @model_validator(mode="after")
    def _one(self) -> Purge:
        if sum((self.url is not None, self.prefix is not None, self.tag is not None, self.all)) != 1:
            raise ValueError("one of url, prefix, tag and all")
        for text in (self.url, self.prefix):
            if text is not None:
                key_of(text)
        if self.tag is not None:
            self.tag.encode("latin-1")
        return self

    def do(self, access: Access) -> int:
        """How many answers. Raises CacheBusy."""
        if self.url is not None:
            return access.purge_name(key_of(self.url), self.soft)
        if self.prefix is not None:
            return access.purge_prefix(key_of(self.prefix), self.soft)
        if self.tag is not None:
            return access.purge_tag(self.tag.encode("latin-1"), self.soft)
        return access.purge_all(self.soft)


def key_of(url: str) -> bytes:
    """`https://Host/path?query`, or the same without a scheme, as the names of answers begin: `host/path?query`.
    ValueError for what is none."""
    if "://" in url:
        parts = urlsplit(url)
        host, rest = parts.netloc, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    else:
        host, slash, rest = url.partition("/")
        rest = slash + rest
    return host.lower().encode("latin-1") + rest.encode()


def id_of(entry: Any) -> tuple[int, int]:
    number, _, part = bytes(entry[0]).partition(b"-")
    return int(number), int(part)


class PurgeShare:
    """`current` gives the configuration in force. `run` reads until it is cancelled."""

    def __init__(self, access: Access, current: Callable[[], Config]) -> None:
        self.access = access
        self.current = current
        self.name = secrets.token_hex(8)
        self.client: Any = None
        self.opened: Any = None
        self.key = ""
        self.failing = False

    async def follow(self) -> bool:
        """True where purges are shared."""
        config = self.current()
        options = config.stores.redis if config.cache.purges == "redis" else None
        if options != self.opened:
            await self.close()
            if options is not None:
                from fastgw.store.clients import connect

                patient = options.model_copy(update={"timeout": PATIENCE, "max_connections": 2})
                self.client, self.key = connect(patient), f"{options.prefix}:cache:purges"
            self.opened = options
        return self.client is not None

    async def close(self) -> None:
        client, self.client, self.opened = self.client, None, None
        if client is not None:
            await client.close()

    async def run(self) -> None:
        while True:
            try:
                if await self.follow():
                    await self.look()
                    if self.failing:
                        logger.info("purges of other hosts can be read again")
                    self.failing = False
            except Exception as failure:             # Redis, or the network to it: the next look tries again
                if not self.failing:
                    logger.error("purges of other hosts cannot be read: %s", type(failure).__name__)
                self.failing = True
            await asyncio.sleep(INTERVAL)

    async def ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        replies: list[Any] = await self.client.send(commands, self.client.server_of(self.key))
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def look(self) -> None:
        """Does what others wanted since the last look. Raises what Redis and CacheBusy raise."""
        seen = self.access.mark
        if seen == (0, 0):                           # a new memory: what was purged before is not in it
            (newest,) = await self.ask(("XREVRANGE", self.key, "+", "-", "COUNT", 1))
            self.access.mark = id_of(newest[0]) if newest else BEGINNING
            return
        while True:
            found, first = await self.ask(
                ("XRANGE", self.key, f"({seen[0]}-{seen[1]}", "+", "COUNT", SOME),
                ("XRANGE", self.key, "-", "+", "COUNT", 1),
            )
            if seen != BEGINNING and (not first or id_of(first[0]) > seen):
                logger.warning("purges of other hosts were lost: everything is purged")
                self.access.purge_all()
                if not first:
                    self.access.mark = BEGINNING
                    return
            for entry in found:
                self.take(entry[1])
                seen = self.access.mark = id_of(entry)
            if len(found) < SOME:
                return

    def take(self, fields: Any) -> None:
        if fields.get(b"from") == self.name.encode():
            return
        try:
            Purge.model_validate(orjson.loads(fields[b"purge"])).do(self.access)
        except (KeyError, ValueError, ValidationError):
            # of a version that can more: what it cannot say, it may have meant
            logger.warning("a purge of another host is not understood: everything is purged")
            self.access.purge_all()

    async def tell(self, wish: Purge) -> bool | None:
        """Whether the other hosts will read of it; None: they share nothing."""
        if not await self.follow():
            return None
        text = orjson.dumps(wish.model_dump(exclude_none=True))
        try:
            await self.ask(("XADD", self.key, "MAXLEN", "~", KEPT, "*", "from", self.name, "purge", text))
        except Exception as failure:
            logger.error("other hosts were not told of a purge: %s", type(failure).__name__)
            return False
        return True

