"""What answers in the place of a service that does not."""

import json
from contextlib import ExitStack, contextmanager

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER
from fastgw.testing import FakeUpstream, GatewayProcess, free_port
from fastgw.testing.upstream import answer, close_without_answer, hang

OTHER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother"
DOWN = b"HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\ndown"
REPLY = {"json": {"items": []}, "headers": {"X-Path": "${request.path}"}}


@contextmanager
def world(first, options, second=None, route=None, service=None):
    with ExitStack() as stack:
        services = {}
        ups = []
        for name, play in (("first", first), ("second", second or answer(OTHER))):
            up = stack.enter_context(FakeUpstream(play))
            services[name] = {"endpoints": [up.url]}
            ups.append(up)
        services["first"].update(service or {})
        config = {
            "services": services,
            "observability": {"access_log": {"fields": ["status", "code", "fallback"]}},
            "routes": [{"path": "/*", "service": "first", "policies": [{"fallback": options}], **(route or {})}],
        }
        gateway = stack.enter_context(GatewayProcess(config))
        yield gateway, stack.enter_context(gateway.client()), ups


def ask(client, body=b""):
    method = b"POST" if body else b"GET"
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return client.request(method + b" /x HTTP/1.1\r\nHost: h\r\n" + length + b"\r\n" + body)


def test_a_reply():
    with world(close_without_answer, {"reply": REPLY}) as (_, client, _):
        found = ask(client)
        assert (found.status, json.loads(bytes(found.body))) == (200, {"items": []})
        assert (found.get("x-fallback"), found.get("x-path")) == ("reply", "/x")
        assert ask(client).status == 200


@pytest.mark.parametrize("body", [b"", b"abc" * 1000])
def test_another_service(body):
    def play(connection):
        connection.read_request()

    with world(play, {"service": "second"}) as (_, client, (_, second)):
        found = ask(client, body)
        assert (found.status, bytes(found.body), found.get("x-fallback")) == (200, b"other", "service second")
        assert [bytes(one.body) for one in second.requests] == [body]


def test_another_service_and_then_a_reply():
    options = {"service": "second", "reply": REPLY}
    with world(close_without_answer, options, close_without_answer) as (gateway, client, (_, second)):
        assert ask(client).get("x-fallback") == "reply" and len(second.requests) >= 1
        text = gateway.admin("/metrics")[1]
        assert 'fastgw_fallbacks_total{by="service",service="first"} 1.0' in text
        assert 'fastgw_fallbacks_total{by="reply",service="second"} 1.0' in text


def test_a_body_that_is_too_large_is_not_sent_again():
    def play(connection):
        connection.read_request()

    with world(play, {"service": "second", "body": 10}) as (_, client, (_, second)):
        assert ask(client, b"abc" * 1000).status == 502 and second.requests == []


@pytest.mark.parametrize(("timeouts", "when"), [({"total": "200ms"}, "timeout"), ({"response": "200ms"}, "timeout")])
def test_time_that_is_over(timeouts, when):
    with world(hang, {"when": when, "service": "second"}, route={"timeouts": timeouts}) as (_, client, _):
        assert bytes(ask(client).body) == b"other"


def test_a_circuit_that_is_open():
    breaker = {"failure_threshold": 1, "timeout": "1h"}
    for service, route in (({"circuit_breaker": breaker}, {}), ({}, {"circuit_breaker": breaker})):
        options = {"when": "circuit_open", "service": "second"}
        with world(answer(DOWN), options, service=service, route=route) as (_, client, (first, _)):
            assert ask(client).status == 503
            assert [bytes(ask(client, b"a body").body) for _ in range(3)] == [b"other"] * 3
            assert len(first.requests) == 1


@pytest.mark.parametrize(("when", "falls"), [("503", True), ("5xx", True), ("500", False), ("failed", False)])
def test_statuses(when, falls):
    with world(answer(DOWN), {"when": [when], "reply": REPLY}) as (_, client, _):
        found = ask(client)
        assert (found.status, found.get("x-fallback")) == ((200, "reply") if falls else (503, None))


def test_a_good_answer_is_untouched():
    with world(answer(OTHER), {"reply": REPLY}) as (_, client, _):
        assert ask(client).get("x-fallback") is None


def test_nobody_listens():
    dead = {"endpoints": [f"http://127.0.0.1:{free_port()}"]}
    with world(answer(OTHER), {"service": "second"}, service=dead) as (_, client, _):
        assert ask(client, b"posted").get("x-fallback") == "service second"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({}, "missing_key"),
        ({"service": "nobody"}, "unknown_service"),
        ({"when": ["late"], "service": "a"}, "bad_choice"),
        ({"reply": {"status": 204, "body": "x"}}, "conflict"),
    ],
)
def test_what_check_says(options, code):
    route = {"path": "/x", "service": "a", "policies": [{"fallback": options}]}
    _, problems = check({"services": {"a": "http://127.0.0.1:1"}, "routes": [route]}, resolver=RESOLVER)
    assert code in [problem.code for problem in problems]
