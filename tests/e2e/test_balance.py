"""Ways to choose an endpoint, from YAML through real workers."""

import json
import threading
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from fastgw.testing import FakeUpstream, GatewayProcess, free_port
from tests.e2e.test_tcp import Far, connect

COUNT = 4


def named(number):
    """Answers with its number."""

    def play(connection):
        while True:
            connection.read_request()
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)

    return play


def held(number, go):
    def play(connection):
        while True:
            connection.read_request()
            connection.wait(go)
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)

    return play


def configuration(urls, workers):
    zones = [{"url": url, "zone": zone} for url, zone in zip(urls, ["b", "a", "b", "a"], strict=True)]
    labels = [{"url": url, "labels": {"version": f"v{i // 2}"}} for i, url in enumerate(urls)]
    balances = {
        "least": {"endpoints": urls[:2], "balance": "least_requests"},
        "fast": {"endpoints": urls[:2], "balance": {"type": "ewma", "decay": "60s"}},
        "user": {"endpoints": urls, "balance": {"type": "consistent_hash", "hash_on": "${request.header.X-User}"}},
        "part": {"endpoints": urls, "balance": {"type": "consistent_hash", "hash_on": "${route.params.id}"}},
        "sticky": {"endpoints": urls, "balance": {"sticky": {"cookie": "lb", "max_age": "1h", "same_site": "strict"}}},
        "zone": {"endpoints": zones},
        "version": {"endpoints": labels, "balance": {"type": "random", "labels": {"version": "v1"}}},
        "subset": {"endpoints": urls, "balance": {"subset": 2}},
    }
    paths = {"part": "/part/{id}/*"}
    return {
        "server": {"listeners": ["127.0.0.1:${FASTGW_PORT}"], "workers": workers, "zone": "a"},
        "observability": {"access_log": {"enabled": False}},
        "services": balances,
        "routes": [{"name": name, "path": paths.get(name, f"/{name}/*"), "service": name} for name in balances],
    }


@pytest.fixture(scope="module")
def world():
    with ExitStack() as stack:
        ups = [stack.enter_context(FakeUpstream(named(i))) for i in range(COUNT)]
        gateway = stack.enter_context(GatewayProcess(configuration([up.url for up in ups], workers=2)))
        yield gateway, ups


def ask(gateway, path, *headers):
    """From a connection of its own, so that either worker may have it."""
    with gateway.client() as client:
        lines = "".join(f"{line}\r\n" for line in headers)
        answer = client.request(f"GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
        assert answer.status == 200, answer
        return answer


def asked(gateway, path, *headers):
    return int(ask(gateway, path, *headers).body)


def test_the_same_header_finds_the_same_endpoint_in_every_worker(world):
    gateway, _ = world
    users = [f"user-{i}" for i in range(24)]
    first = {user: asked(gateway, "/user/x", f"X-User: {user}") for user in users}
    assert len(set(first.values())) == COUNT
    for _ in range(5):
        assert {user: asked(gateway, "/user/x", f"X-User: {user}") for user in users} == first


def test_and_after_a_restart(world):
    gateway, ups = world
    users = [f"user-{i}" for i in range(12)]
    first = [asked(gateway, "/user/x", f"X-User: {user}") for user in users]
    with GatewayProcess(configuration([up.url for up in reversed(ups)], workers=1)) as other:
        assert [asked(other, "/user/x", f"X-User: {user}") for user in users] == first


def test_a_part_of_the_path_as_the_key(world):
    gateway, _ = world
    for item in ("17", "18", "19"):
        assert len({asked(gateway, f"/part/{item}/{i}") for i in range(6)}) == 1
    assert len({asked(gateway, f"/part/{i}/x") for i in range(30)}) == COUNT


def test_who_is_busy_gets_less(world):
    gateway, ups = world
    go = threading.Event()
    ups[0].forget()
    ups[1].forget()
    ups[0].script(held(0, go))
    ups[0].kill_connections(with_reset=False)
    ups[0].wait_for(lambda: ups[0].open_connections() == 0, "its connections to end")
    try:
        with ExitStack() as stack:
            # enough for both workers to have a request under way at the one that holds them
            for _ in range(40):
                client = stack.enter_context(gateway.client())
                client.send(b"GET /least/x HTTP/1.1\r\nHost: a\r\n\r\n")
            ups[0].wait_for(lambda: len(ups[0].requests) + len(ups[1].requests) == 40, "all of them to be asked for")
            assert len(ups[0].requests) >= 2
            ups[1].settle()
            got = Counter(asked(gateway, "/least/x") for _ in range(60))
            assert got[1] == 60
    finally:
        go.set()
        ups[0].script(named(0))


def test_who_is_slow_gets_less(world):
    gateway, ups = world
    go = threading.Event()

    def slow(connection):
        while True:
            connection.read_request()
            go.wait(0.3)
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n0")

    ups[0].script(slow)
    ups[0].kill_connections(with_reset=False)
    try:
        got = Counter(asked(gateway, "/fast/x") for _ in range(80))
        assert got[0] <= 16 and got[1] >= 64        # half of them without it; others may be slow for a moment
    finally:
        go.set()
        ups[0].script(named(0))
        ups[0].kill_connections(with_reset=False)


def test_a_cookie_brings_the_client_back(world):
    gateway, _ = world
    for _ in range(6):
        first = ask(gateway, "/sticky/x")
        (cookie,) = first.all("set-cookie")
        value, _, attributes = cookie.partition("; ")
        assert attributes == "Path=/; HttpOnly; SameSite=Strict; Max-Age=3600"
        for _ in range(4):
            again = ask(gateway, "/sticky/x", f"Cookie: {value}")
            assert again.body == first.body and "set-cookie" not in again
    assert "set-cookie" not in ask(gateway, "/zone/x")


def test_a_cookie_outlives_a_reload(world):
    gateway, _ = world
    first = ask(gateway, "/sticky/x")
    value = first.get("set-cookie").partition(";")[0]
    status, _ = gateway.admin("/config/reload", "POST")
    assert status == 200
    assert {asked(gateway, "/sticky/x", f"Cookie: {value}") for _ in range(8)} == {int(first.body)}


def test_the_own_zone_and_labels_and_a_subset(world):
    gateway, _ = world
    assert {asked(gateway, "/zone/x") for _ in range(20)} == {1, 3}
    assert {asked(gateway, "/version/x") for _ in range(40)} == {2, 3}
    assert len({asked(gateway, "/subset/x") for _ in range(20)}) == 2


def test_a_connection_that_died_is_not_asked_again(world):
    """The second attempt of an idempotent request goes to another endpoint."""
    gateway, ups = world
    turn = {asked(gateway, "/user/x", "X-User: retry")}
    (at,) = turn

    def dies(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % at)
        connection.read_request()
        connection.reset()

    ups[at].script(dies)
    ups[at].kill_connections(with_reset=False)
    try:
        with gateway.client() as client:
            request = b"GET /user/x HTTP/1.1\r\nHost: a\r\nX-User: retry\r\n\r\n"
            assert int(client.request(request).body) == at
            assert int(client.request(request).body) != at
    finally:
        ups[at].script(named(at))
        ups[at].kill_connections(with_reset=False)


def test_endpoints_that_discovery_tells_are_hashed(tmp_path):
    """A set that changes while the workers serve: each fills its table meanwhile, and both come to the same."""
    with ExitStack() as stack:
        ups = [stack.enter_context(FakeUpstream(named(i))) for i in range(COUNT)]
        found = tmp_path / "endpoints.yaml"
        found.write_text(f"[{', '.join(up.url for up in ups[:3])}]")
        balance = {"type": "consistent_hash", "hash_on": "${request.header.X-User}"}
        config = {
            "server": {"listeners": ["127.0.0.1:${FASTGW_PORT}"], "workers": 2},
            "observability": {"access_log": {"enabled": False}},
            "services": {"s": {"discovery": {"type": "file", "path": str(found)}, "balance": balance}},
            "routes": [{"path": "/*", "service": "s"}],
        }
        gateway = stack.enter_context(GatewayProcess(config))
        users = [f"user-{i}" for i in range(60)]

        def everybody():
            return {user: asked(gateway, "/x", f"X-User: {user}") for user in users}

        before = everybody()
        # the first endpoints are hashed without a table for some milliseconds
        while (again := everybody()) != before:
            before = again
        assert set(before.values()) == {0, 1, 2}
        other = tmp_path / "new.yaml"
        other.write_text(f"[{', '.join(up.url for up in ups)}]")
        other.replace(found)
        end = time.monotonic() + 60
        after = everybody()
        # a stable answer, with the new one in it, from whichever worker is asked
        while 3 not in after.values() or any(everybody() != after for _ in range(3)):
            assert time.monotonic() < end
            after = everybody()
        stayed = sum(before[user] == after[user] for user in users)
        assert stayed >= len(users) * 0.55           # a quarter moves to the new one, few others


def test_tcp_connections_are_balanced_and_endpoints_ejected():
    with ExitStack() as stack:
        fars = [stack.enter_context(Far()) for _ in range(2)]
        dead = free_port()
        config = {
            "server": {
                "listeners": [
                    {"bind": "127.0.0.1:${FASTGW_PORT}", "protocol": "tcp", "tcp": "least"},
                    {"bind": f"127.0.0.1:{(other := free_port())}", "protocol": "tcp", "tcp": "some"},
                ],
                "workers": 1,
            },
            "observability": {"access_log": {"enabled": False}},
            "services": {
                "least": {"endpoints": [far.url for far in fars], "balance": "least_requests"},
                "some": {
                    "endpoints": [fars[0].url, f"tcp://127.0.0.1:{dead}"],
                    "outliers": {"consecutive_failures": 2},
                },
            },
        }
        config["routes"] = []
        gateway = stack.enter_context(GatewayProcess(config))
        for _ in range(10):
            stack.enter_context(connect(gateway.port))
        for far in fars:
            for _ in range(5):
                stack.enter_context(far.next())
        for _ in range(6):
            # the dead one is tried, and the next one takes it: until it is ejected
            stack.enter_context(connect(other))
            stack.enter_context(fars[0].next())
        rows = json.loads(gateway.admin("/services/some/endpoints")[1])
        assert [row["state"] for row in rows] == ["unchecked", "ejected"]
        assert rows[1]["connect_errors"] == 2
