"""What is sent again: which failures, which methods, how much of a body, how often, and to whom."""

import json
import re
import time
from contextlib import ExitStack, contextmanager

import grpc
import h2.events
import pytest

from fastgw.testing import FakeUpstream, GatewayProcess, free_port
from fastgw.testing.upstream import answer_and, close_without_answer
from tests.e2e.conftest import full_backlog
from tests.e2e.test_http2_upstream import Http2Server, code
from tests.patience import until

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n%s\r\ndown"
QUICK = {"backoff": "1ms", "budget": {"ratio": 1, "per_second": 100}}


def again_and_again(data):
    def play(connection):
        while True:
            connection.read_request()
            connection.send(data)

    return play


@contextmanager
def world(*plays, retry=None, route=None, endpoints=(), timeouts=None):
    """One service of an upstream per handler, after the `endpoints` given."""
    with ExitStack() as stack:
        ups = [stack.enter_context(FakeUpstream(play)) for play in plays]
        service = {"endpoints": [*endpoints, *(up.url for up in ups)], "retry": {**QUICK, **(retry or {})}}
        if timeouts:
            service["timeouts"] = timeouts
        config = {"services": {"up": service}, "routes": [{"path": "/*", "service": "up", **(route or {})}]}
        gateway = stack.enter_context(GatewayProcess(config))
        client = stack.enter_context(gateway.client())
        yield client, gateway, ups


def get(client, method="GET", body=b"", headers=b""):
    head = f"{method} /x HTTP/1.1\r\nHost: h\r\n".encode() + headers
    if body:
        head += b"Content-Length: %d\r\n" % len(body)
    return client.request(head + b"\r\n" + body)


def counted(gateway, name):
    found = re.search(rf"^fastgw_{name}(?:{{[^}}]*}})? (\S+)$", gateway.admin("/metrics")[1], re.MULTILINE)
    return float(found[1]) if found else 0


def test_a_refused_connection_whatever_the_method():
    with world(again_and_again(GOOD), endpoints=[f"http://127.0.0.1:{free_port()}"]) as (client, gateway, (up,)):
        for method, body in (("GET", b""), ("POST", b"abc"), ("PATCH", b"x" * 1000)) * 2:
            assert get(client, method, body).status == 200
        assert [bytes(one.body) for one in up.requests[1::3]] == [b"abc"] * 2
        until(lambda: counted(gateway, "retries_total") >= 3)


def test_a_routes_own_time_to_connect():
    with ExitStack() as stack:
        full = full_backlog(stack)
        route = {"timeouts": {"connect": "300ms"}}
        with world(again_and_again(GOOD), endpoints=[full], route=route) as (client, gateway, _):
            for _ in range(2):
                assert get(client).status == 200
            assert counted(gateway, "retries_total") >= 1


def test_statuses_that_are_listed_and_another_endpoint_each_time():
    with world(again_and_again(BAD % b""), again_and_again(BAD % b""), again_and_again(GOOD)) as (client, gateway, ups):
        for _ in range(6):
            assert get(client).status == 200
        assert len(ups[2].requests) == 6
        asked = len(ups[0].requests) + len(ups[1].requests)
        assert asked > 0
        until(lambda: counted(gateway, "retries_total") == asked)


def test_a_status_that_is_not_listed_passes():
    with world(again_and_again(b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n")) as (client, gateway, (up,)):
        assert get(client).status == 500 and len(up.requests) == 1
        assert counted(gateway, "retries_total") == 0


def test_the_last_answer_is_the_answer():
    with world(again_and_again(BAD % b"")) as (client, gateway, (up,)):
        found = get(client)
        assert (found.status, bytes(found.body)) == (503, b"down")
        assert len(up.requests) == 3
        until(lambda: counted(gateway, "retries_total") == 2)


@pytest.mark.parametrize(
    ("method", "headers", "retry", "tries"),
    [
        ("GET", b"", {}, 3),
        ("PUT", b"", {}, 3),
        ("POST", b"", {}, 1),
        ("POST", b"", {"methods": ["POST"]}, 3),
        ("GET", b"", {"methods": ["POST"]}, 1),
        ("POST", b"Idempotency-Key: 1\r\n", {}, 1),
        ("POST", b"Idempotency-Key: 1\r\n", {"trust_idempotency_key": True}, 3),
        ("GET", b"", {"attempts": 1}, 1),
        ("GET", b"", {"retry_on": ["connect"]}, 1),
    ],
)
def test_a_reset_before_an_answer(method, headers, retry, tries):
    with world(close_without_answer, retry=retry) as (client, _, (up,)):
        assert code(get(client, method, b"abc", headers)) == (502, "upstream_reset")
        assert [bytes(one.body) for one in up.requests] == [b"abc"] * tries


def test_a_body_is_sent_again_whole():
    def play(connection):
        connection.read_request()
        if connection.number:
            connection.send(GOOD)

    with world(play, retry={"methods": ["POST"]}) as (client, gateway, (up,)):
        pieces = [bytes([n]) * 5000 for n in range(10)]
        client.send(b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        client.send(b"0\r\n\r\n")
        assert client.response().status == 200
        assert bytes(up.requests[-1].body) == b"".join(pieces)
        until(lambda: counted(gateway, "retries_total") == 1)


def test_a_body_that_is_too_large_is_sent_once():
    with world(close_without_answer, retry={"methods": ["POST"], "body": "1KiB"}) as (client, gateway, (up,)):
        for _ in range(2):
            assert get(client, "POST", b"x" * 2000).status == 502
        assert len(up.requests) == 2
        until(lambda: counted(gateway, "retries_denied_total") == 2)
        # written before the answer left
        assert gateway.stderr.count("its body is larger than the 1024 bytes of `retry.body`") == 1


def test_retry_after():
    with world(again_and_again(BAD % b"Retry-After: 1\r\n"), retry={"attempts": 2}) as (client, _, (up,)):
        begun = time.monotonic()
        assert get(client).status == 503 and len(up.requests) == 2
        assert time.monotonic() - begun > 0.9
    with world(again_and_again(BAD % b"Retry-After: 60\r\n")) as (client, _, (up,)):
        begun = time.monotonic()
        assert get(client).status == 503 and len(up.requests) == 1     # longer than max_backoff: not waited for
        assert time.monotonic() - begun < 30


def test_the_budget():
    retry = {"budget": {"ratio": 0.1, "per_second": 0}}
    with world(again_and_again(BAD % b""), retry=retry) as (client, gateway, (up,)):
        for _ in range(50):
            assert get(client).status == 503
        assert 50 < len(up.requests) <= 56
        until(lambda: counted(gateway, "retries_denied_total") >= 44)


def test_a_try_has_a_time_of_its_own():
    def play(connection):
        while True:
            connection.read_request()
            if len(ups[0].requests) == 1:
                connection.hang()
            connection.send(GOOD)

    retry = {"retry_on": ["timeout"], "per_try": "1s"}
    with world(play, retry=retry, timeouts={"response": "10s"}) as (client, _, ups):
        begun = time.monotonic()
        assert get(client).status == 200
        assert time.monotonic() - begun >= 1
        assert len(ups[0].requests) == 2


def test_the_time_of_the_route_holds_for_all_tries():
    def hang(connection):
        connection.read_request()
        connection.hang()

    retry = {"retry_on": ["timeout"], "per_try": "600ms", "attempts": 10}
    with world(hang, retry=retry, route={"timeouts": {"total": "1s"}}) as (client, _, (up,)):
        assert code(get(client)) == (504, "route_timeout")
        until(lambda: len(up.requests) == 2)


def test_a_client_that_leaves_while_it_waits():
    retry = {"backoff": "60s", "max_backoff": "60s"}
    with world(again_and_again(BAD % b""), retry=retry) as (_, gateway, (up,)):
        with gateway.client() as leaving:
            leaving.send(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
            up.wait_requests(1)
        until(lambda: "client_closed" in gateway.stdout)
        assert json.loads(gateway.stdout.splitlines()[-1])["status"] == 499


def test_a_route_has_its_own():
    with world(again_and_again(BAD % b""), route={"retry": {**QUICK, "attempts": 2}}) as (client, _, (up,)):
        assert get(client).status == 503 and len(up.requests) == 2


def test_answers_that_began_are_not_repeated():
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
    with world(answer_and("close", cut), retry={"retry_on": ["reset", "timeout", "5xx"]}) as (client, _, (up,)):
        client.send(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.ended() in ("eof", "reset") and len(up.requests) == 1


def test_statuses_of_grpc():
    def play(served, event):
        if isinstance(event, h2.events.StreamEnded):
            if len(served.of(h2.events.StreamEnded)) < 3:
                served.h2.send_headers(
                    event.stream_id,
                    [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "14")],
                    end_stream=True,
                )
            else:
                pieces = [one for one in served.of(h2.events.DataReceived) if one.stream_id == event.stream_id]
                body = b"".join(one.data for one in pieces)
                kind = [("content-type", "application/grpc")]
                served.answer(event.stream_id, body, kind, trailers=[("grpc-status", "0")])

    with Http2Server(play) as server:
        service = {
            "endpoints": [f"http://127.0.0.1:{server.port}"], "protocol": "h2c",
            "retry": {**QUICK, "retry_on": ["grpc:unavailable"]},
        }  # fmt: skip
        config = {
            "server": {"listeners": ["127.0.0.1:${FASTGW_PORT}"]},
            "services": {"up": service}, "routes": [{"path": "/*", "service": "up"}],
        }  # fmt: skip
        with GatewayProcess(config) as gateway, grpc.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
            assert channel.unary_unary("/a.B/C")(b"hello", timeout=60) == b"hello"
            until(lambda: counted(gateway, "retries_total") == 2)
