"""Purges of the cache reach all hosts that share a Redis, also one that was away."""

import asyncio
import http.client
import json
import time

import pytest

from fastgw._core.cache_access import Access
from fastgw._core.cache_store import Storage
from fastgw.config import Config
from fastgw.config.schema.cache import Cache
from fastgw.config.schema.stores import Redis, Stores
from fastgw.server.purges import Purge, PurgeShare
from fastgw.testing import FakeUpstream, GatewayProcess
from tests.store.redis_server import RedisServer, needed

STREAM = "fastgw:cache:purges"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


class Host:
    def __init__(self, server):
        config = Config(cache=Cache(purges="redis"), stores=Stores(redis=Redis(url=server.url)))
        self.access = Access(Storage.private(4 * 1024 * 1024))
        self.share = PurgeShare(self.access, lambda: config)
        for name in (b"a.example/x", b"a.example/x\0br", b"a.example/y"):
            self.access.put(name, b"body", tags=[name[-1:]])

    async def look(self):
        assert await self.share.follow()
        await self.share.look()

    @property
    def left(self):
        return sorted({name for name, *_ in self.access.entries()})


def hosts(server, steps):
    """`steps(first, second)`, after both have begun to read."""

    async def run():
        server.command("DEL", STREAM)
        both = Host(server), Host(server)
        for host in both:
            await host.look()
        try:
            await steps(*both)
        finally:
            for host in both:
                await host.share.close()

    asyncio.run(run())


@needed
def test_each_kind_is_done_by_the_others_once_and_not_by_who_told(server):
    async def steps(first, second):
        assert await first.share.tell(Purge(url="https://a.example/x")) is True
        await second.look()
        assert (first.access.stats()["purges"], second.left) == (0, [b"a.example/y"])
        await first.look()
        assert first.access.stats()["purges"] == 0
        await second.look()
        assert second.access.stats()["purges"] == 1
        assert await first.share.tell(Purge(tag="y", soft=True))
        await second.look()
        assert second.access.get(b"a.example/y").times[1] == 0
        assert await first.share.tell(Purge(prefix="a.example/"))
        await second.look()
        assert second.left == []

    hosts(server, steps)


@needed
def test_one_that_was_away_makes_up_for_it_and_purges_all_when_it_cannot_know(server):
    async def steps(first, second):
        await first.share.tell(Purge(url="a.example/never"))
        await second.look()
        await second.share.close()
        await first.share.tell(Purge(url="a.example/y"))
        # its agent begins anew, with the memory as it was
        second.share = PurgeShare(second.access, second.share.current)
        await second.look()
        assert second.left == [b"a.example/x", b"a.example/x\0br"]
        for number in range(3):
            await first.share.tell(Purge(url=f"a.example/{number}"))
        server.command("XTRIM", STREAM, "MAXLEN", 1)         # more were told than are kept
        await second.look()
        assert second.left == []
        second.access.put(b"a.example/z", b"")
        await second.look()
        assert second.left == [b"a.example/z"]
        server.command("DEL", STREAM)                        # Redis lost it
        await second.look()
        assert second.left == []

    hosts(server, steps)


@needed
def test_what_is_not_understood_purges_everything(server):
    async def steps(first, second):
        server.command("XADD", STREAM, "*", "from", "other", "purge", json.dumps({"regex": "x"}))
        await second.look()
        assert second.left == []

    hosts(server, steps)


@needed
def test_who_cannot_tell_says_so(tmp_path):
    with RedisServer(tmp_path / "gone") as gone:
        host = Host(gone)

    async def steps():
        assert await host.share.tell(Purge(all=True)) is False
        with pytest.raises(Exception, match="onnect"):
            await host.look()
        await host.share.close()

    asyncio.run(steps())


@needed
def test_two_gateways(server):
    with FakeUpstream() as upstream:
        config = {
            "server": {"workers": 1},
            "stores": {"redis": {"url": server.url}},
            "cache": {"memory": "8MiB", "purges": "redis"},
            "services": {"up": upstream.url},
            "routes": [{"path": "/*", "service": "up"}],
        }
        server.command("DEL", STREAM)
        with GatewayProcess(config) as first, GatewayProcess(config) as second:
            deadline = time.monotonic() + 60
            while json.loads(second.admin("/cache")[1])["purges"] == 0:
                assert time.monotonic() < deadline
                connection = http.client.HTTPConnection("127.0.0.1", first.admin_port, timeout=30)
                connection.request("POST", "/cache/purge", json.dumps({"url": "a.example/x"}))
                assert connection.getresponse().status == 200
                connection.close()
