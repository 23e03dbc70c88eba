"""Secrets that stand in files of their own, or are kept by Vault or Kubernetes: when one changes, the configuration is
taken anew, with what they hold now.

Only what the secrets say may change that way. Where the configuration file itself was edited since it was taken,
nothing happens until somebody reloads it: nobody's half-written file comes into force because a password was renewed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastgw.config import Config
from fastgw.config.fields import FileStamp, file_stamp
from fastgw.server.secret_sources import SOURCES, SecretSources

logger = logging.getLogger("fastgw.server")

LOOK_SECONDS = 1.0

Outcome = tuple[bool, dict[str, Any]]
Stamps = tuple[FileStamp, ...]


class SecretWatch:
    """`SecretWatch(config, reload)`: `config()` is the one in force, `reload()` takes the file anew.

    `sources` asks for what is kept elsewhere, in the loop of the caller.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        reload: Callable[[], Awaitable[Outcome]],
        sources: SecretSources = SOURCES,
    ) -> None:
        self.config = config
        self.reload = reload
        self.seen: Stamps = ()
        self.tried: Stamps | None = None
        self.tried_elsewhere: tuple[bytes | None, ...] | None = None
        self.sources = sources
        self.told = False

    def look(self) -> bool:
        """Is it time? What changed must have been still from one look to the next, and is tried once."""
        config = self.config()
        if not config.secret_files:
            return False
        now = tuple(file_stamp(path) for path, _ in config.secret_files)
        still, self.seen = now == self.seen, now
        if not still or now == tuple(stamp for _, stamp in config.secret_files) or now == self.tried:
            return False
        if self.edited(config):
            return False
        self.tried, self.told = now, False
        return True

    def edited(self, config: Config) -> bool:
        """Then nothing happens by itself."""
        if config.stamp is not None and file_stamp(config.file) == config.stamp:
            return False
        if not self.told:
            logger.warning("a secret has changed, and so has %s: both wait for a reload", config.file)
        self.told = True
        return True

    async def look_elsewhere(self) -> bool:
        """Is it time, because of what others keep? What changed is tried once."""
        config = self.config()
        if not config.secret_refs or not await self.sources.look(config.secrets, config.secret_refs):
            return False
        now = self.sources.stamps(config.secret_refs)
        if now == self.tried_elsewhere or config is not self.config() or self.edited(config):
            return False
        self.tried_elsewhere, self.told = now, False
        return True

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                # not in a thread: the process that compiles is forked from this one, and must find no lock held
                if await self.look_elsewhere() or await loop.run_in_executor(None, self.look):
                    logger.info("a secret has changed")
                    done, facts = await self.reload()
                    if not done:
                        told = "; ".join(problem["message"] for problem in facts["problems"])
                        logger.error("it stays out, what was in force stays: %s", told)
            except Exception:                        # the next look tries again
                logger.exception("the secrets could not be looked at")
