"""What a service is told of the time it has: each try what is left, and never what a client made up."""

import threading
import time
from concurrent import futures
from contextlib import contextmanager

import grpc
import h2.events
import pytest

from fastgw.testing import FakeUpstream, GatewayProcess
from tests.e2e.test_grpc import Service
from tests.e2e.test_http2_upstream import Http2Server, code

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NAME = "X-Request-Timeout"
BOUND = 60_000
"""ms of the response timeout in these tests."""


def gateway_of(service, route=None, **more):
    config = {"services": {"up": service}, "routes": [{"path": "/*", "service": "up", **(route or {})}], **more}
    return GatewayProcess(config)


def service_of(up, **timeouts):
    return {"endpoints": [up.url], "timeouts": {"response": "60s", **timeouts}}


@contextmanager
def asked(play=None, route=None, retry=None, **timeouts):
    """A gateway before one endpoint: its client, and the endpoint."""
    with FakeUpstream(*([play] if play else [])) as up:
        service = {**service_of(up, **timeouts), **({"retry": retry} if retry else {})}
        with gateway_of(service, route) as gateway, gateway.client() as client:
            yield client, up


def told(request):
    """The numbers of all lines with the header, in ms."""
    return [int(value) for name, value in request.headers if name.lower() == NAME.lower()]


def get(client, headers=b"", path=b"/x"):
    return client.request(b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n" + headers + b"\r\n")


def test_the_time_to_the_first_byte():
    with asked(header=NAME) as (client, up):
        assert get(client).status == 200
        assert told(up.requests[0]) == [BOUND]


def test_the_total_time_where_it_is_less():
    route = {"timeouts": {"total": "20s"}}
    with asked(route=route, header=NAME) as (client, up):
        assert get(client).status == 200
        (left,) = told(up.requests[0])
        assert 0 < left <= 20_000


def test_nothing_without_it():
    with asked() as (client, up):
        assert get(client, b"X-Request-Timeout: 5\r\n").status == 200
        assert told(up.requests[0]) == [5]


@pytest.mark.parametrize("sent", [b"X-Request-Timeout: 5\r\n", b"x-request-TIMEOUT: never\r\n" * 2])
def test_a_clients_own_is_taken_off(sent):
    with asked(header=NAME) as (client, up):
        assert get(client, sent).status == 200
        assert told(up.requests[0]) == [BOUND]


def test_the_routes_before_the_services():
    route = {"timeouts": {"header": "X-Mine"}}
    with asked(route=route, header=NAME) as (client, up):
        assert get(client, b"X-Request-Timeout: 7\r\n").status == 200
        seen = dict(up.requests[0].headers)
        assert seen["X-Mine"] == str(BOUND) and told(up.requests[0]) == [7]      # to this route the other is nothing


def test_each_try_says_what_is_left():
    def play(connection):
        while True:
            connection.read_request()
            if connection.number < 2:
                connection.hang()
            else:
                connection.send(OK)

    budget = {"ratio": 1, "per_second": 9}
    retry = {"retry_on": ["timeout"], "per_try": "500ms", "attempts": 9, "backoff": "1ms", "budget": budget}
    with asked(play, {"timeouts": {"total": "30s"}}, retry, header=NAME) as (client, up):
        assert get(client).status == 200
        seen = [told(one) for one in up.requests]
        assert len(seen) >= 3 and seen == [[500]] * len(seen)    # a slow one is tried once more


def test_each_try_of_a_request_with_a_total_time():
    wait = threading.Event()

    def play(connection):
        while True:
            connection.read_request()
            if len(connection.owner.requests) == 1:
                wait.wait(0.5)
                connection.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
            else:
                connection.send(OK)

    with asked(play, {"timeouts": {"total": "30s"}}, {"backoff": "1ms"}, header=NAME) as (client, up):
        assert get(client).status == 200
        (first,), (second,) = (told(one) for one in up.requests)
        assert 0 < second <= first - 400 and first <= 30_000


def test_a_client_that_is_honoured():
    with asked(header=NAME, honour_client=True) as (client, up):
        assert get(client, b"X-Request-Timeout: 30000\r\n").status == 200
        (left,) = told(up.requests[0])
        assert 0 < left <= 30_000
        assert get(client, b"X-Request-Timeout: 999999999\r\n").status == 200
        assert told(up.requests[1]) == [BOUND]
        for wrong in (b"0", b"-1", b"1s", b"1.5", b"1000000000", b""):
            assert code(get(client, b"X-Request-Timeout: " + wrong + b"\r\n")) == (400, "bad_request")
        assert code(get(client, b"X-Request-Timeout: 9\r\n" * 2)) == (400, "bad_request")
        assert len(up.requests) == 2


def test_the_clients_time_ends_the_request():
    def hang(connection):
        connection.read_request()
        connection.hang()

    with asked(hang, header=NAME, honour_client=True) as (client, _):
        begun = time.monotonic()
        assert code(get(client, b"X-Request-Timeout: 200\r\n")) == (504, "route_timeout")
        assert 0.2 <= time.monotonic() - begun < 20


def test_services_of_a_split_that_are_told_and_that_are_not():
    with FakeUpstream() as a, FakeUpstream() as b:
        config = {
            "services": {"a": service_of(a, header=NAME), "b": service_of(b)},
            "routes": [
                {
                    "path": "/*", "split_by": "header:X-Who",
                    "split": [{"service": "a", "weight": 1}, {"service": "b", "weight": 1}],
                }
            ],
        }  # fmt: skip
        with GatewayProcess(config) as gateway, gateway.client() as client:
            for number in range(1000):
                assert get(client, b"X-Who: %d\r\n" % number).status == 200
                if a.requests and b.requests:
                    break
        assert told(a.requests[0]) == [BOUND] and told(b.requests[0]) == []


def test_over_http2():
    def play(served, event):
        if isinstance(event, h2.events.RequestReceived):
            served.answer(event.stream_id, b"ok")

    with Http2Server(play) as server:
        service = {
            "endpoints": [f"http://127.0.0.1:{server.port}"], "protocol": "h2c",
            "timeouts": {"response": "60s", "header": NAME},
        }  # fmt: skip
        with gateway_of(service) as gateway, gateway.client() as client:
            assert get(client, b"X-Request-Timeout: 3\r\n").status == 200
        (request,) = server.connections[0].of(h2.events.RequestReceived)
        assert [value for name, value in request.headers if name == "x-request-timeout"] == [str(BOUND)]


def test_grpc_says_what_is_left_with_each_try():
    """The first try is lost after a while; the second is told less."""
    seen = []
    lost = threading.Event()

    class Slow(Service):
        def service(self, call):
            seen.append(call)
            return super().service(call)

        def echo(self, request, context):
            seen.append(context.time_remaining())
            if len([one for one in seen if isinstance(one, float)]) == 1:
                lost.wait(0.5)
                context.abort(grpc.StatusCode.UNAVAILABLE, "later")
            return request

    handler = Slow()
    backend = grpc.server(futures.ThreadPoolExecutor(4), handlers=[handler])
    port = backend.add_insecure_port("127.0.0.1:0")
    backend.start()
    try:
        retry = {"retry_on": ["grpc:unavailable"], "backoff": "1ms", "budget": {"ratio": 1, "per_second": 9}}
        service = {"endpoints": [f"http://127.0.0.1:{port}"], "protocol": "h2c", "retry": retry}
        with gateway_of(service) as gateway, grpc.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
            assert channel.unary_unary("/test.S/Echo")(b"hello", timeout=60) == b"hello"
        first, second = [one for one in seen if isinstance(one, float)]
        assert second < first - 0.4
    finally:
        lost.set()
        backend.stop(None)


def test_what_was_forwarded_is_forwarded_with_each_try():
    """X-Forwarded-For and Forwarded of a trusted proxy: a line of ours has them, and so has the next try's."""

    def play(connection):
        while True:
            connection.read_request()
            if len(up.requests) == 1:
                connection.reset()
                return
            connection.send(OK)

    with FakeUpstream(play) as up:
        service = {"endpoints": [up.url], "retry": {"backoff": "1ms"}}
        server = {
            "listeners": ["127.0.0.1:${FASTGW_PORT}"], "trusted_proxies": ["127.0.0.0/8"],
            "forwarded": {"forwarded": True},
        }  # fmt: skip
        with gateway_of(service, server=server) as gateway, gateway.client() as client:
            sent = b"X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\n"
            assert get(client, sent).status == 200
        first, second = ([(n, v) for n, v in one.headers if "orwarded" in n] for one in up.requests)
        assert first == second
        assert ("X-Forwarded-For", "192.0.2.1, 127.0.0.1") in second
