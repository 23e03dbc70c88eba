"""What lies in Redis, as it is read; and purges that are compared with it, or told to other hosts."""

import asyncio
import struct
import time
import zlib

import pytest

from fastgw._core.cache_access import Access
from fastgw._core.cache_store import Storage
from fastgw.config.schema.cache import SecondLevel
from fastgw.config.schema.stores import Redis
from fastgw.store import purges, second_level
from fastgw.store.base import StoreError
from fastgw.store.purges import Purge, PurgeLog, SharedPurge, Teller, added, id_of
from fastgw.store.redis import RedisStore
from fastgw.store.second_level import BODY, INFO, META, Record, RedisTier, packed, squeezed, unsqueezed
from fastgw.store.tiers import Kept
from tests.store.redis_server import ClusterOf3, needed


def rows(*wishes, begin=1):
    """As Redis gives entries of the stream, numbered from `begin` on."""
    found = []
    for number, wish in enumerate(wishes, begin):
        words = added("s", "somebody", wish)
        found.append([f"{number}-0".encode(), {b"from": b"somebody", b"purge": words[-1]}])
    return found


def log_of(*wishes):
    log = PurgeLog()
    log.first = (1, 0)
    log.take(rows(SharedPurge(none=True), *wishes), 1000)
    return log


# ---------------------------------------------------------------------- the log


CASES = [
    (Purge(url="https://A.example/x"), b"a.example/x\0pzone", (), True),
    (Purge(url="a.example/x"), b"a.example/x\0pzone\0v12", (), True),
    (Purge(url="a.example/x"), b"a.example/xy\0pzone", (), None),
    (Purge(url="a.example/x", soft=True), b"a.example/x\0pzone", (), False),
    (Purge(prefix="a.example/"), b"a.example/x\0pzone", (), True),
    (Purge(prefix="a.example/", soft=True), b"a.example/x\0pzone", (), False),
    (Purge(prefix="b.example/"), b"a.example/x\0pzone", (), None),
    (Purge(tag="t"), b"a.example/x\0pzone", (b"s", b"t"), True),
    (Purge(tag="t"), b"a.example/x\0pzone", (b"s",), None),
    (Purge(all=True, soft=True), b"a.example/x\0pzone", (), False),
    (SharedPurge(name="a.example/\xe4"), b"a.example/\xe4\0pzone", (), True),
    (SharedPurge(none=True), b"a.example/x\0pzone", (), None),
]


@pytest.mark.parametrize(("wish", "name", "tags", "doom"), CASES)
def test_what_a_purge_means_for_what_is_older(wish, name, tags, doom):
    log = log_of(wish)
    assert log.doom(name, tags, (1, 0)) is doom
    assert log.doom(name, tags, (2, 0)) is None      # it was asked for later


def test_a_hard_one_goes_before_a_soft_one():
    log = log_of(Purge(tag="t", soft=True), Purge(tag="t"), Purge(tag="t", soft=True))
    assert log.doom(b"n", (b"t",), (1, 0)) is True
    assert log.doom(b"n", (b"t",), (3, 0)) is False


def test_what_nobody_can_know_is_not_used():
    log = log_of(Purge(tag="t"))
    assert log.doom(b"n", (), (0, 1)) is True        # from before the stream began
    assert log.doom(b"n", (), (9, 0)) is True        # from another stream
    assert PurgeLog().doom(b"n", (), (1, 0)) is True
    # what is not understood may have meant it
    log.take([[b"3-0", {b"purge": b'{"later": 1}'}]], 1000)
    assert log.doom(b"n", (), (2, 0)) is True


def test_the_log_is_bounded(monkeypatch):
    monkeypatch.setattr(purges, "MAX_LOG", 100)
    log = log_of()
    for begin in range(2, 300, 50):
        log.take(rows(*(Purge(url=f"h/{begin + n}") for n in range(50)), begin=begin), 1000)
    assert len(log.order) == len(log.latest) == 100
    assert log.doom(b"h/other\0", (), (1, 0)) is True
    newest = log.position
    assert log.doom(b"h/other\0", (), newest) is None


def test_how_much_was_known_when_it_was_asked_for():
    log = log_of()
    log.take(rows(Purge(tag="a"), begin=2), 2000)
    log.take(rows(Purge(tag="b"), begin=3), 3000)
    assert [log.known(at) for at in (999, 1000, 2500, 3000)] == [None, (1, 0), (2, 0), (3, 0)]
    log.take(rows(Purge(tag="b"), begin=3), 4000)    # read twice
    assert log.known(5000) == (3, 0)


# ---------------------------------------------------------------------- a record


def given(*, meta=bytes((1, 1)) + bytes(META - 2), head=b"\x00\x00\x00\x00\x04head", about=None, info=None):
    about_it, small = packed(b"x" * 5000, True)
    return [b"v", info or INFO.pack(1, 2, 3, 4, 5), meta, b"t1\nt2", head, about or about_it, small]


def test_a_record_is_read_as_it_was_written():
    record = Record.read(given())
    assert (record.times, record.since, record.tags, record.head) == ((1, 2, 3), (4, 5), (b"t1", b"t2"), b"head")
    assert record.size == 5000 and len(record.body) < 1000
    assert unsqueezed(record.body_kind, record.body, record.size) == b"x" * 5000


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
def test_both_ways_of_compressing(kind, monkeypatch):
    if kind == "zlib":
        monkeypatch.setattr(second_level, "zstandard", None)
    else:
        pytest.importorskip("zstandard")
    number, small = squeezed(b"a" * 10_000)
    assert number == {"zlib": second_level.ZLIB, "zstd": second_level.ZSTD}[kind]
    assert unsqueezed(number, small, 10_000) == b"a" * 10_000
    for size in (9_999, 10_001, 0):
        with pytest.raises(ValueError, match=r"\w"):
            unsqueezed(number, small, size)
    assert squeezed(b"short") == (second_level.PLAIN, b"short")


BAD = {
    "a part is missing": [*given()[:6], None],
    "no times": given(info=b"short"),
    "no body": given(about=b"short"),
    "meta of another size": given(meta=b"\x01\x01"),
    "meta of another kind": given(meta=bytes((1, 3)) + bytes(META - 2)),
    "no head": given(head=b"\x00"),
    "a head that is longer than it says": given(head=b"\x00\x00\x00\x00\x03head"),
    "another compression": given(head=b"\x09\x00\x00\x00\x04head"),
    "names without end": given(meta=bytes((1, 2)) + bytes(META - 2), head=b"\x00\x00\x00\x20\x00" + b"n" * 8192),
}


@pytest.mark.parametrize("parts", BAD.values(), ids=list(BAD))
def test_what_is_none_is_refused(parts):
    with pytest.raises(ValueError, match=r"\w"):
        Record.read(parts)


def test_a_small_thing_that_becomes_large_is_refused():
    bomb = BODY.pack(second_level.ZLIB, 100, b"")
    record = Record.read(given(about=bomb))
    with pytest.raises(ValueError, match=r"\w"):
        unsqueezed(second_level.ZLIB, zlib.compress(b"x" * 10_000_000), record.size)
    assert struct.calcsize(INFO.format) == 40


# ---------------------------------------------------------------------- what this host purged


def test_own_purges_hold_for_what_another_host_stored_before():
    access = Access(Storage.private(4 * 1024 * 1024))
    before = time.monotonic_ns()
    access.purge_tag(b"own")
    access.purge_tag(b"theirs", foreign=True)
    now = time.monotonic_ns()
    assert access.put(b"a", b"body", tags=[b"own"], asked=now, own=before) == "purged"
    assert access.put(b"b", b"body", tags=[b"own"], asked=now) == "ok"
    # what other hosts purged was compared with the stream, which knows better when that was
    assert access.put(b"c", b"body", tags=[b"theirs"], asked=now, own=before) == "ok"
    assert access.put(b"d", b"body", tags=[b"theirs"], asked=before) == "purged"
    access.purge_tag(b"own", soft=True)
    assert access.put(b"e", b"body", tags=[b"own"], asked=time.monotonic_ns(), own=now) == "ok"
    assert access.get(b"e").times[1] == 0


# ---------------------------------------------------------------------- telling


class Store:
    """Takes commands while `good`."""

    def __init__(self):
        self.options = Redis(url="redis://h")
        self.good = True
        self.texts = []

    def submit(self, key, words, told):
        if self.good == "never":
            raise StoreError("paused")
        if self.good:
            self.texts.append(words[-1])
        error = None if self.good else StoreError("deadline")
        asyncio.get_running_loop().call_soon(told, b"1-0", error)


async def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


@pytest.fixture
def teller(monkeypatch):
    monkeypatch.setattr(purges, "AGAIN", 0.01)
    return Teller(Store(), Access(Storage.private(4 * 1024 * 1024)))


@pytest.mark.parametrize("how", [False, "never"])
def test_what_could_not_be_told_is_told_again(teller, how):
    async def run():
        teller.store.good = how
        for name in (b"h/a\0pzone", b"h/a\0pzone", b"h/b\0pzone"):
            teller.forget(name)
        await until(lambda: teller.failures >= 3)
        assert teller.row()["untold"] == 2
        teller.store.good = True
        await until(lambda: not teller.untold)
        assert sorted(teller.store.texts) == [b'{"name":"h/a"}', b'{"name":"h/b"}']

    asyncio.run(run())


def test_of_too_many_everything_is_purged(teller, monkeypatch):
    monkeypatch.setattr(purges, "MAX_UNTOLD", 3)

    async def run():
        teller.store.good = "never"
        for number in range(10):
            teller.forget(f"h/{number}\0pzone".encode())
        assert teller.row()["untold"] == 1
        teller.store.good = True
        await until(lambda: not teller.untold)
        assert teller.store.texts == [b'{"all":true}']

    asyncio.run(run())


def test_several_are_told_together_or_not_at_all(teller):
    async def run():
        for good in (True, False, "never"):
            teller.store.good = good
            done = asyncio.get_running_loop().create_future()
            teller.tell([Purge(tag="a"), Purge(tag="b", soft=True)], done.set_result)
            assert await done is (good is True)
        assert teller.store.texts == [b'{"tag":"a"}', b'{"tag":"b","soft":true}']

    asyncio.run(run())


def test_ids():
    assert id_of([b"17-3", {}]) == (17, 3)


# ---------------------------------------------------------------------- in a Cluster


class Host:
    """A memory, and its second level."""

    def __init__(self, options):
        self.access = Access(Storage.private(4 * 1024 * 1024))
        self.tier = RedisTier(SecondLevel(store="redis", lease=60), RedisStore(options), self.access)

    async def look(self, name):
        """What is told; None where nobody can tell."""
        future = asyncio.get_running_loop().create_future()
        if not self.tier.seek(name, name, 0, future.set_result):
            return None
        return await asyncio.wait_for(future, 60)

    async def close(self):
        await self.tier.store.close()


@needed
def test_in_a_cluster(tmp_path):
    name = b"h/a\0pzone"

    async def run(nodes):
        patient = {"timeout": 30, "deadline": 5, "breaker": {"failures": 1000}}
        one, two = (Host(Redis(cluster={"nodes": nodes}, **patient)) for _ in range(2))
        try:
            for host in (one, two):
                await until(lambda host=host: host.tier.state()["ready"])
            assert await one.look(name) is False     # and has the lease
            waiting = asyncio.create_task(two.look(name))
            await until(lambda: two.tier.waited == 1)
            asked, wall = time.monotonic_ns(), time.time_ns()
            times = (wall, wall + 10**12, wall + 10**12)
            assert one.access.put(name, b"body", head=b"head", meta=bytes((1, 1)) + bytes(62), times=times) == "ok"
            kept = Kept(name, 0, asked, (b"t",), name)
            one.tier.coming(kept)
            hit = one.access.peek(name)
            assert await one.tier.keep(kept, hit) > 0
            hit.release()
            one.tier.over(kept)
            assert await waiting is True
            assert two.access.get(name).read() == b"body"
            # purged by a third one: who has it in Redis knows
            done = asyncio.get_running_loop().create_future()
            teller = Teller(two.tier.store, Access(Storage.private(4 * 1024 * 1024)))
            teller.tell([Purge(tag="t")], done.set_result)
            assert await done is True
            assert await one.look(name) is False
            assert one.tier.purged == 1
        finally:
            for host in (one, two):
                await host.close()

    with ClusterOf3(tmp_path) as cluster:
        asyncio.run(run(cluster.nodes))
