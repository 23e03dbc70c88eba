"""The whole downstream path against h11: the same bytes must be the same messages, or be refused for a known reason."""

import re

import pytest
from hypothesis import example, given, note
from hypothesis import strategies as st

from fastgw.testing import FakeUpstream, GatewayProcess, answer
from tests.fuzz import grammar, oracle
from tests.fuzz.conftest import run

LAST = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def running():
    with FakeUpstream(answer(b"HTTP/1.1 204 No Content\r\n\r\n")) as upstream:
        config = {
            "server": {
                "path_normalization": "raw",
                "timeouts": {"header": "100ms", "body": "100ms", "idle": "100ms"},
            },
            "observability": {"access_log": {"enabled": False}},
            "services": {"up": upstream.url},
            "routes": [{"path": "/*", "service": "up"}],
        }
        with GatewayProcess(config) as gateway:
            yield gateway, upstream


def target_as_sent(target):
    """absolute-form becomes origin-form on its way."""
    match = re.match(rb"https?://[^/?#]*", target, re.IGNORECASE)
    if not match:
        return target
    rest = target[match.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def local(seen):
    """Answered by the gateway itself, which may end the connection with that."""
    return seen.target == b"*" or seen.method == b"TRACE"


def check(gateway, upstream, data):
    upstream.forget()
    with gateway.client(timeout=30) as client:
        client.send(data)
        assert client.ended(30) != "timeout", "neither answered to the end nor closed"
        answered = bytes(client.reader.received)
    passed = [r for r in upstream.requests if r.complete]
    wanted, how = oracle.requests(data)
    forwarded = [seen for seen in wanted if not local(seen)]
    note(f"h11: {[(s.method, s.target, s.body) for s in wanted]} {how}\nanswers: {answered!r}")
    assert len(passed) <= len(forwarded), f"passed on what h11 does not see: {bytes(passed[len(forwarded)].raw)!r}"
    for request, seen in zip(passed, forwarded, strict=False):
        assert request.method.encode() == seen.method
        assert request.target.encode("latin-1") == target_as_sent(seen.target)
        assert bytes(request.body) == seen.body
        assert oracle.passed_on(request.headers) == oracle.passed_on(oracle.text(seen.headers))
        assert request.trailers == []
    if len(passed) < len(forwarded):
        refused = forwarded[len(passed)]
        before = wanted[wanted.index(forwarded[len(passed) - 1]) + 1 : wanted.index(refused)] if passed else wanted
        ended_before = any(local(seen) for seen in before)
        assert ended_before or oracle.stricter_request(refused), f"refused for no known reason: {refused.raw!r}"


def test_requests(running):
    gateway, upstream = running

    @given(grammar.mutated(grammar.request()))
    @example(b"")
    @example(b"GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
    @example(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
    def compare(data):
        check(gateway, upstream, data + LAST)

    run(compare, short=2000)
    with gateway.client() as client:
        assert client.request(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").status == 204, "the gateway does not serve any more"


def test_garbage(running):
    """Bytes that are nothing at all are never passed on and never kept waiting."""
    gateway, upstream = running

    @given(st.binary(max_size=200))
    def compare(data):
        check(gateway, upstream, data + b"\r\n\r\n" + LAST)

    run(compare, short=400)
