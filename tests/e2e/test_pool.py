"""Connections to upstreams: how many, who waits, which are used again, and what is repeated silently."""

import select
import threading

import pytest

from fastgw.testing import CuttingProxy, FakeUpstream, GatewayProcess, answer, close_without_answer
from tests.e2e.conftest import answer_ok
from tests.e2e.test_proxying import get, problem

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answered_when(go):
    def play(connection):
        while True:
            connection.read_request()
            connection.wait(go)
            connection.send(OK)

    return play


def test_one_connection_one_in_the_queue_the_rest_refused(world):
    go = threading.Event()
    world.pool.script(answered_when(go))
    with world.client() as first, world.client() as second, world.client() as third:
        first.send(get("/pool/1"))
        world.pool.wait_requests(1)
        second.send(get("/pool/other"))
        third.send(get("/pool/other"))
        # one of the two waits, the other is refused at once
        readable, _, _ = select.select([second.sock, third.sock], [], [], 60)
        refused, waiting = (second, third) if second.sock in readable else (third, second)
        assert problem(refused.response()) == (503, "pool_exhausted", "gateway")
        go.set()
        assert first.response().status == 200
        assert waiting.response().status == 200
    assert [r.target for r in world.pool.requests] == ["/pool/1", "/pool/other"]
    assert len(world.pool.connections) == 1


def test_who_waits_too_long_in_the_queue_is_told_so(world):
    go = threading.Event()
    world.pool.script(answered_when(go))
    with world.client() as first, world.client() as second:
        first.send(get("/pool/1"))
        world.pool.wait_requests(1)
        assert problem(second.request(get("/pool/2"))) == (503, "queue_timeout", "gateway")
        # it was never sent, and the connection of the client is still good
        go.set()
        assert first.response().status == 200
        assert second.request(get("/pool/3")).status == 200
    assert [r.target for r in world.pool.requests] == ["/pool/1", "/pool/3"]


def test_a_client_that_leaves_the_queue_makes_room(world):
    go = threading.Event()
    world.pool.script(answered_when(go))
    with world.client() as first, world.client() as third:
        first.send(get("/pool/1"))
        world.pool.wait_requests(1)
        with world.client() as second:
            second.send(get("/pool/2"))
            second.reset()
        third.send(get("/pool/3"))
        go.set()
        assert first.response().status == 200
        assert third.response().status == 200
    assert "/pool/2" not in [r.target for r in world.pool.requests]


def test_a_get_on_a_reused_connection_that_died_is_repeated_once_silently(world):
    def answer_once_then_die(connection):
        connection.read_request()
        connection.send(OK)
        connection.read_request()

    world.up.script(answer_once_then_die, answer_ok)
    with world.client() as client:
        assert client.request(get("/up/1")).status == 200
        assert client.request(get("/up/2")).status == 200
    assert [r.target for r in world.up.requests] == ["/up/1", "/up/2", "/up/2"]
    assert len(world.up.connections) == 2


def test_a_get_on_a_reused_connection_that_was_reset_is_repeated(world):
    def answer_once_then_reset(connection):
        connection.read_request()
        connection.send(OK)
        connection.read_request()
        connection.reset()

    world.up.script(answer_once_then_reset, answer_ok)
    with world.client() as client:
        assert client.request(get("/up/1")).status == 200
        assert client.request(get("/up/2")).status == 200


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_is_not_idempotent_is_never_repeated(world, method):
    def answer_once_then_die(connection):
        connection.read_request()
        connection.send(OK)
        connection.read_request()

    world.up.script(answer_once_then_die, answer_ok)
    with world.client() as client:
        assert client.request(get("/up/1")).status == 200
        failed = client.request(get("/up/2", "Content-Length: 0\r\n", method=method))
        assert problem(failed) == (502, "upstream_reset", "upstream")
        assert client.request(get("/up/3")).status == 200
    assert [r.target for r in world.up.requests] == ["/up/1", "/up/2", "/up/3"]


def test_a_fresh_connection_that_dies_is_not_tried_again(world):
    world.up.script(close_without_answer)
    with world.client() as client:
        assert problem(client.request(get("/up/"))) == (502, "upstream_reset", "upstream")
    assert len(world.up.connections) == 1


def test_after_the_first_byte_of_an_answer_nothing_is_repeated(world):
    def answer_once_then_half(connection):
        connection.read_request()
        connection.send(OK)
        connection.read_request()
        connection.send(b"HTTP/1.1 2")

    world.up.script(answer_once_then_half, answer_ok)
    with world.client() as client:
        assert client.request(get("/up/1")).status == 200
        assert client.request(get("/up/2")).status == 502
    assert [r.target for r in world.up.requests] == ["/up/1", "/up/2"]


def test_an_idle_connection_that_the_upstream_closed_is_not_used(world):
    def answer_once(connection):
        connection.read_request()
        connection.send(OK)

    world.up.script(answer_once)
    with world.client() as client:
        for number in range(5):
            post = get(f"/up/{number}", "Content-Length: 0\r\n", method="POST")
            assert client.request(post).status == 200
            world.up.wait_for(lambda: world.up.open_connections() == 0, "its connections to end")
    assert len(world.up.connections) == 5


def test_the_last_used_connection_is_used_first(world):
    go = threading.Event()
    world.up.script(answered_when(go))
    clients = [world.client() for _ in range(3)]
    try:
        for number, client in enumerate(clients):
            client.send(get(f"/up/{number}"))
            world.up.wait_requests(number + 1)
        go.set()
        for client in clients:
            assert client.response().status == 200
        for number in range(4):
            assert clients[0].request(get(f"/up/again/{number}")).status == 200
        used = [c for c in world.up.connections if any("again" in r.target for r in c.requests)]
        assert len(used) == 1
    finally:
        for client in clients:
            client.close()


def test_idle_connections_are_closed_after_their_time():
    with FakeUpstream() as up:
        service = {"endpoints": [up.url], "pool": {"idle_timeout": "200ms"}}
        config = {"services": {"up": service}, "routes": [{"path": "/*", "service": "up"}]}
        with GatewayProcess(config) as gateway, gateway.client() as client:
            assert client.request(get("/up/")).status == 200
            up.wait_for(up.connections[0].ended.is_set, "the gateway to close")
            assert client.request(get("/up/")).status == 200
            assert len(up.connections) == 2


def test_no_more_idle_connections_than_allowed():
    go = threading.Event()
    with FakeUpstream(answered_when(go)) as up:
        service = {"endpoints": [up.url], "pool": {"max_idle": 1}}
        config = {"services": {"up": service}, "routes": [{"path": "/*", "service": "up"}]}
        with GatewayProcess(config) as gateway:
            clients = [gateway.client() for _ in range(4)]
            for client in clients:
                client.send(get("/"))
            up.wait_requests(4)
            go.set()
            for client in clients:
                assert client.response().status == 200
                client.close()
            up.wait_for(lambda: up.open_connections() == 1, "all but one to be closed")


def test_a_connection_that_is_cut_while_idle_costs_nobody_anything():
    with FakeUpstream(answer(OK)) as up, CuttingProxy(up.address) as proxy:
        config = {"services": {"up": proxy.url}, "routes": [{"path": "/*", "service": "up"}]}
        with GatewayProcess(config) as gateway, gateway.client() as client:
            for _ in range(10):
                assert client.request(get("/")).status == 200
                assert proxy.cut_all() > 0
