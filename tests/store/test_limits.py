"""Limits that several hosts share, against a real Redis: decided there each time, and by slices taken ahead."""

import asyncio
import time

import pytest

from fastgw.config.schema.stores import Redis
from fastgw.store import StoreError
from fastgw.store.leases import Leases
from fastgw.store.limits import Decision, Rule, SharedLimits, drop, look
from fastgw.store.redis import RedisStore
from tests.store.redis_server import ClusterOf3, RedisServer, needed

PATIENT = {"deadline": 5.0, "timeout": 5.0}
LONG = 100_000.0
"""Seconds: nothing refills while a test runs."""
KINDS = ("bucket", "fixed", "sliding", "log")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


def using(server, test, **options):
    """Runs `test(store)` with a store of its own prefix."""

    async def main():
        store = RedisStore(Redis(url=server.url, **PATIENT, **options))
        try:
            return await test(store)
        finally:
            await store.close()

    return asyncio.run(main())


async def decided(limits, names, rules, cost=1):
    future = asyncio.get_running_loop().create_future()
    limits.decide(names, rules, cost, lambda found, error: future.set_result(error or found))
    found = await future
    assert isinstance(found, Decision), found
    return found


@needed
@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_limit_by_several_workers(server, kind):
    rule = Rule(kind, 50, LONG)

    async def test(store):
        other = RedisStore(store.options)
        workers = [SharedLimits(one, lambda *_: None) for one in (store, other, store, other)]
        found = await asyncio.gather(*(decided(workers[n % 4], ["all"], (rule,)) for n in range(120)))
        await other.close()
        return found

    found = using(server, test, prefix=f"exact-{kind}")
    admitted = [one.levels[0] for one in found if one.admitted]
    assert len(admitted) == 50
    assert sorted(level.remaining for level in admitted) == list(range(50)), "each sees what is left behind it"
    for one in found:
        (level,) = one.levels
        assert (level.retry > 0) is (not one.admitted)
        assert 0 < level.reset <= 2 * LONG + 1
        if not one.admitted:
            assert level.remaining == 0
            assert level.retry <= 2 * LONG if kind != "bucket" else level.retry <= LONG / 50 + 1


@needed
@pytest.mark.parametrize("kind", KINDS)
def test_what_time_gives_back(server, kind):
    """A window of 0.3 s: used up, and after the time it names there is room again."""
    rule = Rule(kind, 3, 0.3)

    async def test(store):
        limits = SharedLimits(store, lambda *_: None)
        found = (await asyncio.gather(*(decided(limits, ["k"], (rule,)) for _ in range(10))))[-1]
        assert not found.admitted
        await asyncio.sleep(found.levels[0].retry)
        assert (await decided(limits, ["k"], (rule,))).admitted
        await asyncio.sleep(0.7)
        fresh = await decided(limits, ["k"], (rule,))
        assert fresh.admitted and fresh.levels[0].remaining == 2, "all of it is back after two windows"

    using(server, test, prefix=f"time-{kind}")
    deadline = time.monotonic() + 60
    while server.command("KEYS", f"time-{kind}:*") != b"*0\r\n":
        assert time.monotonic() < deadline, "keys end"
        time.sleep(0.05)


@needed
def test_several_limits_are_one_round_trip_and_all_or_none(server):
    rules = (Rule("bucket", 100, LONG), Rule("fixed", 5, LONG), Rule("sliding", 50, LONG), Rule("log", 50, LONG))

    async def test(store):
        limits = SharedLimits(store, lambda *_: None)
        names = ["a"] * 4
        await decided(limits, names, rules)
        trips = store.state().round_trips
        found = [await decided(limits, names, rules) for _ in range(6)]
        assert store.state().round_trips - trips == 6
        assert [one.admitted for one in found] == [True] * 4 + [False] * 2
        last = found[-1].levels
        assert [level.remaining for level in last] == [95, 0, 45, 45], "the refused were not charged anywhere"
        assert [level.retry > 0 for level in last] == [False, True, False, False]
        dear = await decided(limits, ["b"] * 4, rules, cost=4)
        assert [level.remaining for level in dear.levels] == [96, 1, 46, 46]
        assert not (await decided(limits, ["b"] * 4, rules, cost=2)).admitted

    using(server, test, prefix="several")


@needed
def test_intervals_that_are_no_whole_microseconds(server):
    """3 in 7 µs: more than could be asked in a test, but the sum of a million intervals must be what it says."""
    rule = Rule("bucket", 300_000, 1.0, burst=10_000_000)
    assert rule.interval == 214 / 64

    async def test(store):
        limits = SharedLimits(store, lambda *_: None)
        first = await decided(limits, ["k"], (rule,), cost=9_000_000)
        (level,) = first.levels
        assert first.admitted and level.remaining == 1_000_000 and level.reset == 30.09375

    using(server, test, prefix="grain")


@needed
def test_debts_are_charged_when_redis_is_back_and_what_is_over_is_counted(server):
    over = []

    async def test(store):
        limits = SharedLimits(store, lambda number, count: over.append(count))
        for kind in KINDS:
            rule = (Rule(kind, 10, LONG),)
            await decided(limits, [kind], rule)
            for _ in range(5):
                limits.unasked([kind], rule, 1)
            assert (await decided(limits, [kind], rule)).levels[0].remaining == 3
            assert over == []
            for _ in range(7):
                limits.unasked([kind], rule, 1)
            refused = await decided(limits, [kind], rule)
            assert not refused.admitted and refused.levels[0].remaining == 0
            assert over == [4], f"{kind}: 1 + 5 + 1 + 7 were admitted, of 10"
            over.clear()

    using(server, test, prefix="debts")


@needed
def test_a_clock_that_was_set_back_locks_nothing(server):
    """The level says that the bucket is full again in a year."""

    async def test(store):
        limits = SharedLimits(store, lambda *_: None)
        rule = Rule("bucket", 10, 10.0)
        await store.execute("", "SET", limits.key("k", 0, rule), "9e15")
        found = await decided(limits, ["k"], (rule,))
        assert not found.admitted and found.levels[0].retry <= 1.001

    using(server, test, prefix="clock")


async def leased(leases, names, cost=1):
    future = asyncio.get_running_loop().create_future()
    found = leases.decide(tuple(names), cost, lambda found, error: future.set_result(error or found))
    if found is None:
        found = await future
    assert isinstance(found, Decision), found
    return found


@needed
@pytest.mark.parametrize("kind", ["bucket", "fixed"])
def test_slices_admit_the_limit_in_few_round_trips(server, kind):
    rules = (Rule(kind, 200, LONG), Rule("bucket", 1000, LONG))

    async def test(store):
        workers = [Leases(store, rules, 10, 60.0, lambda *_: None) for _ in range(4)]
        await leased(workers[0], ["warm", "warm"])
        trips = store.state().round_trips
        results = [await leased(workers[n % 4], ["k", "k"]) for n in range(400)]
        assert sum(one.admitted for one in results) == 200
        assert store.state().round_trips - trips <= 80, "400 requests"
        refused = results[-1].levels
        assert refused[0].remaining == 0 and refused[0].retry > 0 and refused[1].retry == 0
        # a crowd in one turn, more than a slice
        crowd = await asyncio.gather(*(leased(workers[0], ["crowd", "crowd"]) for _ in range(300)))
        assert sum(one.admitted for one in crowd) == 200
        for one in workers:
            one.close()

    using(server, test, prefix=f"leased-{kind}")


@needed
def test_what_is_not_used_of_a_slice_goes_back(server):
    rule = (Rule("bucket", 10, LONG),)

    async def test(store):
        first, second = (Leases(store, rule, 8, 0.2, lambda *_: None) for _ in range(2))
        assert (await leased(first, ["k"])).admitted
        deadline = time.monotonic() + 60
        while not (await leased(second, ["k"], cost=9)).admitted:
            assert time.monotonic() < deadline, "the first has 7 that it does not use"
            await asyncio.sleep(0.02)
        assert not first.slices
        for one in (first, second):
            one.close()

    using(server, test, prefix="back")


@needed
def test_what_slices_admit_beyond_the_limit_is_measured(server):
    """One keeps its slice while the limit refills (here: is taken away), another takes all of the new."""
    rule = (Rule("bucket", 10, LONG),)
    over = []

    async def test(store):
        first, second = (Leases(store, rule, 10, 600.0, lambda number, count: over.append(count)) for _ in range(2))
        assert (await leased(first, ["k"])).admitted
        await store.execute("", "DEL", store.key("limit:{k}:0:bucket:leased"))
        assert all([(await leased(second, ["k"])).admitted for _ in range(10)])
        assert all([(await leased(first, ["k"])).admitted for _ in range(9)])
        for one in (first, second):
            one.close()
        deadline = time.monotonic() + 60
        while sum(over) < 10:
            assert time.monotonic() < deadline, over
            await store.get("a")
        assert sum(over) == 10, "20 of 10"

    using(server, test, prefix="over")


@needed
def test_leases_without_redis(tmp_path):
    rule = (Rule("bucket", 100, LONG),)

    async def ask(server):
        store = RedisStore(Redis(url=server.url, deadline=0.2, timeout=1, breaker={"failures": 1, "pause": 60}))
        leases = Leases(store, rule, 10, 600.0, lambda *_: None)
        deadline = time.monotonic() + 60
        while True:
            try:
                assert (await waited(leases)).admitted
                break
            except StoreError:
                store = RedisStore(store.options)
                leases = Leases(store, rule, 10, 600.0, lambda *_: None)
                assert time.monotonic() < deadline
        server.kill()
        admitted = 1
        with pytest.raises(StoreError):
            while True:
                assert (await waited(leases)).admitted
                admitted += 1
        assert admitted == 10, "what was taken ahead is used"
        with pytest.raises(StoreError) as caught:
            await waited(leases)
        assert caught.value.reason == "paused"
        leases.close()
        await store.close()

    async def waited(leases):
        future = asyncio.get_running_loop().create_future()
        found = leases.decide(("k",), 1, lambda found, error: future.set_result(error or found))
        found = found or await future
        if isinstance(found, StoreError):
            raise found
        return found

    with RedisServer(tmp_path) as server:
        asyncio.run(ask(server))


@needed
def test_both_in_a_cluster_of_three(tmp_path):
    rules = (Rule("bucket", 20, LONG), Rule("sliding", 30, LONG))

    async def ask(nodes):
        store = RedisStore(Redis(cluster={"nodes": nodes.nodes}, **PATIENT))
        await store.get("first")
        limits = SharedLimits(store, lambda *_: None)
        leases = Leases(store, (rules[0],), 5, 60.0, lambda *_: None)
        names = [f"name{n}" for n in range(12)]
        found = await asyncio.gather(*(decided(limits, [name] * 2, rules) for name in names for _ in range(25)))
        assert sum(one.admitted for one in found) == 20 * len(names)
        taken = await asyncio.gather(*(leased(leases, [name]) for name in names for _ in range(25)))
        assert sum(one.admitted for one in taken) == 20 * len(names), "keys of their own"
        assert len([name for name in store.lanes if name]) == 3
        leases.close()
        await store.close()

    with ClusterOf3(tmp_path) as nodes:
        asyncio.run(ask(nodes))


async def left(store, key, rule, wanted):
    """Nobody waits for what is charged afterwards; a server that has not seen its script yet is asked twice."""
    deadline = time.monotonic() + 30
    while (found := (await look(store, [key], (rule,)))[0].remaining) != wanted:
        assert time.monotonic() < deadline, found


@needed
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_charged_afterwards_is_charged_whether_it_is_there_or_not(server, kind):
    rule = Rule(kind, 10, LONG)

    async def test(store):
        limits = SharedLimits(store, lambda *_: None)
        assert (await decided(limits, ["k"], (rule,))).admitted
        limits.charge(["k"], (rule,), 4)
        key = limits.key("k", 0, rule)
        await left(store, key, rule, 5)
        limits.charge(["k"], (rule,), 10**17)
        await left(store, key, rule, 0)
        refused = await decided(limits, ["k"], (rule,))
        assert not refused.admitted
        if kind == "bucket":
            # once its capacity below empty, and no further: ten intervals until it is empty, one more for this one
            assert LONG < refused.levels[0].retry <= LONG * 1.1 + 1
        assert await drop(store, [key]) == 1
        assert (await decided(limits, ["k"], (rule,))).levels[0].remaining == 9

    using(server, test, prefix=f"charge-{kind}")


@needed
def test_what_could_not_be_charged_is_a_debt(server):
    rule = Rule("bucket", 10, LONG)

    async def test(store):
        limits = SharedLimits(store, lambda *_: None)
        run, store.run = store.run, refuse
        limits.charge(["k"], (rule,), 4)
        store.run = run
        assert (await decided(limits, ["k"], (rule,))).levels[0].remaining == 5

    def refuse(*_):
        raise StoreError("paused")

    using(server, test, prefix="charge-debt")
