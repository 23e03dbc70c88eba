"""Slower levels behind the memory of the cache, as the policy asks and tells them: two gateways that share one."""

import asyncio
import itertools
import time

import pytest

from fastgw._core.cache_access import Access
from fastgw.policies import base
from fastgw.store.tiers import MAX_QUEUE, Kept, Level, Tier, Tiers
from fastgw.testing import FakeUpstream
from fastgw.testing.inprocess import GatewayThread

numbers = itertools.count(1)


class Shelf(Tier):
    """A level in this process. `mode` says how it answers."""

    level = "shelf"
    seconds = 20.0

    def __init__(self, kept):
        self.kept = kept
        self.access = None
        self.mode = "well"
        self.asked, self.ended = [], []
        self.held = []                               # that are told when the test says so

    def seek(self, name, key, asked, told):
        self.asked.append(name)
        if self.mode == "raises":
            raise RuntimeError("broken")
        if self.mode == "silent":
            return True
        if self.mode == "held":
            self.held.append((name, told))
            return True
        found = self.kept.get(name)
        if found is None and self.mode != "late":
            return False
        asyncio.get_running_loop().call_soon(told, found is not None and self.put(name))
        return True

    def put(self, name):
        body, tags, given = self.kept[name]
        return self.access.put(name, body, tags=tags, **given) == "ok"

    async def keep(self, kept, hit):
        old = self.kept.get(kept.name)
        tags = old[1] if kept.tags is None and old else kept.tags or ()
        given = {"head": hit.head, "meta": hit.meta, "times": hit.times}
        self.kept[kept.name] = (hit.read(), tags, given)
        return len(hit.read())

    def over(self, kept):
        if kept.key is not None:
            self.ended.append(kept.key)


class World:
    def __init__(self, upstream, shelves, gateways):
        self.upstream, self.shelves, self.gateways = upstream, shelves, gateways

    def ask(self, which, path, method="GET", **headers):
        lines = [f"{method} {path} HTTP/1.1", "Host: h"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        with self.gateways[which].client() as client:
            client.send("\r\n".join([*lines, "", ""]).encode())
            return client.response(method)

    def count(self, path):
        return sum(request.target == path for request in list(self.upstream.requests))

    def name(self, path):
        """As the shelf has it: its variants' too."""
        return [name for name in self.shelves[0].kept if name.startswith(f"h{path}\0".encode())]


@pytest.fixture(scope="module")
def world():
    def answers(connection):
        while True:
            request = connection.read_request()
            say = (request.get("x-say") or "Cache-Control: max-age=60").split("|")
            if request.get("if-none-match"):
                connection.send(b"HTTP/1.1 304 X\r\nETag: \"1\"\r\nCache-Control: max-age=60\r\n\r\n")
            else:
                lines = ["HTTP/1.1 200 OK", *say, "Content-Length: 5", "", ""]
                connection.send("\r\n".join(lines).encode() + b"hello")

    kept = {}
    shelves = [Shelf(kept), Shelf(kept)]
    unused = iter(shelves)

    def opened(storage, cache, stores):
        shelf = next(unused)
        shelf.access = Access(storage)
        return Tiers(shelf.access, [shelf])

    with pytest.MonkeyPatch.context() as patch, FakeUpstream(answers) as upstream:
        patch.setattr(base, "open_tiers", opened)
        config = {
            "observability": {"access_log": {"enabled": False}},
            "services": {"origin": {"endpoints": [upstream.url], "retry": {"attempts": 1}}},
            "routes": [{"name": "all", "path": "/*", "service": "origin",
                        "policies": [{"cache": {"purge": {"addresses": ["127.0.0.1"]}}}]}],
        }  # fmt: skip
        with GatewayThread(config) as one, GatewayThread(config) as two:
            yield World(upstream, shelves, [one, two])


@pytest.fixture
def path(world):
    yield f"/{next(numbers)}"
    for shelf in world.shelves:
        shelf.mode = "well"


def test_what_one_host_stored_the_other_finds(world, path, eventually):
    assert "stored" in world.ask(0, path).get("cache-status")
    eventually(lambda: world.name(path), "it was handed over")
    answer = world.ask(1, path)
    assert answer.body == b"hello"
    assert answer.get("cache-status").startswith("fastgw; hit; ttl=")
    assert answer.get("cache-status").endswith("; detail=shelf")
    again = world.ask(1, path).get("cache-status")   # out of the memory
    assert again.startswith("fastgw; hit; ttl=") and "detail" not in again
    assert world.count(path) == 1
    # once for each name and host: what is in the memory is not looked for
    assert world.shelves[1].asked.count(world.name(path)[0]) == 1
    eventually(lambda: world.name(path)[0] in world.shelves[0].ended, "the level hears that the flight is over")


def test_variants_come_with_what_tells_them_apart(world, path, eventually):
    say = "Cache-Control: max-age=60|Vary: X-Kind"
    for kind in ("a", "b"):
        assert world.ask(0, path, x_say=say, x_kind=kind).body == b"hello"
    eventually(lambda: len(world.name(path)) == 3, "two variants and their list")
    for kind in ("b", "a"):
        assert world.ask(1, path, x_say=say, x_kind=kind).get("cache-status").endswith("; detail=shelf")
    assert world.count(path) == 2
    assert world.ask(1, path, x_say=say, x_kind="c").get("cache-status") == \
        "fastgw; fwd=vary-miss; fwd-status=200; stored"


def test_an_old_answer_of_a_level_is_revalidated_and_handed_over_again(world, path, eventually):
    say = 'Cache-Control: max-age=60|Age: 61|ETag: "1"|Surrogate-Key: t1'
    world.ask(0, path, x_say=say)
    eventually(lambda: world.name(path), "it was handed over")
    (name,) = world.name(path)
    old = world.shelves[0].kept[name]
    answer = world.ask(1, path)
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.get("cache-status") == "fastgw; fwd=stale; fwd-status=304"
    assert world.shelves[1].asked.count(name) == 1
    eventually(lambda: world.shelves[0].kept[name][2]["times"] > old[2]["times"], "the new times were handed over")
    assert world.shelves[0].kept[name][1] == (b"t1",)


def test_ranges_and_heads_are_answered_from_a_level(world, path, eventually):
    world.ask(0, path)
    eventually(lambda: world.name(path), "it was handed over")
    answer = world.ask(1, path, Range="bytes=1-2")
    assert (answer.status, answer.body) == (206, b"el")
    other = f"{path}/head"
    world.ask(0, other)
    eventually(lambda: world.name(other), "it was handed over")
    assert world.ask(1, other, "HEAD").get("cache-status").endswith("; detail=shelf")
    nowhere = f"{path}/nowhere"
    assert world.ask(1, nowhere, "HEAD").status == 200
    assert world.ask(1, nowhere, Range="bytes=1-2").status == 200
    assert world.count(nowhere) == 2


@pytest.mark.parametrize("mode", ["raises", "late"])
def test_what_a_level_does_not_have_or_say_comes_from_the_service(world, path, mode):
    world.shelves[1].mode = mode
    assert world.ask(1, path).get("cache-status") == "fastgw; fwd=uri-miss; fwd-status=200; stored"
    assert world.count(path) == 1


def test_one_asks_and_the_others_wait(world, path, eventually):
    shelf = world.shelves[1]
    world.ask(0, path)
    eventually(lambda: world.name(path), "it was handed over")
    (name,) = world.name(path)
    shelf.mode = "held"
    clients = [world.gateways[1].client() for _ in range(10)]
    for client in clients:
        client.send(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    eventually(lambda: shelf.held, "it was asked")
    (_, told), shelf.held = shelf.held[0], []

    def tell():
        shelf.put(name)
        told(True)
        told(True)                                   # once is enough

    world.gateways[1].call(tell)
    assert [bytes(client.response().body) for client in clients] == [b"hello"] * 10
    for client in clients:
        client.close()
    assert (world.count(path), shelf.asked.count(name)) == (1, 1)


def test_a_client_that_leaves_hands_on_to_the_next(world, path, eventually):
    shelf = world.shelves[1]
    shelf.mode = "held"
    request = f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
    first, second = world.gateways[1].client(), world.gateways[1].client()
    first.send(request)
    eventually(lambda: len(shelf.held) == 1, "it was asked")
    second.send(request)
    first.close()
    eventually(lambda: len(shelf.held) == 2, "the next one asks")
    held, shelf.held = shelf.held, []
    world.gateways[1].call(lambda: held[0][1](True))  # to nobody
    assert world.count(path) == 0
    world.gateways[1].call(lambda: held[1][1](False))
    assert second.response().body == b"hello"
    second.close()
    assert world.count(path) == 1


def test_what_is_not_to_be_kept_is_not_looked_for_each_time(world, path):
    say = "Cache-Control: no-store"
    for _ in range(3):
        assert world.ask(1, path, x_say=say).body == b"hello"
    name = f"h{path}\0".encode()
    assert world.count(path) == 3
    assert sum(asked.startswith(name) for asked in world.shelves[1].asked) == 1


def test_what_was_purged_meanwhile_is_not_brought_back(world, path, eventually):
    shelf = world.shelves[1]
    world.ask(0, path)
    eventually(lambda: world.name(path), "it was handed over")
    (name,) = world.name(path)
    body, tags, given = shelf.kept[name]
    asked = world.gateways[1].call(lambda: time.monotonic_ns())
    assert world.ask(1, path, "PURGE").status == 200
    assert world.gateways[1].call(lambda: shelf.access.put(name, body, tags=tags, asked=asked, **given)) == "purged"


# ---------------------------------------------------------------------- the levels themselves


class Silent(Tier):
    level = "silent"
    seconds = 0.01

    def seek(self, name, key, asked, told):
        self.told = told
        return True

    async def keep(self, kept, hit):
        await self.wait.wait()
        return hit.size


class Memory(Tier):
    level = "memory"

    def seek(self, name, key, asked, told):
        asyncio.get_running_loop().call_soon(told, name == b"there")
        return True


def test_a_level_that_says_nothing_is_passed_over():
    async def run():
        silent, memory = Silent(), Memory()
        tiers = Tiers(None, [silent, memory])
        loop = asyncio.get_running_loop()
        for name, expected in ((b"there", b"memory"), (b"elsewhere", None)):
            future = loop.create_future()
            assert tiers.seek(name, name, 0, future.set_result)
            assert await asyncio.wait_for(future, 60) == expected
            silent.told(True)                        # too late
        return tiers.rows()

    first, second = asyncio.run(run())
    assert (first["late"], first["hits"], second["hits"], second["misses"]) == (2, 0, 1, 1)


def test_the_queue_is_bounded_and_what_is_not_there_any_more_is_left_out():
    from fastgw._core.cache_store import Storage

    async def run():
        access = Access(Storage.private(8 * 1024 * 1024))
        assert access.put(b"a", b"body") == "ok"
        silent = Silent()
        silent.wait = asyncio.Event()
        over = []
        silent.over = over.append
        level = Level(access, silent)
        for number in range(MAX_QUEUE + 10):
            level.give(Kept(b"a" if number % 2 else b"gone", 0, 0, (), None))
        assert level.row()["dropped"] == 10
        silent.wait.set()
        await asyncio.wait_for(level.task, 60)
        assert len(over) == MAX_QUEUE
        assert access.stats()["hits"] == access.stats()["misses"] == 0
        return level.row()

    row = asyncio.run(run())
    assert (row["kept"], row["written_bytes"], row["waiting"]) == (MAX_QUEUE // 2, MAX_QUEUE // 2 * 4, 0)
