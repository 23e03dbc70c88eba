"""The store with Sentinels, and in a Cluster: real ones, whose servers are killed and stopped."""

import asyncio
import re
from pathlib import Path

import pytest

from fastgw.config.schema.stores import Redis
from fastgw.store import StoreError
from fastgw.store.leases import Leases
from fastgw.store.limits import Rule, SharedLimits
from fastgw.store.quotas import Calendar, Meter
from fastgw.store.redis import RedisStore
from fastgw.testing import free_port
from fastgw.testing.certificates import Authority
from tests.store.redis_server import ClusterOf3, RedisServer, SentinelSet, needed
from tests.store.test_limits import decided, leased
from tests.store.test_store import PATIENT, contract, run, until

PAGE = Path(__file__).parents[2] / "docs" / "stores.md"
RIGHTS = re.search(r"`~fastgw:\* ([^`]*)`", PAGE.read_text()).group(1)


@needed
def test_sentinels_name_the_server_and_after_its_death_another(tmp_path):
    async def ask(nodes):
        where = {"nodes": nodes.nodes, "master": "main"}
        breaker = {"failures": 2, "pause": "20ms", "max_pause": "50ms"}
        store = RedisStore(Redis(sentinel=where, **PATIENT, breaker=breaker))
        await contract_of_the_start(store)
        assert nodes.master.command("EXISTS", "fastgw:a") == b":1\r\n"
        await asyncio.to_thread(nodes.master.kill)
        await until(lambda: store.put("b", b"2", ttl=600), seconds=60)
        assert nodes.replica.command("GET", "fastgw:b") == b"$1\r\n2\r\n"
        await store.close()

    with SentinelSet(tmp_path) as nodes:
        run(ask(nodes))


async def contract_of_the_start(store):
    await store.put("a", b"1", ttl=600)
    assert await store.get("a") == b"1"
    assert await store.add("n", 3, ttl=600) == 3


@needed
def test_a_cluster_of_three(tmp_path):
    """Keys of all servers; then one is stopped: its keys fail by the deadline, those of the others do not."""

    async def ask(nodes):
        store = RedisStore(Redis(cluster={"nodes": nodes.nodes[:1]}, prefix="contract", **PATIENT))
        await contract(store)
        assert nodes.servers[0].command("KEYS", "*").count(b"contract") < 2, "keys are on all of them"
        breaker = {"failures": 1, "pause": "50ms", "max_pause": "100ms"}
        store = RedisStore(Redis(cluster={"nodes": nodes.nodes}, deadline=0.3, timeout=1, breaker=breaker))
        names = [f"k{n}" for n in range(60)]
        await until(lambda: store.put("first", b"1", ttl=600))
        for name in names:
            await until(lambda name=name: store.put(name, b"1", ttl=600))
        assert len([lane for lane in store.lanes if lane]) == 3, "a lane for each server"
        trips = store.state().round_trips
        await asyncio.gather(*(store.get(name) for name in names))
        assert store.state().round_trips - trips == 3, "one for each server"
        frozen = nodes.servers[1]
        theirs = [name for name in names if store.client.server_of(f"fastgw:{name}").endswith(f":{frozen.port}")]
        assert 0 < len(theirs) < len(names)
        frozen.pause()
        try:
            results = dict(zip(names, await asyncio.gather(*(store.get(n) for n in names), return_exceptions=True),
                               strict=True))  # fmt: skip
            wrong = [name for name in names if isinstance(results[name], StoreError)]
            assert set(theirs) <= set(wrong)
            for name in names:
                if name not in theirs:
                    assert await until(lambda name=name: store.get(name)) == b"1"
            assert store.state().paused
        finally:
            frozen.go_on()
        assert await until(lambda: store.get(theirs[0])) == b"1"
        frozen.kill()
        await asyncio.to_thread(frozen.start)        # as an empty one with its slots
        assert await until(lambda: store.get(theirs[0])) is None
        await until(lambda: store.put(theirs[0], b"2", ttl=600))
        await store.close()

    with ClusterOf3(tmp_path) as nodes:
        run(ask(nodes))


@needed
def test_a_cluster_by_tls_with_a_user_that_may_little(tmp_path):
    pki, stranger = Authority(tmp_path), Authority(tmp_path / "other")
    pair = pki.leaf("127.0.0.1")
    port = free_port()
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--tls-port", str(port),
               "--tls-cert-file", pair.cert, "--tls-key-file", pair.key, "--tls-auth-clients", "no",
               "--tls-ca-cert-file", pki.cert, "--tls-cluster", "yes",
               "--user", "gateway", "on", ">planted-secret", "~fastgw:*", *RIGHTS.split())  # fmt: skip

    async def ask(server):
        where = {"cluster": {"nodes": [f"127.0.0.1:{port}"]}, "tls": True, "username": "gateway"}
        store = RedisStore(Redis(**where, password="planted-secret", ca=pki.cert, **PATIENT))
        await contract_of_the_start(await formed(store))
        await limits_and_quotas(store)
        await store.close()
        for password, ca in (("planted-secret", stranger.cert), ("wrong", pki.cert)):
            store = RedisStore(Redis(**where, password=password, ca=ca, **PATIENT))
            with pytest.raises(StoreError) as caught:
                await store.get("a")
            assert caught.value.reason == "unreachable" and "planted" not in str(caught.value)
            await store.close()

    async def limits_and_quotas(store):
        """All that their scripts and lists call is among the rights."""
        limits = SharedLimits(store, lambda *_: None)
        for kind in ("bucket", "fixed", "sliding", "log"):
            rule = Rule(kind, 2, 1000.0)
            assert [(await decided(limits, ["k"], (rule,))).admitted for _ in range(3)] == [True, True, False]
        leases = Leases(store, (Rule("bucket", 5, 1000.0), Rule("fixed", 5, 1000.0)), 2, 60.0, lambda *_: None)
        assert sum([(await leased(leases, ["k", "k"])).admitted for _ in range(8)]) == 5
        leases.close()
        meter = Meter(store, "calls", Calendar("month", "UTC"), keep=86400)
        taken = await store.answer(lambda told: meter.take("acme", 5, 1, told))
        period = taken.period
        assert await meter.grant("acme", 2, period) == 2 and await meter.of("acme", period.name) == (1, 2)
        assert [row async for row in meter.usage(period.name)] == [("acme", 1, 2)]
        assert await meter.reset("acme", period.name)
        assert await store.claim("c", b"1", 60.0) is None and await store.swap("c", b"1", None)

    async def formed(store):
        await until(lambda: store.put("first", b"1", ttl=60))
        return store

    with RedisServer(tmp_path / "server", *options) as server:
        assert server.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383) == b"+OK\r\n"
        run(ask(server))
