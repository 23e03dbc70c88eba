"""Watchers on a loop of their own, in the test's thread."""

import asyncio
import time

import pytest

from fastgw.config.schema.discovery import Discovery
from fastgw.upstreams.discovery import Watcher


class Watched:
    """A running watcher and every set it published."""

    def __init__(self, options, service="users", fallback=(), before=None):
        self.sets = []
        self.watcher = Watcher(service, Discovery.model_validate(options), fallback, self.sets.append, before)

    @property
    def urls(self):
        return [str(one.origin) for one in self.sets[-1].endpoints] if self.sets else None

    async def until(self, condition, what="", seconds=60):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not in {seconds} s: {what}; {self.watcher.state}, {self.urls}"
            await asyncio.sleep(0.01)

    async def shows(self, *urls):
        await self.until(lambda: self.urls == sorted(urls), f"endpoints {urls}")

    async def __aenter__(self):
        self.task = asyncio.get_running_loop().create_task(self.watcher.live())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.wait([self.task])


@pytest.fixture
def watch():
    return Watched
