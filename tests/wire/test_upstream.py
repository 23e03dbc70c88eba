"""What upstreams answer, byte by byte: upstream/*.case."""

import json
import threading

import pytest

from fastgw.testing import Incomplete
from tests.wire.corpus import cases, parameters, unescape

CASES = cases("upstream")
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
AGAIN = b"GET /again HTTP/1.1\r\nHost: a\r\n\r\n"
ITS_OWN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain"


def again(connection):
    while True:
        connection.read_request()
        connection.send(ITS_OWN)


def script(case, late):
    """Plays the case on the first connection; every other request, on whatever connection, gets ITS_OWN."""

    def play(connection):
        connection.read_request()
        connection.send(case.sections["answer"])
        if case.one("then") == "close":
            return
        if case.one("then") == "reset":
            connection.reset()
            return
        if "late" in case.expect:
            connection.wait(late)
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        again(connection)

    return play


def read_answer(client, method):
    """(answer or None, how it ended): whole, cut."""
    try:
        return client.response(method), "whole"
    except Incomplete as stop:
        assert stop.how != "timeout", f"the client waits for ever: {stop}"
        return stop.message, "cut"


def check_answer(case, answer, how):
    if answer is None:
        # cut before a whole head: only a case that allows a cut allows that
        assert "cut" in case.one("client").split("|")
        return
    assert str(answer.status) in case.one("status").split("|"), bytes(answer.raw)
    if answer.status >= 500 and "code" in case.expect:
        assert how == "whole"
        problem = json.loads(answer.body)
        assert problem["code"] in case.one("code").split("|")
        assert problem["side"] == "upstream"
        return
    if "client" in case.expect:
        assert ("502" if answer.status == 502 else how) in case.one("client").split("|")
    if "body" in case.expect:
        assert bytes(answer.body) == unescape(case.one("body"))
    assert answer.trailers == []
    lines = [f"{name.lower()}: {value}".encode("latin-1") for name, value in answer.headers]
    for line in case.lines("client-has"):
        name, _, value = line.partition(b":")
        assert name.lower() + b":" + value in lines
    for name in case.lines("client-lacks"):
        assert not [line for line in lines if line.startswith(name.lower() + b":")]


def check_interim(case, answer):
    wanted = case.one("interim", "none")
    if wanted != "any" and answer is not None:
        statuses = " ".join(str(interim.status) for interim in answer.interim)
        assert statuses == ("" if wanted == "none" else wanted)


@pytest.mark.parametrize("case", parameters(CASES))
def test_upstream(case, gateways):
    gateway, upstream = gateways("normalize")
    upstream.kill_connections(with_reset=False)
    upstream.wait_for(lambda: upstream.open_connections() == 0, "its connections to end")
    late = threading.Event()
    upstream.script(script(case, late), again)
    request = case.sections.get("request", GET)
    with gateway.client(timeout=30) as client:
        client.send(request)
        answer, how = read_answer(client, request.split(b" ")[0].decode())
        check_answer(case, answer, how)
        check_interim(case, answer)
        if how == "whole" and answer.keeps_alive:
            assert client.rest() == b""
            after = client
        else:
            assert case.one("connection", "any") != "keep", "this answer should not have cost the connection"
            assert client.ended(30) != "timeout"
            assert client.rest() == b""
            after = None
        if "late" in case.expect:
            late.set()
            # it is read and the connection given up, whether or not anybody asks for it
            upstream.wait_for(upstream.connections[0].ended.is_set, "the late answer to cost the connection")
        check_next_is_its_own(case, gateway, upstream, after)


def check_next_is_its_own(case, gateway, upstream, client):
    """The next request gets its own answer, over the connection that `reuse` says."""
    other = gateway.client(timeout=30)
    with other:
        for who in [client, other] if client else [other]:
            answer = who.request(AGAIN)
            assert (answer.status, bytes(answer.body)) == (200, b"again")
    if case.one("reuse", "any") != "any":
        first = [r.target for r in upstream.connections[0].requests] if upstream.connections else []
        reused = "/again" in first
        assert reused == (case.one("reuse") == "yes")


@pytest.mark.parametrize("name", ["line-plain", "framing-chunked", "framing-304-with-length", "interim-two"])
def test_upstream_byte_by_byte(name, gateways):
    """How the answer is cut into segments changes nothing."""
    case = next(case for case in CASES if case.name == name)
    gateway, upstream = gateways("normalize")
    upstream.kill_connections(with_reset=False)
    upstream.wait_for(lambda: upstream.open_connections() == 0, "its connections to end")

    def drip(connection):
        connection.read_request()
        connection.drip(case.sections["answer"])
        again(connection)

    upstream.script(drip, again)
    with gateway.client() as client:
        answer = client.request(GET)
        check_answer(case, answer, "whole")
        check_interim(case, answer)
        assert client.request(AGAIN).body == b"again"
    assert len(upstream.connections) == 1
