"""`cache`, through sockets: what is kept, for whom, and what becomes of it."""

import itertools
import json
import threading

import pytest
from pydantic import ValidationError

from fastgw.policies.cache import CacheOptions
from fastgw.testing import FakeUpstream
from fastgw.testing.inprocess import GatewayThread
from tests.patience import until

FRESH = "Cache-Control: max-age=60"
STALE = "Cache-Control: max-age=60|Age: 61"
numbers = itertools.count(1)


class Origin:
    """Answers as the request's `X-Say` tells it: header lines with `|` between them, `status=…` and `body=…` among
    them. `X-From` of an answer is the number of the request it was made for."""

    def __init__(self):
        self.seen = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, connection):
        while True:
            request = connection.read_request()
            self.seen.append(request)
            status, lines, body = 200, [], b"hello"
            for line in (request.get("x-say") or "").split("|"):
                if line.startswith("status="):
                    status = int(line[7:])
                elif line.startswith("body="):
                    body = b"x" * int(line[5:])
                elif line == "gate":
                    connection.wait(self.gate)
                elif line == "close":
                    connection.close()
                    return
                elif line:
                    lines.append(line)
            if status in (204, 304):
                body = b""
            else:
                lines.append(f"Content-Length: {len(body)}")
            if status != 304 and request.method != "HEAD":
                lines.append(f"X-From: {request.get('x-number')}")
            head = "\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode("latin-1")
            connection.send(head if request.method == "HEAD" else head + body)


class World:
    def __init__(self, origin, gateway, upstream):
        self.origin, self.gateway, self.upstream = origin, gateway, upstream

    def ask(self, path, say="", method="GET", body=b"", **headers):
        """(status, number of the request its answer was made for, the answer)"""
        with self.gateway.client() as client:
            client.send(self.bytes(path, say, method, body, **headers))
            answer = client.response(method)
        return answer.status, int(answer.get("x-from") or 0), answer

    def bytes(self, path, say="", method="GET", body=b"", number=None, **headers):
        lines = [f"{method} {path} HTTP/1.1", f"Host: {headers.pop('host', 'h')}", f"X-Say: {say}"]
        lines.append(f"X-Number: {number or next(numbers)}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def count(self, path):
        return sum(request.target == path for request in list(self.origin.seen))


@pytest.fixture(scope="module")
def world():
    origin = Origin()
    routes = {
        "plain": {},
        "ttl": {"ttl": "60s", "ttl_by_status": {404: "60s", "5xx": "60s"}},
        "override": {"ttl": "60s", "override": True},
        "cookies": {"set_cookie": "store"},
        "strip": {"set_cookie": "strip"},
        "own": {"per_identity": True},
        "key": {"key": "${request.header.X-Tenant}", "ignore_query": ["utm_*"]},
        "lax": {"honour_clients": False},
        "spare": {"stale_if_error": "60s"},
        "purge": {"purge": {"addresses": ["127.0.0.1"]}, "strip_tags": True},
        "nopurge": {"purge": {"consumers": ["deployer"]}},
        "small": {"max_body": 1000, "cache_status": None},
        "big": {"max_body": "8MiB"},
        "json": {"content_types": ["application/json"]},
    }
    with FakeUpstream(origin) as upstream:
        config = {
            "server": {"listeners": [{"bind": "127.0.0.1:0"}]},
            "observability": {"access_log": {"enabled": False}},
            "services": {"origin": {"endpoints": [upstream.url], "retry": {"attempts": 1}}},
            "routes": [
                {"name": name, "path": f"/{name}/*", "service": "origin", "policies": [{"cache": options}]}
                for name, options in routes.items()
            ],
        }
        with GatewayThread(config) as gateway:
            yield World(origin, gateway, upstream)


@pytest.fixture
def path():
    """A path of its own for each test."""
    return anew("plain")


def anew(route):
    return f"/{route}/{next(numbers)}"


# Steps of a case: what the origin says, the headers of the request; then what is expected: the status, and whose answer
# it is (the number of the step it was made for).
CASES = {
    "fresh": [(FRESH, {}, 200, 0), ("", {}, 200, 0)],
    "says nothing": [("", {}, 200, 0), ("", {}, 200, 1)],
    "stale": [(STALE, {}, 200, 0), ("", {}, 200, 1)],
    "no-store": [("Cache-Control: no-store, max-age=60", {}, 200, 0), ("", {}, 200, 1)],
    "private": [("Cache-Control: private, max-age=60", {}, 200, 0), ("", {}, 200, 1)],
    "an answer with a cookie": [(FRESH + "|Set-Cookie: a=b", {}, 200, 0), ("", {}, 200, 1)],
    "a request with a cookie": [(FRESH, {}, 200, 0), ("", {"Cookie": "a=b"}, 200, 0)],
    "to somebody": [(FRESH, {"Authorization": "x"}, 200, 0), ("", {"Authorization": "x"}, 200, 1)],
    "to somebody, public": [("Cache-Control: public, max-age=60", {"Authorization": "x"}, 200, 0), ("", {}, 200, 0)],
    "no-cache": [("Cache-Control: no-cache|ETag: \"a\"", {}, 200, 0), ("status=304|ETag: \"a\"", {}, 200, 0)],
    "revalidated": [
        (STALE + '|ETag: "a"', {}, 200, 0), ('status=304|ETag: "a"|' + FRESH, {}, 200, 0), ("", {}, 200, 0),
    ],
    "replaced": [(STALE + '|ETag: "a"', {}, 200, 0), (FRESH, {}, 200, 1), ("", {}, 200, 1)],
    "by date": [(STALE + "|Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", {}, 200, 0), ("status=304", {}, 200, 0)],
    "a client asks anew": [(FRESH, {}, 200, 0), (FRESH, {"Cache-Control": "no-cache"}, 200, 1), ("", {}, 200, 1)],
    "Pragma": [(FRESH, {}, 200, 0), (FRESH, {"Pragma": "no-cache"}, 200, 1)],
    "Pragma beside Cache-Control": [(FRESH, {}, 200, 0), ("", {"Pragma": "no-cache", "Cache-Control": "x"}, 200, 0)],
    "a client's no-store": [(FRESH, {"Cache-Control": "no-store"}, 200, 0), ("", {}, 200, 1)],
    "max-age of a client": [(FRESH + "|Age: 30", {}, 200, 0), ("", {"Cache-Control": "max-age=20"}, 200, 1)],
    "max-stale of a client": [(STALE, {}, 200, 0), ("", {"Cache-Control": "max-stale=9"}, 200, 0)],
    "max-stale is too little": [(STALE + "|X: y", {}, 200, 0), ("", {"Cache-Control": "max-stale=0"}, 200, 1)],
    "must-revalidate": [
        ("Cache-Control: max-age=60, must-revalidate|Age: 61|ETag: a", {}, 200, 0),
        ("", {"Cache-Control": "max-stale"}, 200, 1),
    ],
    "min-fresh of a client": [(FRESH, {}, 200, 0), ("", {"Cache-Control": "min-fresh=90"}, 200, 1)],
    "only-if-cached": [("", {"Cache-Control": "only-if-cached"}, 504, None)],
    "only-if-cached, and it is": [(FRESH, {}, 200, 0), ("", {"Cache-Control": "only-if-cached"}, 200, 0)],
    "If-None-Match": [(FRESH + '|ETag: "a"', {}, 200, 0), ("", {"If-None-Match": 'W/"a"'}, 304, 0)],
    "If-None-Match of another": [(FRESH + '|ETag: "a"', {}, 200, 0), ("", {"If-None-Match": '"b"'}, 200, 0)],
    "If-None-Match of what comes": [(FRESH + '|ETag: "a"', {"If-None-Match": '"a"'}, 304, 0), ("", {}, 200, 0)],
    "If-None-Match of what still holds": [
        (STALE + '|ETag: "a"', {}, 200, 0), ("status=304|ETag: \"a\"", {"If-None-Match": '"a"'}, 304, 0),
    ],
    "If-Modified-Since": [
        (FRESH + "|Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", {}, 200, 0),
        ("", {"If-Modified-Since": "Sunday, 06-Nov-94 08:49:37 GMT"}, 304, 0),
    ],
    "a range": [(FRESH, {}, 200, 0), ("", {"Range": "bytes=1-2"}, 206, 0)],
    "no such range": [(FRESH, {}, 200, 0), ("", {"Range": "bytes=9-"}, 416, 0)],
    "If-Range": [(FRESH + '|ETag: "a"', {}, 200, 0), ("", {"Range": "bytes=1-2", "If-Range": '"a"'}, 206, 0)],
    "If-Range of another": [(FRESH + '|ETag: "a"', {}, 200, 0), ("", {"Range": "bytes=1-", "If-Range": '"b"'}, 200, 0)],
    "If-Range, weakly": [
        (FRESH + '|ETag: W/"a"', {}, 200, 0), ("", {"Range": "bytes=1-", "If-Range": 'W/"a"'}, 200, 0),
    ],
    "a part is not kept": [
        (FRESH + "|status=206|Content-Range: bytes 0-4/9", {"Range": "bytes=0-4"}, 206, 0), ("", {}, 200, 1),
    ],
    "Vary": [
        (FRESH + "|Vary: Foo, BAR", {"Foo": "1"}, 200, 0), ("", {"Foo": "1"}, 200, 0), (FRESH + "|Vary: foo,bar",
         {"Foo": "2"}, 200, 2), ("", {"Foo": "1"}, 200, 0), ("", {"Foo": "2"}, 200, 2),
        ("", {"Foo": "1", "Bar": ""}, 200, 5),
    ],
    "Vary: *": [(FRESH + "|Vary: *", {}, 200, 0), ("", {}, 200, 1)],
    "Vary, normalised": [
        (FRESH + "|Vary: Accept-Encoding", {"Accept-Encoding": "gzip, br"}, 200, 0),
        ("", {"Accept-Encoding": "BR,gzip"}, 200, 0),
    ],
    "an error that says how long": [(FRESH + "|status=404", {}, 404, 0), ("", {}, 404, 0)],
    "an error": [("status=404", {}, 404, 0), ("", {}, 200, 1)],
    "stale-if-error": [
        ("Cache-Control: max-age=60, stale-if-error=60|Age: 61", {}, 200, 0), ("status=503", {}, 200, 0),
    ],
    "stale-if-error, and it breaks": [
        ("Cache-Control: max-age=60, stale-if-error=60|Age: 61", {}, 200, 0), ("close", {}, 200, 0),
    ],
    "no stale-if-error": [(STALE, {}, 200, 0), ("status=503", {}, 503, 1)],
    "an error of the client is its own": [
        ("Cache-Control: max-age=60, stale-if-error=60|Age: 61", {}, 200, 0), ("status=404", {}, 404, 1),
    ],
    "s-maxage": [("Cache-Control: max-age=0, s-maxage=60", {}, 200, 0), ("", {}, 200, 0)],
    "CDN-Cache-Control": [("Cache-Control: no-store|CDN-Cache-Control: max-age=60", {}, 200, 0), ("", {}, 200, 0)],
    "must-understand": [("Cache-Control: no-store, must-understand, max-age=60", {}, 200, 0), ("", {}, 200, 0)],
    "an empty answer": [(FRESH + "|status=204", {}, 204, 0), ("", {}, 204, 0)],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_cases(world, path, name):
    made = []
    for say, headers, status, whose in CASES[name]:
        made.append(next(numbers))
        found, came_from, answer = world.ask(path, say, number=made[-1], **headers)
        assert found == status, (len(made), answer.headers)
        if whose is not None:
            assert came_from == made[whose], (len(made), answer.headers)


@pytest.mark.parametrize(
    ("route", "steps"),
    [
        ("ttl", [("", 200, 0), ("", 200, 0)]),
        ("ttl", [("status=404", 404, 0), ("", 404, 0)]),
        ("ttl", [("status=500", 500, 0), ("", 500, 0)]),
        ("ttl", [("status=302", 302, 0), ("", 200, 1)]),
        ("ttl", [("Cache-Control: no-store", 200, 0), ("", 200, 1)]),
        ("override", [("Cache-Control: no-store", 200, 0), ("", 200, 0)]),
        ("override", [("Cache-Control: private", 200, 0), ("", 200, 1)]),
        ("cookies", [(FRESH + "|Set-Cookie: a=b", 200, 0), ("", 200, 0)]),
        ("spare", [(STALE, 200, 0), ("status=502", 200, 0)]),
        ("small", [(FRESH + "|body=1001", 200, 0), ("", 200, 1)]),
        ("json", [(FRESH, 200, 0), ("", 200, 1)]),
        ("json", [(FRESH + "|Content-Type: application/json; x=y", 200, 0), ("", 200, 0)]),
    ],
)
def test_options(world, route, steps):
    made, path = [], anew(route)
    for say, status, whose in steps:
        made.append(next(numbers))
        assert world.ask(path, say, number=made[-1])[:2] == (status, made[whose]), len(made)


def test_what_a_hit_says(world, path):
    lines = '|ETag: "a"|Age: 7|Connection: X-Hop|X-Hop: 1|Proxy-Authenticate: x|A: 1|A: 2'
    _, number, first = world.ask(path, FRESH + lines)
    _, again, hit = world.ask(path)
    assert again == number and hit.body == b"hello"
    assert first.get("cache-status") == "fastgw; fwd=uri-miss; fwd-status=200; stored"
    assert hit.get("cache-status").startswith("fastgw; hit; ttl=5")
    assert 7 <= int(hit.get("age")) < 60
    assert hit.all("a") == ["1", "2"] and hit.get("date") == first.get("date")
    assert hit.get("x-hop") is None and hit.get("proxy-authenticate") is None
    assert world.ask(path, method="HEAD")[2].get("content-length") == "5"


def test_named_headers_are_not_for_others(world, path):
    world.ask(path, 'Cache-Control: max-age=60, no-cache="a", private="b"|A: 1|B: 2|C: 3')
    _, _, hit = world.ask(path)
    assert (hit.get("a"), hit.get("b"), hit.get("c")) == (None, None, "3")


def test_cookies_are_taken_out_of_what_is_kept(world):
    path = anew("strip")
    assert world.ask(path, FRESH + "|Set-Cookie: a=b")[2].get("set-cookie") == "a=b"
    assert world.ask(path)[2].get("set-cookie") is None


def test_no_cache_status(world):
    path = anew("small")
    assert world.ask(path, FRESH)[2].get("cache-status") is None
    assert world.ask(path)[2].get("cache-status") is None


def test_several_ranges(world, path):
    world.ask(path, FRESH + "|body=30|Content-Type: text/plain")
    status, _, answer = world.ask(path, Range="bytes=0-1, 28-")
    boundary = answer.get("content-type").removeprefix("multipart/byteranges; boundary=")
    part = f"--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes %s/30\r\n\r\nxx\r\n"
    assert status == 206
    assert answer.body.decode() == f"\r\n{part % '0-1'}{part % '28-29'}--{boundary}--\r\n"


def test_a_304_brings_new_fields(world, path):
    world.ask(path, STALE + '|ETag: "a"|X-A: 1|X-B: 1')
    _, _, answer = world.ask(path, f'status=304|{FRESH}|ETag: "a"|X-A: 2|X-C: 3')
    _, _, hit = world.ask(path)
    for each in (answer, hit):
        assert (each.get("x-a"), each.get("x-b"), each.get("x-c"), each.body) == ("2", "1", "3", b"hello")
    asked = [request for request in world.origin.seen if request.target == path]
    assert len(asked) == 2 and asked[1].get("if-none-match") == '"a"'


@pytest.mark.parametrize("size", [100_000, 1_500_000])
def test_large_answers_come_from_the_storage(world, size):
    path = anew("big")
    world.ask(path, FRESH + f'|body={size}|ETag: "a"')
    for _ in range(2):
        assert world.ask(path)[2].body == b"x" * size
    status, _, part = world.ask(path, Range=f"bytes=10-{size - 11}")
    assert status == 206 and len(part.body) == size - 20
    # and in the place of news that they hold, and of a failure
    stale = anew("big")
    world.ask(stale, f'Cache-Control: max-age=60, stale-if-error=60|Age: 61|body={size}|ETag: "a"')
    assert len(world.ask(stale, 'status=304|ETag: "a"|Age: 61')[2].body) == size
    assert len(world.ask(stale, "status=503")[2].body) == size
    assert world.count(path) == 1 and world.count(stale) == 3


def test_a_slow_client_holds_nobody_up(world):
    path = anew("big")
    size = 1_500_000
    world.ask(path, FRESH + f"|body={size}")
    with world.gateway.client() as slow:
        slow.send(world.bytes(path))
        for _ in range(3):
            assert len(world.ask(path)[2].body) == size
        assert len(slow.response().body) == size


def test_unsafe_methods_forget(world, path):
    for method in ("POST", "DELETE", "PATCH"):
        first = world.ask(path, FRESH)[1]
        assert world.ask(path)[1] == first
        world.ask(path, "status=500", method, b"x")
        assert world.ask(path)[1] == first
        world.ask(path, "status=201", method, b"x")
        second = world.ask(path, FRESH)[1]
        assert second != first
        world.ask(path + "/other", f"Location: {path}|Content-Location: http://elsewhere{path}", method, b"x")
        assert world.ask(path, "Cache-Control: no-store")[1] != second


def test_another_host_is_not_to_be_forgotten(world, path):
    first = world.ask(path, FRESH)[1]
    world.ask(path + "/other", f"Content-Location: http://elsewhere{path}", "POST", b"x")
    assert world.ask(path)[1] == first
    assert world.ask(path, FRESH, host="elsewhere")[1] != first


def test_head_tells_of_what_is_kept(world, path):
    first = world.ask(path, STALE + '|ETag: "a"')[1]
    world.ask(path, FRESH + '|ETag: "a"', "HEAD")
    assert world.ask(path)[1] == first
    other = path + "/other"
    world.ask(other, STALE + '|ETag: "a"')
    world.ask(other, FRESH + '|ETag: "b"', "HEAD")
    assert world.ask(other, "status=304")[0] == 304


def test_each_has_his_own(world):
    path = anew("own")
    made = {who: world.ask(path, "Cache-Control: private, max-age=60", Authorization=who)[1] for who in ("a", "b")}
    assert made["a"] != made["b"]
    assert {who: world.ask(path, Authorization=who)[1] for who in ("a", "b")} == made
    assert world.ask(path, FRESH)[1] not in made.values()


def test_the_key(world):
    path = anew("key")
    first = world.ask(path + "?a=1&utm_source=x", FRESH, X_Tenant="t")[1]
    assert world.ask(path + "?utm_campaign=y&a=1", X_Tenant="t")[1] == first
    assert world.ask(path + "?a=2", X_Tenant="t")[1] != first
    assert world.ask(path + "?a=1", X_Tenant="u")[1] != first


def test_clients_may_be_ignored(world):
    path = anew("lax")
    first = world.ask(path, FRESH)[1]
    assert world.ask(path, FRESH, Cache_Control="no-cache", Pragma="no-cache")[1] == first


def test_purge(world):
    path = anew("purge")
    first = world.ask(path, FRESH + "|Vary: A|Surrogate-Key: x y", A="1")
    assert first[2].get("surrogate-key") is None
    _, _, told = world.ask(path, method="PURGE")
    assert json.loads(told.body) == {"purged": 2}
    second = world.ask(path, FRESH + "|Surrogate-Key: x y|Cache-Tag: z")[1]
    assert second != first[1]
    assert json.loads(world.ask("/purge/any", method="PURGE", Cache_Tag="q")[2].body) == {"purged": 0}
    assert json.loads(world.ask("/purge/any", method="PURGE", Surrogate_Key="q y")[2].body) == {"purged": 1}
    third = world.ask(path, FRESH + '|Cache-Tag: a, z|ETag: "a"')[1]
    assert third != second
    assert json.loads(world.ask("/purge/any", method="PURGE", Cache_Tag="z", Soft_Purge="1")[2].body) == {"purged": 1}
    assert world.ask(path, 'status=304|ETag: "a"')[1] == third
    status, _, refused = world.ask("/nopurge/x", method="PURGE")
    assert (status, json.loads(refused.body)["code"]) == (403, "forbidden")


def crowd(world, path, say, count, number, **headers):
    """So many ask for the same while the origin thinks; gives their clients once the first request is there."""
    def active():
        return world.gateway.call(lambda: world.gateway.gateway.plane.engine.active)

    world.origin.gate.clear()
    before = active()
    clients = [world.gateway.client() for _ in range(count)]
    for client in clients:
        client.send(world.bytes(path, "gate|" + say, number=number, **headers))
    until(lambda: world.count(path), "the first is not there")
    until(lambda: active() >= before + count, "those who wait are not there")
    return clients


def answers(clients):
    found = [client.response() for client in clients]
    for client in clients:
        client.close()
    return found


def test_one_fetches_for_all(world, path):
    clients = crowd(world, path, FRESH, 30, 7)
    world.origin.gate.set()
    found = answers(clients)
    assert [each.status for each in found] == [200] * 30 and {bytes(each.body) for each in found} == {b"hello"}
    assert world.count(path) == 1
    assert sum("collapsed" in each.get("cache-status") for each in found) == 29


def test_what_is_not_kept_each_fetches(world, path):
    clients = crowd(world, path, "Cache-Control: private", 10, 7)
    world.origin.gate.set()
    assert {each.status for each in answers(clients)} == {200}
    assert world.count(path) == 10
    assert "bypass" in world.ask(path)[2].get("cache-status")


def test_nobody_waits_for_somebody_elses_answer(world, path):
    clients = crowd(world, path, FRESH, 3, 7, Authorization="a") + crowd(world, path, FRESH, 3, 7, Authorization="b")
    until(lambda: world.count(path) >= 2, "those of another identity wait")
    world.origin.gate.set()
    answers(clients)
    assert world.count(path) == 6


def test_who_leaves_hands_on(world, path):
    clients = crowd(world, path, FRESH, 5, 7)
    clients[0].close()
    until(lambda: world.count(path) == 2, "the next one does not fetch")
    world.origin.gate.set()
    assert {each.status for each in answers(clients[1:])} == {200}
    assert world.count(path) == 2


def test_a_failure_is_told_to_all(world, path):
    clients = crowd(world, path, "close", 5, 7)
    world.origin.gate.set()
    assert {each.status for each in answers(clients)} == {502}
    assert world.count(path) <= 2


def test_an_old_answer_leaves_while_a_new_one_is_fetched(world, path):
    say = "Cache-Control: max-age=60, stale-while-revalidate=60|Age: 61"
    first = world.ask(path, say, number=1001)[1]
    assert world.ask(path, FRESH, number=1002)[1] == first
    until(lambda: world.ask(path, FRESH, number=1003)[1] == 1002, "it is not fetched")
    assert world.count(path) == 2


def test_options_that_contradict_each_other():
    for options, what in (
        ({"override": True}, "without a lifetime"),
        ({"ttl_by_status": {206: "1s"}}, "parts of others"),
        ({"query": False, "ignore_query": ["a"]}, "ignore_query"),
        ({"purge": {}}, "nobody may purge"),
        ({"cache_status": "a b"}, "Cache-Status"),
        ({"content_types": ["json"]}, "Content-Type"),
        ({"ignore_query": ["a*b"]}, "parameter"),
    ):
        with pytest.raises(ValidationError, match=what):
            CacheOptions(**options)


def test_policies_on_both_sides(tmp_path, monkeypatch):
    """Those behind the cache see what goes to the service, and what they make of it is kept; those before it see every
    answer."""
    (tmp_path / "sides_of_the_cache.py").write_text(SIDES)
    monkeypatch.syspath_prepend(tmp_path)
    origin = Origin()
    with FakeUpstream(origin) as upstream:
        config = {
            "observability": {"access_log": {"enabled": False}},
            "services": {"origin": upstream.url},
            "routes": [
                {
                    "name": "sides",
                    "path": "/*",
                    "service": "origin",
                    "policies": ["sides_of_the_cache:Before", "cache", "sides_of_the_cache:Behind"],
                }
            ],
        }
        with GatewayThread(config) as gateway:
            world = World(origin, gateway, upstream)
            for say, behind in (
                (FRESH + '|ETag: "a"', "1"), ("", "1"), ('status=304|ETag: "a"|' + FRESH, "2"), ("", "2"),
            ):  # fmt: skip
                headers = {"Cache-Control": "no-cache"} if "304" in say else {}
                _, _, answer = world.ask("/x", say, **headers)
                assert bytes(answer.body) == b"hello<in><out>", say
                assert (answer.get("x-before"), answer.get("x-behind")) == ("yes", behind)
            assert [request.get("x-asked") for request in origin.seen] == ["1", "2"]


SIDES = """
from fastgw import Policy

class Before(Policy):
    name = "before"
    def response_head(self, exchange):
        exchange.response.set("X-Before", "yes")
    def response_body(self, exchange, chunk, end):
        return chunk + b"<out>" if end else chunk

class Behind(Policy):
    name = "behind"
    count = 0
    def request(self, exchange):
        Behind.count += 1
        exchange.request.set("X-Asked", str(Behind.count))
    def response_head(self, exchange):
        exchange.response.set("X-Behind", str(Behind.count))
    def response_body(self, exchange, chunk, end):
        return chunk + b"<in>" if end else chunk
"""
