"""Every wait has an end, and every end its own code."""

import contextlib
import time

import pytest

from fastgw.testing import FakeUpstream, GatewayProcess, Incomplete, hang
from tests.e2e.test_proxying import get, problem
from tests.patience import until


def given_up(upstream):
    """The gateway has ended the connection."""
    upstream.wait_for(
        lambda: upstream.connections and upstream.connections[0].ended.is_set(), "the gateway to give up"
    )


def test_connect_refused(world):
    with world.client() as client:
        assert problem(client.request(get("/refused"))) == (502, "upstream_connect_failed", "upstream")
        assert client.request(get("/up/")).status == 200


def test_no_such_unix_socket(world):
    with world.client() as client:
        assert problem(client.request(get("/no-socket"))) == (502, "upstream_connect_failed", "upstream")


def test_connect_takes_too_long(world):
    began = time.monotonic()
    with world.client() as client:
        assert problem(client.request(get("/full"))) == (504, "upstream_connect_timeout", "upstream")
    assert time.monotonic() - began > 0.9


def test_no_answer_in_time(world):
    world.times.script(hang)
    began = time.monotonic()
    with world.client() as client:
        assert problem(client.request(get("/times/"))) == (504, "upstream_response_timeout", "upstream")
        assert time.monotonic() - began > 0.9
        assert client.request(get("/up/")).status == 200
    given_up(world.times)                          # it is told by the end of its connection


def test_half_a_head_is_no_answer_in_time(world):
    def play(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nX: ")
        connection.hang()

    world.times.script(play)
    with world.client() as client:
        assert problem(client.request(get("/times/"))) == (504, "upstream_response_timeout", "upstream")


def test_a_body_that_stops_is_cut_not_ended(world):
    def play(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        connection.hang()

    world.times.script(play)
    with world.client() as client, pytest.raises(Incomplete) as stop:
        client.request(get("/times/"))
    assert stop.value.how in ("eof", "reset")
    assert bytes(stop.value.message.body) == b"hello"
    given_up(world.times)


def test_a_body_that_keeps_coming_may_take_longer_than_the_idle_time(world):
    def play(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")
        connection.drip(b"x" * 12, between=lambda: time.sleep(0.1))
        connection.hang()

    world.times.script(play)
    with world.client() as client:
        assert client.request(get("/times/")).body == b"x" * 12


def test_an_upload_may_take_longer_than_the_response_timeout(world):
    """The wait for the answer begins when the request is out (here, or progress on it, is no silence)."""
    with world.client() as client:
        client.send(get("/times/", "Content-Length: 10\r\n", method="POST"))
        for _ in range(10):
            client.send(b"x")
            time.sleep(0.15)
        assert client.response().status == 200


def test_a_route_has_a_total(world):
    world.up.script(hang)
    with world.client() as client:
        assert problem(client.request(get("/total/"))) == (504, "route_timeout", "gateway")
    given_up(world.up)


def test_the_total_also_ends_a_body_that_keeps_coming(world):
    def play(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        connection.drip(b"x" * 100, between=lambda: time.sleep(0.1))

    world.up.script(play)
    with world.client() as client, pytest.raises(Incomplete) as stop:
        client.request(get("/total/"))
    assert stop.value.how in ("eof", "reset")
    assert stop.value.message is None or len(stop.value.message.body) < 100


@pytest.fixture(scope="module")
def hasty():
    with FakeUpstream() as up:
        config = {
            "server": {
                "timeouts": {"header": "1s", "body": "1s", "idle": "1s"},
                "limits": {"requests_per_connection": 3, "connections": 20, "connections_per_address": 15},
            },
            "services": {"up": up.url},
            "routes": [{"path": "/*", "service": "up"}],
        }
        with GatewayProcess(config) as gateway:
            yield gateway, up


def test_an_idle_client_is_closed_without_a_word(hasty):
    with hasty[0].client() as client:
        assert client.ended(60) == "eof"
        assert client.rest() == b""
    with hasty[0].client() as client:
        assert client.request(get("/")).status == 200
        assert client.ended(60) == "eof"
        assert client.rest() == b""


def test_a_head_that_drips_is_ended_by_the_clock_not_by_silence(hasty):
    """Each byte in time does not make a head in time."""
    began = time.monotonic()
    with hasty[0].client() as client:
        for byte in get("/", "X: " + "y" * 200 + "\r\n"):
            client.send(bytes([byte]))
            time.sleep(0.02)
            if time.monotonic() - began > 2.5:
                break
        response = client.response()
        assert problem(response) == (408, "header_timeout", "downstream")
        assert client.ended() != "timeout"


def test_a_second_head_has_its_own_time(hasty):
    with hasty[0].client() as client:
        assert client.request(get("/")).status == 200
        client.send(b"GET / HT")
        assert problem(client.response()) == (408, "header_timeout", "downstream")


def test_a_body_that_keeps_coming_is_not_ended(hasty):
    with hasty[0].client() as client:
        client.send(get("/", "Content-Length: 8\r\n", method="POST"))
        for _ in range(8):
            client.send(b"x")
            time.sleep(0.15)
        assert client.response().status == 200


def test_requests_per_connection_are_bounded(hasty):
    with hasty[0].client() as client:
        answers = [client.request(get("/")) for _ in range(3)]
        assert [response.status for response in answers] == [200] * 3
        assert [response.keeps_alive for response in answers] == [True, True, False]
        assert client.ended() == "eof"


def test_connections_per_address_are_bounded(hasty):
    gateway, _ = hasty

    def served():
        began = time.monotonic()
        clients = [gateway.client() for _ in range(18)]
        try:
            count = 0
            for client in clients:
                try:
                    count += client.request(get("/")).status == 200
                except Incomplete as stop:
                    assert stop.how != "timeout"
            # else the first were closed for being idle, which made room
            return count if time.monotonic() - began < 0.9 else None
        finally:
            for client in clients:
                client.close()
            assert until_served(gateway)

    assert until(served) == 15


def until_served(gateway, deadline=60.0):
    """Asks on new connections until one is served."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        with gateway.client() as client, contextlib.suppress(Incomplete):
            return client.request(get("/")).status == 200
    return False
