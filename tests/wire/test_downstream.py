"""What clients send, byte by byte: downstream/*.case."""

import json

import pytest

from fastgw.testing import Incomplete
from fastgw.testing.messages import parse_headers
from tests.wire.corpus import cases, parameters, unescape

CASES = cases("downstream")
SHORT = [case for case in CASES if len(case.sections["request"]) < 600 and not case.name.startswith("time-")]
PROBE = b"GET /probe HTTP/1.1\r\nHost: probe\r\n\r\n"


def methods(request):
    """The methods of the requests in a buffer, as far as an answer's framing depends on them."""
    return "HEAD" if request.startswith(b"HEAD ") else "GET"


def read_answers(client, case, expected):
    """The final answers as a list; None in the place of one when the connection ended instead."""
    answers = []
    for _ in range(max(map(len, expected))):
        try:
            answers.append(client.response(methods(case.sections["request"])))
        except Incomplete as stop:
            assert stop.message is None, f"an answer was cut ({stop.how}): {bytes(stop.message.raw)!r}"
            assert stop.rest == b"", f"half a head: {stop.rest!r}"
            assert stop.how != "timeout", f"neither an answer nor an end; {len(answers)} answers before"
            answers.append(None)
            break
    return answers


def agrees(status, allowed):
    return str(status) in allowed.split("|")


def check_problem(case, answer):
    assert answer.get("content-type") == "application/problem+json"
    problem = json.loads(answer.body)
    assert problem["code"] in case.one("code").split("|")
    assert problem["side"] == case.one("side", "downstream")
    assert problem["status"] == answer.status


def header_lines(requests):
    return [f"{name}: {value}".encode("latin-1") for r in requests for name, value in r.headers]


def check_upstream(case, upstream):
    wanted = [line.decode("latin-1") for line in case.lines("upstream")]
    if wanted == ["nothing"]:
        assert upstream.requests == []
        return
    if wanted == ["incomplete"]:
        # whatever had begun must end without ever looking whole
        upstream.wait_for(lambda: all(c.ended.is_set() for c in upstream.connections if c.requests), "the cut")
        assert not any(request.complete for request in upstream.requests)
        return
    if wanted:
        assert [request.start for request in upstream.requests] == wanted
        assert all(request.complete for request in upstream.requests)
    lines = header_lines(upstream.requests)
    lower = [line.lower() for line in lines]
    for line in case.lines("upstream-has"):
        name, _, value = line.partition(b":")
        assert name.lower() + b": " + value.strip() in [
            seen.partition(b":")[0].lower() + b":" + seen.partition(b":")[2] for seen in lines
        ], f"{line!r} is not among {lines}"
    for line in case.lines("upstream-lacks"):
        prefix = line.lower() if b":" in line else line.lower() + b":"
        assert not [seen for seen in lower if seen.startswith(prefix)]
    for body in case.expect.get("upstream-body", []):
        assert bytes(upstream.requests[-1].body) == unescape(body)
    assert not any(request.trailers for request in upstream.requests)


def play(case, gateways, send):
    gateway, upstream = gateways(case.one("config", "normalize"))
    upstream.settle()
    expected = [option.split() for option in [case.one("status")]]
    with gateway.client(timeout=30) as client:
        send(client, case.sections["request"])
        if case.one("send") == "half-close":
            client.half_close()
        answers = read_answers(client, case, expected)
        statuses = [answer.status if answer else "none" for answer in answers]
        assert len(statuses) == len(expected[0]), statuses
        assert all(agrees(*pair) for pair in zip(statuses, expected[0], strict=True)), (
            f"{statuses}, expected {expected[0]}: {answers[-1] and bytes(answers[-1].body)!r}"
        )
        last = answers[-1]
        if last is not None and "code" in case.expect:
            check_problem(case, last)
        if case.one("interim") == "none":
            assert not any(answer.interim for answer in answers if answer)
        if case.one("connection") == "close":
            assert last is None or case.one("send") == "half-close" or not last.keeps_alive
            assert client.ended(30) != "timeout"
            assert client.rest() == b""
        check_upstream(case, upstream)
        if last is None:
            # a cancelled request may still be on its way to the upstream; what comes after it tells that it is over
            with gateway.client(timeout=30) as other:
                assert other.request(PROBE).status == 200
        if case.one("connection") == "keep":
            assert last.keeps_alive
            probe = client.request(PROBE)
            assert (probe.status, probe.body) == (200, b"ok")
            assert upstream.requests[-1].target == "/probe"


@pytest.mark.parametrize("case", parameters(CASES))
def test_downstream(case, gateways):
    play(case, gateways, lambda client, request: client.send(request))


@pytest.mark.parametrize("case", parameters(SHORT))
def test_downstream_byte_by_byte(case, gateways):
    """How the bytes are cut into segments changes nothing."""
    play(case, gateways, lambda client, request: client.send_pieces(request))


def test_split_at_every_byte(gateways):
    """Two requests with bodies, cut in two at each byte in turn; the answers of both halves are the same."""
    _, upstream = gateways("normalize")
    request = (
        b"POST /1 HTTP/1.1\r\nHost: a\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;x=y\r\nhello\r\n0\r\nT: u\r\n\r\n"
        b"PUT /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    for at in range(1, len(request)):
        upstream.forget()
        with gateways("normalize")[0].client() as client:
            client.send(request[:at])
            if at > request.index(b"PUT"):
                assert client.response().status == 200
                client.send(request[at:])
                rest = 2
            else:
                client.send(request[at:])
                rest = 3
            assert [client.response().status for _ in range(rest)] == [200] * rest, f"cut at {at}"
        seen = [(r.start, bytes(r.body)) for r in upstream.requests]
        assert seen == [
            ("POST /1 HTTP/1.1", b"hello"),
            ("PUT /2 HTTP/1.1", b"abc"),
            ("GET /3 HTTP/1.1", b""),
        ], f"cut at {at}"


def test_case_files_are_well_formed():
    assert len(CASES) > 300
    assert parse_headers([b"X:  a "]) == [("X", "a")]
    assert unescape("a\\r\\n\\x41<<b\\0*2>>\\\\") == b"a\r\nAb\0b\0\\"
