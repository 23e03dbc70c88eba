"""The whole upstream path against h11: the same answer, or none for a known reason; never another one."""

import json

import pytest
from hypothesis import example, given, note
from hypothesis import strategies as st

from fastgw.testing import FakeUpstream, GatewayProcess, Incomplete
from tests.fuzz import grammar, oracle
from tests.fuzz.conftest import run


@pytest.fixture(scope="module")
def running():
    what = {"answer": b""}

    def play(connection):
        connection.read_request()
        connection.send(what["answer"])

    with FakeUpstream(play) as upstream:
        config = {
            "observability": {"access_log": {"enabled": False}},
            "services": {"up": upstream.url},
            "routes": [{"path": "/*", "service": "up"}],
        }
        with GatewayProcess(config) as gateway:
            yield gateway, upstream, what


def stricter_response(seen, data):
    if not data.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")):
        return "a version that does not exist"
    if seen.version == b"1.0" and seen.values(b"transfer-encoding"):
        return "Transfer-Encoding in HTTP/1.0"
    if any(b"\t" in part.partition(b"\r\n")[0] for part in data.split(b"\r\n\r\n")):
        return "a tab in the reason, which httptools refuses"
    # interim answers before it are under the same rules
    for part in data.split(b"\r\n\r\n"):
        reason = oracle.stricter_syntax(part + b"\r\n\r\n", [])
        if reason:
            return reason
    return oracle.stricter_syntax(data, seen.headers) or oracle.stricter_chunks(data.partition(b"\r\n\r\n")[2])


def answered(gateway, method):
    with gateway.client(timeout=30) as client:
        client.send(f"{method} / HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        try:
            return client.response(method)
        except Incomplete as stop:
            assert stop.how != "timeout", "neither an answer nor an end"
            return None


def check(running, data, method):
    gateway, upstream, what = running
    what["answer"] = data
    upstream.forget()
    got = answered(gateway, method)
    seen, how = oracle.response(data, method)
    if seen is not None and (got is None or is_own(got, method)) and not stricter_response(seen, data):
        # What the answer before left on a kept connection may have met this request, which no proxy can tell apart;
        # a refusal that is the gateway's judgement of this answer happens again.
        got = answered(gateway, method)
    note(f"h11: {seen} {how}\ngateway: {got}")
    if got is None or is_own(got, method):
        if seen is not None:
            assert stricter_response(seen, data), f"refused without a documented reason: {data!r}"
        return
    assert seen is not None, "delivered as whole what h11 refuses"
    assert got.status == seen.status
    assert bytes(got.body) == seen.body
    assert oracle.passed_on(got.headers) == oracle.passed_on(oracle.text(seen.headers))
    assert got.trailers == []


def is_own(got, method):
    """Whether the gateway wrote this answer."""
    if got.get("content-type") != "application/problem+json":
        return False
    return method == "HEAD" or json.loads(got.body)["side"] == "upstream"


def test_responses(running):
    @given(grammar.mutated(grammar.response()), st.sampled_from(["GET", "GET", "HEAD"]))
    @example(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "GET")
    @example(b"HTTP/1.1 200 OK\r\n\r\nabc", "GET")
    @example(b"HTTP/1.1 204 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "GET")
    def compare(data, method):
        check(running, data, method)

    run(compare, short=1500)
