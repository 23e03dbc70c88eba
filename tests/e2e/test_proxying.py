"""Requests and answers as they pass: methods, framing, order, connections, listeners."""

import json
import threading

import pytest

from fastgw.testing import Incomplete, RawClient, answer, chunked
from tests.e2e.conftest import answer_ok


def get(path, headers="", method="GET", version="1.1"):
    return f"{method} {path} HTTP/{version}\r\nHost: a\r\n{headers}\r\n".encode()


def problem(response):
    assert response.get("content-type") == "application/problem+json"
    body = json.loads(response.body)
    return response.status, body["code"], body["side"]


def test_one_upstream_connection_serves_many_clients(world):
    for _ in range(5):
        with world.client() as client:
            for _ in range(3):
                assert client.request(get("/up/")).body == b"ok"
    assert len(world.up.connections) == 1
    assert len(world.up.requests) == 15


def test_pipelined_answers_keep_their_order_when_the_first_is_slow(world):
    go = threading.Event()

    def slow_first(connection):
        request = connection.read_request()
        if request.target == "/up/1":
            connection.wait(go)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + request.target[-5:].encode())
        answer_named(connection)

    def answer_named(connection):
        while True:
            request = connection.read_request()
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + request.target[-5:].encode())

    world.up.script(slow_first)
    with world.client() as client:
        client.send(get("/up/1") + get("/up/2") + get("/up/3"))
        world.up.wait_requests(1)
        client.reader.timeout = 0.2
        with pytest.raises(Incomplete) as stop:
            client.response()
        assert stop.value.how == "timeout"
        client.reader.timeout = 10
        go.set()
        assert [bytes(client.response().body) for _ in range(3)] == [b"/up/1", b"/up/2", b"/up/3"]


def test_more_pipelined_requests_than_may_wait_are_all_answered(world):
    with world.client() as client:
        client.send(b"".join(get(f"/up/{n}") for n in range(200)))
        assert [client.response().status for _ in range(200)] == [200] * 200
    assert [r.target for r in world.up.requests] == [f"/up/{n}" for n in range(200)]


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body_keep_the_connection(world, status):
    world.up.script(answer(f"HTTP/1.1 {status} X\r\nETag: a\r\n\r\n".encode()))
    with world.client() as client:
        for _ in range(3):
            response = client.request(get("/up/"))
            assert (response.status, response.body, response.get("etag")) == (status, b"", "a")
    assert len(world.up.connections) == 1


def test_head_keeps_the_connection_on_both_sides(world):
    world.up.script(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"))
    with world.client() as client:
        for _ in range(3):
            response = client.request(get("/up/", method="HEAD"))
            assert (response.status, response.get("content-length")) == (200, "1000")
    assert len(world.up.connections) == 1


def test_head_of_the_gateways_own_answers_has_no_body(world):
    with world.client() as client:
        missing = client.request(get("/nowhere", method="HEAD"))
        assert (missing.status, missing.body) == (404, b"")
        assert client.request(get("/up/")).body == b"ok"


def test_not_found_and_method_not_allowed(world):
    with world.client() as client:
        assert problem(client.request(get("/nowhere"))) == (404, "not_found", "downstream")
        refused = client.request(get("/read-only/x", "Content-Length: 0\r\n", method="POST"))
        assert problem(refused) == (405, "method_not_allowed", "downstream")
        assert set(refused.get("allow").replace(" ", "").split(",")) >= {"GET"}
        assert "POST" not in refused.get("allow")
        assert client.request(get("/read-only/x")).status == 200
        assert client.request(get("/read-only/x", method="HEAD")).status == 200


def test_a_refused_request_with_a_body_does_not_poison_the_connection(world):
    """Its body is either read away or the connection ends; it is never taken for a request."""
    inner = get("/up/smuggled")
    with world.client() as client:
        client.send(get("/nowhere", f"Content-Length: {len(inner)}\r\n", method="POST") + inner)
        first = client.response()
        assert first.status == 404
        if first.keeps_alive:
            assert client.request(get("/up/next")).status == 200
        else:
            assert client.ended() != "timeout"
        assert client.rest() == b""
    assert [r.target for r in world.up.requests] in ([], ["/up/next"])


def test_a_route_has_its_own_body_limit(world):
    with world.client() as client:
        assert client.request(get("/small/", "Content-Length: 10\r\n", method="POST") + b"x" * 10).status == 200
        large = client.request(get("/small/", "Content-Length: 11\r\n", method="POST") + b"x" * 11)
        assert problem(large) == (413, "body_too_large", "downstream")
    assert len(world.up.requests) == 1


def test_chunked_answer_for_an_http10_client_is_delimited_by_the_end(world):
    world.up.script(answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked([b"one", b"two"])))
    with world.client() as client:
        response = client.request(get("/up/", "Connection: keep-alive\r\n", version="1.0"))
        assert response.body == b"onetwo"
        assert "transfer-encoding" not in response
        assert not response.keeps_alive
    assert world.up.requests[0].version == "HTTP/1.1"


def test_http10_client_may_keep_its_connection(world):
    with world.client() as client:
        for _ in range(3):
            response = client.request(get("/up/", "Connection: keep-alive\r\n", version="1.0"))
            assert response.keeps_alive
            assert (response.get("connection") or "").lower() == "keep-alive"
        last = client.request(get("/up/", version="1.0"))
        assert not last.keeps_alive
        assert client.ended() == "eof"


def test_close_delimited_answer_stays_whole_and_visible_as_such(world):
    def play(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000)

    world.up.script(play)
    with world.client() as client:
        response = client.request(get("/up/"))
        assert bytes(response.body) == b"x" * 100_000
        # for a client that speaks HTTP/1.1 the end must be marked, or a cut could pass for it
        assert response.framing() == "chunked"


def test_trailers_are_dropped_both_ways(world):
    trailers = b"X-Checksum: 1\r\nSet-Cookie: a=b\r\n"
    world.up.script(answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked([b"ok"], trailers)))
    with world.client() as client:
        post = get("/up/", "Transfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n", method="POST")
        response = client.request(post + chunked([b"abc"], trailers))
        assert (response.body, response.trailers) == (b"ok", [])
        assert "set-cookie" not in response
    request = world.up.requests[0]
    assert (request.body, request.trailers) == (b"abc", [])
    assert "trailer" not in request


def test_expect_continue_end_to_end(world):
    """The client sends its body only when told to, and the answer comes."""

    def play(connection):
        request = connection.read_head()
        if "expect" in request:
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.read_body(request)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    world.up.script(play)
    with world.client() as client:
        client.send(get("/up/", "Expect: 100-continue\r\nContent-Length: 3\r\n", method="POST"))
        assert client.head().status == 100
        client.send(b"abc")
        response = client.response()
        assert (response.status, response.interim) == (200, [])
    assert world.up.requests[0].body == b"abc"


def test_a_final_answer_in_the_place_of_100_continue(world):
    def refuse(connection):
        connection.read_head()
        connection.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        connection.hang()

    world.up.script(refuse)
    with world.client() as client:
        client.send(get("/up/", "Expect: 100-continue\r\nContent-Length: 3\r\n", method="POST"))
        response = client.response()
        assert (response.status, response.body) == (403, b"no")
        # the body that was never sent must not be waited for by a kept connection
        if response.keeps_alive:
            client.send(b"abc")
            assert client.request(get("/up/")).status == 200


def test_interim_answers_come_at_once(world):
    go = threading.Event()

    def play(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
        connection.wait(go)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    world.up.script(play)
    with world.client() as client:
        client.send(get("/up/"))
        hints = client.head()
        assert (hints.status, hints.get("link")) == (103, "</a.css>")
        go.set()
        assert client.response().status == 200


def test_hop_by_hop_headers_of_the_answer_stay_here(world):
    world.up.script(
        answer(
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n"
            b"Keep-Alive: timeout=3\r\nUpgrade: h2c\r\nX-Stays: 1\r\n\r\n"
        )
    )
    with world.client() as client:
        response = client.request(get("/up/"))
    assert response.get("x-stays") == "1"
    for name in ("x-hop", "keep-alive", "upgrade"):
        assert name not in response
    assert "x-hop" not in (response.get("connection") or "").lower()


def test_upstream_over_a_unix_socket_and_over_ipv6(world):
    with world.client() as client:
        assert client.request(get("/unix/")).body == b"ok"
        assert client.request(get("/ipv6/")).body == b"ok"
    assert len(world.unix.requests) == 1
    assert len(world.ipv6.requests) == 1


@pytest.mark.parametrize("listener", ["ipv6_address", "unix_address"])
def test_listeners_over_ipv6_and_unix_sockets(world, listener):
    with RawClient(getattr(world, listener)) as client:
        assert client.request(get("/up/")).body == b"ok"
        assert client.request(get("/up/")).body == b"ok"
    forwarded = world.up.requests[0].get("x-forwarded-for")
    assert forwarded == "::1" if listener == "ipv6_address" else True


def test_endpoints_are_taken_by_turns(world):
    with world.client() as client:
        for _ in range(6):
            assert client.request(get("/turns/")).status == 200
    assert (len(world.a.requests), len(world.b.requests)) == (3, 3)


def test_a_large_head_passes_whole_both_ways(world):
    large = "x" * 20_000
    world.up.script(answer(f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Large: {large}\r\n\r\n".encode()))
    with world.client() as client:
        response = client.request(get("/up/", f"X-Large: {large}\r\n"))
    assert response.get("x-large") == large
    assert world.up.requests[0].get("x-large") == large


def test_many_clients_at_once_get_each_their_own(world):
    def echo(connection):
        while True:
            target = connection.read_request().target.encode()
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(target), target))

    world.up.script(echo)
    clients = [world.client() for _ in range(50)]
    try:
        for turn in range(5):
            for number, client in enumerate(clients):
                client.send(get(f"/up/{turn}/{number}"))
            for number, client in enumerate(clients):
                assert client.response().body == f"/up/{turn}/{number}".encode()
    finally:
        for client in clients:
            client.close()
    world.up.script(answer_ok)
