"""Purges of the cache: of this host, and of all hosts that share a Redis.

With `cache.purges: redis` a purge of the admin API is also written to a stream there (`PREFIX:cache:purges`), as are
those of workers (`fastgw/store/purges.py`), and each host reads it twice a second. How far a host has read stands in
the memory of its cache, beside what it purges. So a host that was away, or whose Redis was, makes up for it; and where
it cannot know what it missed (the stream was cut or lost meanwhile) it purges everything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from fastgw._core.cache_access import Access
from fastgw.config import Config
from fastgw.store.purges import BEGINNING, SOME, Purge, added, host_name, id_of, key_of, read_purge, stream_of

__all__ = ["Purge", "PurgeShare", "key_of"]

logger = logging.getLogger("fastgw.cache")

INTERVAL = 0.5
PATIENCE = 5.0


class PurgeShare:
    """`current` gives the configuration in force. `run` reads until it is cancelled."""

    def __init__(self, access: Access, current: Callable[[], Config]) -> None:
        self.access = access
        self.current = current
        self.name = host_name(access)
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
                self.client, self.key = connect(patient), stream_of(options.prefix)
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
        read_purge(fields).do(self.access, foreign=True)

    async def tell(self, wish: Purge) -> bool | None:
        """Whether the other hosts will read of it; None: they share nothing."""
        if not await self.follow():
            return None
        try:
            await self.ask(added(self.key, self.name, wish))
        except Exception as failure:
            logger.error("other hosts were not told of a purge: %s", type(failure).__name__)
            return False
        return True

