"""Answers in Redis, for all hosts that share it: two gateways, and what becomes of them when Redis does not answer."""

import hashlib
import http.client
import itertools
import json
import re
import threading

import pytest

from fastgw.testing import FakeUpstream, GatewayProcess
from tests.store.redis_server import RedisServer, needed

pytestmark = needed
numbers = itertools.count(1)


class Origin:
    """Answers as `X-Say` tells it, header lines with `|` between them; on paths below /gate when `gate` is open."""

    def __init__(self):
        self.gate = threading.Event()

    def __call__(self, connection):
        while True:
            request = connection.read_request()
            if request.target.startswith("/gate"):
                connection.wait(self.gate)
            if request.get("if-none-match"):
                connection.send(b'HTTP/1.1 304 X\r\nETag: "1"\r\nCache-Control: max-age=600\r\n\r\n')
                continue
            lines = [line for line in (request.get("x-say") or "Cache-Control: max-age=600").split("|") if line]
            body = b"" if request.method == "HEAD" else (request.target.encode() * 2000)[:2000]
            head = "\r\n".join(["HTTP/1.1 200 OK", *lines, f"Content-Length: {len(body)}", "", ""])
            connection.send(head.encode() + body)


class World:
    def __init__(self, origin, upstream, redis, gateways):
        self.origin, self.upstream, self.redis, self.gateways = origin, upstream, redis, gateways

    def send(self, which, path, method="GET", **headers):
        lines = [f"{method} {path} HTTP/1.1", "Host: h"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        client = self.gateways[which].client()
        client.send("\r\n".join([*lines, "", ""]).encode())
        return client

    def ask(self, which, path, method="GET", **headers):
        with self.send(which, path, method, **headers) as client:
            answer = client.response(method)
        return answer

    def status(self, which, path, **headers):
        return self.ask(which, path, **headers).get("cache-status")

    def count(self, path):
        return sum(request.target == path and request.method == "GET" for request in list(self.upstream.requests))

    def level(self, which):
        return json.loads(self.gateways[which].admin("/cache")[1])["levels"][0]

    def purge(self, which, wish):
        connection = http.client.HTTPConnection("127.0.0.1", self.gateways[which].admin_port, timeout=60)
        try:
            connection.request("POST", "/cache/purge", json.dumps(wish))
            return connection.getresponse().status
        finally:
            connection.close()

    def told(self, which):
        return json.loads(self.gateways[which].admin("/cache")[1])["told"][0]

    def of(self, key, path):
        """Is that where the answer of a path lies?"""
        return hashlib.sha256(f"h{path}\0pall".encode()).hexdigest() in key

    def field(self, place, name):
        return self.redis.command("HGET", place, name)

    def kept(self):
        return self.level(0)["kept"]

    def put(self, path, eventually, **headers):
        """Asked for at the first host, until it lies in Redis. A purge that the host has just read of may take it away
        before it was handed over."""

        def done():
            before = self.kept()
            # the other host does not ask, and finds it all the same
            self.ask(0, path, **headers, cache_control="no-cache")
            try:
                eventually(lambda: self.kept() > before, "it was handed over", 5)
            except AssertionError:
                return False
            return True

        eventually(done, "it was handed over", 120)
        return self.count(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    origin = Origin()
    with RedisServer(tmp_path_factory.mktemp("redis")) as redis, FakeUpstream(origin) as upstream:
        config = {
            "server": {"workers": 1},
            "stores": {"redis": {"url": redis.url, "deadline": "5s", "timeout": "5s",
                                 "breaker": {"failures": 2, "pause": "50ms", "max_pause": "100ms"}}},
            "cache": {"memory": "8MiB", "purges": "redis", "second_level": {"store": "redis", "lease": "60s"}},
            "services": {"up": upstream.url},
            "routes": [{"name": "all", "path": "/*", "service": "up",
                        "policies": [{"cache": {"wait": "60s", "purge": {"addresses": ["127.0.0.1"]}}}]}],
        }  # fmt: skip
        with GatewayProcess(config) as one, GatewayProcess(config) as two:
            yield World(origin, upstream, redis, [one, two])


@pytest.fixture(autouse=True)
def both_have_read(world, eventually):
    for which in (0, 1):
        eventually(lambda which=which: world.level(which)["ready"], "the purges were read", 60)


def keys(world):
    return re.findall(r"fastgw:cache:\w+:\{\w+\}", world.redis.command("KEYS", "*").decode())


def anew(begin):
    """A path that nobody asked for before."""
    return f"{begin}/{next(numbers)}"


def test_what_one_host_fetched_the_other_finds(world, eventually):
    path = anew("/a")
    fetched = world.put(path, eventually)
    answer = world.ask(1, path)
    assert answer.body == (path.encode() * 2000)[:2000]
    assert re.fullmatch(r"fastgw; hit; ttl=\d+; detail=redis", answer.get("cache-status"))
    assert world.count(path) == fetched
    assert world.level(1)["hits"] >= 1
    metrics = world.gateways[1].admin("/metrics")[1]
    assert re.search(r'fastgw_cache_level_lookups\{level="redis",result="hit"\} [1-9]', metrics)
    assert re.search(r'fastgw_cache_level_bytes\{direction="read",level="redis"\} [1-9]', metrics)
    # compressed: 2000 bytes of the same
    assert world.level(0)["compression"] in ("zstd", "zlib")
    assert 0 < world.level(1)["read_bytes"] < 1000 * world.level(1)["hits"]


def test_variants(world, eventually):
    path, say = anew("/vary"), "Cache-Control: max-age=600|Vary: X-Kind"
    world.put(path, eventually, x_say=say, x_kind="a")
    fetched = world.put(path, eventually, x_say=say, x_kind="b")
    for kind in ("b", "a"):
        assert world.status(1, path, x_say=say, x_kind=kind).endswith("detail=redis")
    assert world.count(path) == fetched


def herd(world, eventually, path, clients, **headers):
    """Clients of both hosts, until one of the hosts waits for the other. The caller opens the gate."""
    world.origin.gate.clear()
    waited = world.level(0)["waited"] + world.level(1)["waited"]
    sent = [world.send(number % 2, path, **headers) for number in range(clients)]
    eventually(lambda: world.level(0)["waited"] + world.level(1)["waited"] > waited, "one waits for the other", 60)
    return sent


def test_a_herd_on_two_hosts_is_one_request(world, eventually):
    path = anew("/gate/herd")
    clients = herd(world, eventually, path, 40)
    eventually(lambda: world.count(path) == 1, "the first is under way", 60)
    world.origin.gate.set()
    assert {bytes(client.response().body[:10]) for client in clients} == {b"/gate/herd"}
    for client in clients:
        client.close()
    assert world.count(path) == 1


def test_variants_of_a_cold_key_are_one_request_each(world, eventually):
    path = anew("/gate/vary")
    clients = herd(world, eventually, path, 10, x_say="Cache-Control: max-age=600|Vary: X-Kind", x_kind="a")
    world.origin.gate.set()
    assert {client.response().status for client in clients} == {200}
    for client in clients:
        client.close()
    assert world.count(path) == 1


def test_nobody_waits_for_the_answer_to_somebody_else(world, eventually):
    path = anew("/gate/own")
    world.origin.gate.clear()
    # not `public`: for who asked alone
    clients = [world.send(which, path, authorization=f"Basic {which}") for which in (0, 1)]
    eventually(lambda: world.count(path) == 2, "both were sent", 60)
    world.origin.gate.set()
    for client in clients:
        assert client.response().status == 200
        client.close()


def test_what_is_not_kept_lets_the_other_host_go(world, eventually):
    path = anew("/gate/never")
    clients = herd(world, eventually, path, 2, x_say="Cache-Control: no-store")
    world.origin.gate.set()
    for client in clients:
        assert client.response().status == 200
        client.close()
    assert world.count(path) == 2


def test_a_client_that_leaves_lets_the_other_host_fetch(world, eventually):
    path = anew("/gate/left")
    world.origin.gate.clear()
    first = world.send(0, path)
    eventually(lambda: world.count(path) == 1, "it is under way", 60)
    waited = world.level(1)["waited"]
    second = world.send(1, path)
    eventually(lambda: world.level(1)["waited"] > waited, "the other waits", 60)
    first.close()
    eventually(lambda: world.count(path) == 2, "the other fetches", 60)
    world.origin.gate.set()
    assert second.response().status == 200
    second.close()


def test_an_answer_found_valid_is_so_for_the_other_host(world, eventually):
    path, say = anew("/valid"), 'Cache-Control: max-age=1|ETag: "1"'
    world.put(path, eventually, x_say=say)
    (place,) = [key for key in keys(world) if world.of(key, path)]
    before = world.field(place, "i")
    eventually(lambda: "fwd=stale" in world.status(0, path, x_say=say), "it is stale", 60)
    eventually(lambda: world.field(place, "i") != before, "the new times lie there", 60)


# ---------------------------------------------------------------------- purges


@pytest.mark.parametrize("how", ["url", "prefix", "tag", "PURGE", "PURGE tag", "POST"])
def test_what_was_purged_on_one_host_no_host_finds(world, eventually, how):
    path = anew(f"/purged/{how.replace(' ', '-')}")
    tag = path.replace("/", "-")
    say = f"Cache-Control: max-age=600|Surrogate-Key: other {tag}"
    fetched = world.put(path, eventually, x_say=say)
    if how.startswith("PURGE"):
        headers = {"Surrogate_Key": tag} if how.endswith("tag") else {}
        assert json.loads(world.ask(1, path, "PURGE", **headers).body) == {"purged": 0}
    elif how == "POST":
        assert world.ask(1, path, "POST", content_length="0").status == 200
    else:
        wish = {"url": f"h{path}", "prefix": f"h{path[:-1]}", "tag": tag}
        assert world.purge(1, {how: wish[how]}) == 200
    # the second host never had it in its memory
    assert "detail" not in world.status(1, path, x_say=say)
    assert world.count(path) == fetched + 1
    # and the first one has it no more when it has read of it
    eventually(lambda: "detail=redis" in world.status(0, path, x_say=say), "it has what the other fetched", 60)
    assert world.count(path) == fetched + 1


def test_a_soft_purge_makes_it_stale(world, eventually):
    path = anew("/soft")
    world.put(path, eventually)
    assert world.ask(1, path, "PURGE", soft_purge="1").status == 200
    assert world.status(1, path).startswith("fastgw; fwd=stale")


def test_what_is_under_way_when_it_is_purged_does_not_come_back(world, eventually):
    path = anew("/gate/late")
    world.origin.gate.clear()
    with world.send(0, path) as client:
        eventually(lambda: world.count(path) == 1, "it is under way", 60)
        assert world.ask(1, path, "PURGE").status == 200
        world.origin.gate.set()
        assert client.response().status == 200
    assert world.status(1, path) == "fastgw; fwd=uri-miss; fwd-status=200; stored"
    assert world.count(path) == 2


def test_a_purge_of_everything(world, eventually):
    path = anew("/all")
    fetched = world.put(path, eventually)
    assert world.purge(1, {"all": True}) == 200
    assert "detail" not in world.status(1, path)
    assert world.count(path) == fetched + 1


# ---------------------------------------------------------------------- failures


def test_what_lies_in_redis_is_not_believed(world, eventually):
    path = anew("/broken")
    fetched = world.put(path, eventually)
    (place,) = [key for key in keys(world) if world.of(key, path)]
    world.redis.command("HSET", place, "b", "rubbish")
    assert "detail" not in world.status(1, path)
    assert world.count(path) == fetched + 1


def test_a_stream_of_purges_that_was_lost(world, eventually):
    """Nobody knows what was in it."""
    path = anew("/lost")
    fetched = world.put(path, eventually)
    world.redis.command("DEL", "fastgw:cache:purges")
    assert "detail" not in world.status(1, path)
    assert world.count(path) == fetched + 1


def test_the_holder_of_a_lease_dies(world, eventually):
    """Another host had the lease, and does not end it: its time does."""
    path = anew("/dead")
    world.put(path, eventually)
    (place,) = [key for key in keys(world) if world.of(key, path)]
    world.redis.command("DEL", place)
    assert world.redis.command("SET", f"{place}:lease", "somebody", "PX", "60000") == b"+OK\r\n"
    waited, fetched = world.level(1)["waited"], world.count(path)
    client = world.send(1, path)
    eventually(lambda: world.level(1)["waited"] > waited, "it waits", 60)
    assert world.count(path) == fetched
    world.redis.command("PEXPIRE", f"{place}:lease", "50")
    assert client.response().status == 200
    client.close()
    assert world.count(path) == fetched + 1


def test_redis_away(world, eventually):
    """Requests are answered all the same; purges say that they were not told."""
    path = anew("/away")
    fetched = world.put(path, eventually)
    world.redis.kill()
    assert world.ask(1, path).status == 200          # it cannot be looked for
    assert world.count(path) == fetched + 1
    eventually(lambda: world.status(1, path).startswith("fastgw; hit"), "it is kept here", 60)
    assert world.ask(0, path, "PURGE").status == 503
    assert world.ask(1, anew("/post"), "POST", content_length="0").status == 200
    eventually(lambda: world.told(1)["untold"] == 1, "it waits to be told", 60)
    world.redis.start()                              # empty: what it had is gone
    eventually(lambda: world.ask(0, "/nothing", "PURGE").status == 200, "it is told again", 60)
    eventually(lambda: world.told(1)["untold"] == 0, "it was told", 60)

    def back():
        path = anew("/back")
        world.ask(0, path)
        return (world.status(1, path) or "").endswith("detail=redis")

    eventually(back, "the second level is used again", 60)


def test_redis_stands_still(world, eventually):
    path = anew("/still")
    fetched = world.put(path, eventually)
    world.redis.pause()
    try:
        answer = world.ask(1, path)
        assert answer.status == 200
        # somebody else may have let it go on
        assert world.count(path) == fetched + ("detail" not in answer.get("cache-status"))
    finally:
        world.redis.go_on()
