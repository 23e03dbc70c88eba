"""Both stores do the same; Redis is a real one, which is killed, stopped and asked with a wrong password."""

import asyncio
import gc
import ssl
import time
import weakref

import pytest

from fastgw.config.schema.stores import Redis, StoreBreaker, Stores
from fastgw.store import MemoryStore, StoreError, open_store
from fastgw.store.breaker import Breaker
from fastgw.store.redis import RedisStore
from fastgw.testing import free_port
from fastgw.testing.certificates import Authority
from tests.store.redis_server import RedisServer, needed

PATIENT = {"deadline": 5.0, "timeout": 5.0}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


def run(coroutine):
    return asyncio.run(coroutine)


async def until(ask, seconds=60):
    """Asks until it is done without a StoreError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await ask()
        except StoreError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def contract(store):
    assert await store.get("a") is None
    await store.put("a", b"\x00\xff", ttl=60)
    assert await store.get("a") == b"\x00\xff"
    assert await store.put_new("a", b"other", ttl=60) is False and await store.get("a") == b"\x00\xff"
    assert await store.put_new("b", b"1", ttl=60) is True
    assert await store.claim("c", b"\x00mine", ttl=60) is None
    assert await store.claim("c", b"others", ttl=60) == b"\x00mine"
    assert await store.swap("c", b"others", b"x", ttl=60) is False and await store.get("c") == b"\x00mine"
    assert await store.swap("c", b"\x00mine", b"done\xff", ttl=60) is True and await store.get("c") == b"done\xff"
    assert await store.swap("c", b"done\xff", None) is True and await store.get("c") is None
    assert await store.swap("c", b"", None) is False
    assert await store.delete("b") is True and await store.delete("b") is False
    assert [await store.add("n", 2, ttl=60), await store.add("n", -5, ttl=60)] == [2, -3]
    with pytest.raises(StoreError) as caught:
        await store.add("a", 1, ttl=60)
    assert caught.value.reason == "refused" and "\x00" not in str(caught.value)
    await store.put("short", b"x", ttl=0.02)
    deadline = time.monotonic() + 60
    while await store.get("short") is not None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert await store.put_new("short", b"y", ttl=60) is True
    state = store.state()
    assert state.calls > 10 and state.paused is False
    await store.close()


def test_memory():
    run(contract(MemoryStore()))


@needed
def test_redis(server):
    run(contract(RedisStore(Redis(url=server.url, prefix="contract", **PATIENT))))
    assert server.command("EXISTS", "contract:a") == b":1\r\n"
    assert int(server.command("PTTL", "contract:n")[1:]) > 0, "a counter ends"


def test_memory_is_bounded_and_forgets_nothing_early():
    now = [0.0]

    async def fill():
        store = MemoryStore(max_keys=3, max_bytes=1000, now=lambda: now[0])
        for name in "abc":
            await store.put(name, b"1", ttl=10)
        with pytest.raises(StoreError) as caught:
            await store.put_new("d", b"1", ttl=10)
        assert caught.value.reason == "full"
        assert await store.get("a") == b"1"
        now[0] = 11
        await store.put("d", b"1" * 500, ttl=10)     # those that expired make room
        with pytest.raises(StoreError):
            await store.put("e", b"1" * 500, ttl=10)
        await store.put("d", b"2", ttl=10)
        await store.put("e", b"1" * 500, ttl=10)
        assert await store.get("d") == b"2"

    run(fill())


def test_the_breaker():
    now = [0.0]
    breaker = Breaker(StoreBreaker(failures=3, pause=1, max_pause=3), lambda: now[0])
    assert [breaker.admits() and breaker.bad() for _ in range(3)] == [False, False, True]
    assert not breaker.admits()
    now[0] = 1.0
    assert breaker.admits() and not breaker.admits(), "one call tries"
    breaker.bad()
    now[0] = 2.9
    assert not breaker.admits(), "the pause has doubled"
    now[0] = 3.0
    assert breaker.admits()
    breaker.bad()
    now[0] = 5.9
    assert not breaker.admits()
    now[0] = 6.0                                     # at most max_pause
    assert breaker.admits()
    breaker.good()
    assert breaker.admits() and breaker.admits()


@needed
def test_a_redis_that_stands_still_costs_the_deadline_and_then_nothing(tmp_path):
    async def ask(server):
        store = RedisStore(Redis(url=server.url, deadline=0.05, timeout=0.5, breaker={"failures": 3, "pause": "50ms"}))
        await until(lambda: store.put("a", b"1", ttl=600))
        server.pause()
        try:
            reasons = []
            for _ in range(4):
                with pytest.raises(StoreError) as caught:
                    await store.get("a")
                reasons.append(caught.value.reason)
            assert reasons[:3] == ["deadline"] * 3
            assert reasons[3] in ("paused", "deadline"), "deadline: the pause was over, and one call tried"
            assert store.state().paused
        finally:
            server.go_on()
        assert await until(lambda: store.get("a")) == b"1"
        assert not store.state().paused
        await store.close()

    with RedisServer(tmp_path) as server:
        run(ask(server))


@needed
def test_a_redis_that_dies_and_comes_back(tmp_path):
    async def ask(server):
        store = RedisStore(Redis(url=server.url, **PATIENT, breaker={"failures": 2, "pause": "20ms"}))
        await store.put("a", b"1", ttl=60)
        server.kill()
        for _ in range(2):
            with pytest.raises(StoreError) as caught:
                await store.get("a")
            assert caught.value.reason == "unreachable", caught.value
        await asyncio.to_thread(server.start)
        assert await until(lambda: store.get("a")) is None
        await store.close()

    with RedisServer(tmp_path) as server:
        run(ask(server))


@needed
def test_a_restart_between_two_calls_is_not_seen(tmp_path):
    async def ask(server):
        store = RedisStore(Redis(url=server.url, **PATIENT))
        await store.put("a", b"1", ttl=60)
        server.kill()
        await asyncio.to_thread(server.start)
        assert await store.get("a") is None
        await store.close()

    with RedisServer(tmp_path) as server:
        run(ask(server))


@needed
def test_acl_users_and_what_errors_say(tmp_path):
    secret = "planted-redis-password"
    rule = ("--user", "gateway", "on", f">{secret}", "~fastgw:*", "+@all", "--requirepass", "another")

    async def ask(server):
        good = RedisStore(Redis(url=server.url, username="gateway", password=secret, **PATIENT))
        await good.put("a", b"1", ttl=60)
        with pytest.raises(StoreError) as caught:
            await good.execute("elsewhere:a", "GET", "elsewhere:a")
        assert caught.value.reason == "refused"
        assert secret not in f"{caught.value!r} {good!r} {good.options!r} {good.options.model_dump_json()}"
        await good.close()
        wrong = RedisStore(Redis(url=server.url, username="gateway", password=secret + "x", **PATIENT))
        with pytest.raises(StoreError) as caught:
            await wrong.get("a")
        assert secret not in f"{caught.value!r}{caught.value.__cause__!r}"
        await wrong.close()

    with RedisServer(tmp_path, *rule) as server:
        run(ask(server))


@needed
def test_tls(tmp_path):
    pki, stranger = Authority(tmp_path), Authority(tmp_path / "other")
    pair = pki.leaf("localhost")
    port = free_port()
    options = ("--tls-port", str(port), "--tls-cert-file", pair.cert, "--tls-key-file", pair.key,
               "--tls-auth-clients", "no", "--tls-ca-cert-file", pki.cert)  # fmt: skip

    async def ask():
        store = RedisStore(Redis(url=f"rediss://localhost:{port}", ca=pki.cert, **PATIENT))
        await store.put("a", b"1", ttl=60)
        assert await store.get("a") == b"1"
        trust = store.client.trust.get()
        assert len(trust.get_ca_certs()) == 1 and trust.check_hostname and trust.verify_mode == ssl.CERT_REQUIRED
        await store.close()
        missing = RedisStore(Redis(url=f"rediss://localhost:{port}", ca=str(tmp_path / "missing"), **PATIENT))
        with pytest.raises(StoreError) as caught:
            await missing.get("a")
        assert caught.value.reason == "unreachable"
        for url, ca in ((f"rediss://localhost:{port}", stranger.cert), (f"rediss://127.0.0.1:{port}", pki.cert)):
            store = RedisStore(Redis(url=url, ca=ca, **PATIENT))
            with pytest.raises(StoreError) as caught:
                await store.get("a")
            assert caught.value.reason == "unreachable", "a certificate of another authority, or of another name"
            await store.close()

    with RedisServer(tmp_path, *options):
        run(ask())


@needed
def test_tls_with_a_certificate_of_ours(tmp_path):
    """Redis admits who shows a certificate that it knows: one whose key has a passphrase, and one that was renewed."""
    pki, stranger = Authority(tmp_path), Authority(tmp_path / "other")
    pair, own = pki.leaf("localhost"), pki.client("gateway")
    locked = pki.leaf("locked", client=True, passphrase="planted-secret")
    port = free_port()
    options = ("--tls-port", str(port), "--tls-cert-file", pair.cert, "--tls-key-file", pair.key,
               "--tls-auth-clients", "yes", "--tls-ca-cert-file", pki.cert)  # fmt: skip
    where = {"url": f"rediss://localhost:{port}", "ca": pki.cert, **PATIENT}

    async def refused(**given):
        store = RedisStore(Redis(**where, **given))
        with pytest.raises(StoreError) as caught:
            await store.get("a")
        assert caught.value.reason == "unreachable"
        assert "planted-secret" not in f"{caught.value!r}{caught.value.__cause__!r}"
        await store.close()

    async def ask():
        for given in ({"cert": own.cert, "key": own.key},
                      {"cert": locked.cert, "key": locked.key, "passphrase": "planted-secret"}):  # fmt: skip
            store = RedisStore(Redis(**where, **given))
            await store.put("a", b"1", ttl=60)
            assert await store.get("a") == b"1"
            await store.close()
        theirs = stranger.client("gateway")
        await refused()
        await refused(cert=theirs.cert, key=theirs.key)
        await refused(cert=locked.cert, key=locked.key)
        await refused(cert=locked.cert, key=locked.key, passphrase="planted-secret-but-wrong")
        await refused(cert=str(tmp_path / "missing"), key=own.key)
        store = RedisStore(Redis(**where, cert=theirs.cert, key=theirs.key, breaker={"failures": 1000}))
        with pytest.raises(StoreError):
            await store.get("a")
        theirs.replace(pki.client("gateway", file="renewed"))
        assert await store.get("a") == b"1", "files that were renewed are read"
        await store.close()

    with RedisServer(tmp_path, *options):
        run(ask())


def reads(server):
    return int(server.info("stats")["total_reads_processed"])


@needed
def test_commands_of_one_turn_share_a_round_trip_over_few_connections(server):
    async def ask():
        store = RedisStore(Redis(url=server.url, prefix="share", **PATIENT, max_connections=2))
        await store.put("first", b"1", ttl=60)       # connected, and known to the server
        await store.add("n", 0, ttl=60)
        before, trips = await asyncio.to_thread(reads, server), store.state().round_trips
        sums = await asyncio.gather(*(store.add("n", 1, ttl=60) for _ in range(200)))
        after = await asyncio.to_thread(reads, server)
        assert sorted(sums) == list(range(1, 201))
        assert store.state().round_trips - trips == 1
        # 16 KiB are more than one read; 200 round trips would be 200 of them. The last INFO is one too.
        assert after - before < 20, "reads by the server"

        async def many(name):
            for n in range(20):
                await store.put(f"{name}-{n}", b"1", ttl=60)

        trips = store.state().round_trips
        await asyncio.gather(*(many(n) for n in range(50)))
        assert store.state().round_trips - trips < 500, "1000 commands, which wait for each other"
        clients = await asyncio.to_thread(server.info, "clients")
        assert int(clients["connected_clients"]) <= 3, "two, and the one that asks"
        await store.close()

    run(ask())


@needed
def test_no_more_calls_wait_than_may(server):
    async def ask():
        store = RedisStore(Redis(url=server.url, **PATIENT, max_waiting=3))
        results = await asyncio.gather(*(store.get(f"k{n}") for n in range(5)), return_exceptions=True)
        assert [isinstance(one, StoreError) and one.reason for one in results].count("busy") == 2
        assert await store.get("k") is None
        await store.close()

    run(ask())


@needed
def test_a_script_that_the_server_forgot_is_sent_again(server):
    async def ask():
        store = RedisStore(Redis(url=server.url, prefix="scripts", **PATIENT))
        assert await store.add("n", 1, ttl=60) == 1
        await asyncio.to_thread(server.command, "SCRIPT", "FLUSH")
        assert sorted(await asyncio.gather(*(store.add("n", 1, ttl=60) for _ in range(5)))) == [2, 3, 4, 5, 6]
        await store.close()

    run(ask())


@needed
def test_who_gave_up_before_it_was_sent_sends_nothing(tmp_path):
    """One connection that hangs: what waits behind it is told by its deadline, and is not sent later."""

    async def ask(server):
        store = RedisStore(Redis(url=server.url, prefix="late", deadline=0.05, timeout=20, max_connections=1,
                                 breaker={"failures": 1000}))  # fmt: skip
        await until(lambda: store.put("a", b"1", ttl=600))
        server.pause()
        for n in range(3):
            with pytest.raises(StoreError) as caught:
                await store.add(f"n{n}", 1, ttl=600)
            assert caught.value.reason == "deadline"
        server.go_on()
        await until(lambda: store.get("a"))
        return [await until(lambda n=n: store.execute("", "GET", f"late:n{n}")) for n in range(3)]

    with RedisServer(tmp_path) as server:
        assert run(ask(server)) == [b"1", None, None]


@pytest.mark.parametrize(
    "options",
    [
        {"url": "redis://user:pw@host"},
        {"url": "http://host"},
        {"url": "redis://host/name"},
        {"url": "redis://"},
        {"url": "redis://host?password=x"},
        {"url": "unix:relative"},
        {"url": "redis://h", "username": "u"},
        {"url": "redis://h", "ca": "ca.crt"},
        {"url": "redis://h", "cert": "c.crt", "key": "c.key"},
        {"url": "rediss://h", "cert": "c.crt"},
        {"url": "rediss://h", "key": "c.key"},
        {"url": "rediss://h", "passphrase": "pw"},
        {},
        {"url": "redis://h", "cluster": {"nodes": ["h:1"]}},
        {"url": "redis://h", "tls": True},
        {"cluster": {"nodes": []}},
        {"cluster": {"nodes": ["user:pw@h:1"]}},
        {"cluster": {"nodes": ["h"]}},
        {"sentinel": {"nodes": ["h:1"]}},
        {"sentinel": {"nodes": ["h:1"], "master": "m", "username": "u"}},
    ],
)
def test_options_that_are_refused(options):
    with pytest.raises(ValueError) as caught:
        Redis.model_validate(options)
    assert "pw" not in str(caught.value)


def test_a_store_that_is_not_configured():
    with pytest.raises(ValueError):
        open_store("redis", Stores())
    assert isinstance(open_store("memory", Stores()), MemoryStore)


@needed
def test_a_store_that_nobody_uses_any_more_closes_its_connections(tmp_path):
    """As after a reload with other options: without the collector, and without losing what was under way."""

    async def ask(server):
        store = RedisStore(Redis(url=server.url, **PATIENT))
        await store.put("a", b"1", ttl=60)
        answers = []
        store.submit("", ("SET", "last", "1"), lambda answer, error: answers.append(error or answer))
        gone = weakref.ref(store)
        gc.disable()
        try:
            del store
            assert gone() is None
        finally:
            gc.enable()
        deadline = time.monotonic() + 60
        while int((await asyncio.to_thread(server.info, "clients"))["connected_clients"]) > 1:
            assert time.monotonic() < deadline, "the one that asks is left"
            await asyncio.sleep(0.02)
        assert answers == [True]

    with RedisServer(tmp_path) as server:
        run(ask(server))
