"""Policies that speak to the upstream otherwise than the client does: late bodies, other requests, held answers."""

import pytest

from fastgw import Problem, Refused, Reply, WholeBody
from fastgw._core.exchange import Exchange
from fastgw.testing import answer
from tests.patience import until

MODULE = '''
from pydantic import BaseModel
from fastgw import Policy, Problem, Refused, WholeBody


class Shout(Policy):
    """Wants the body of requests that say so, and sends another one."""

    name = "shout"

    def request(self, exchange):
        if exchange.request.get("x-shout") is None:
            return None
        if exchange.request.get("x-twice") is not None:
            return WholeBody(10)
        if exchange.request_body is None:
            return WholeBody(10)
        exchange.send_as("PUT", "/shouted?n=1", exchange.request_body.upper() + b"!")


class Held(Policy):
    """Holds the answers that the request asks to hold, and tells their size."""

    name = "held"

    def request(self, exchange):
        if exchange.request.get("x-hold") is not None:
            exchange.hold_response(int(exchange.request.get("x-hold")))

    def response_head(self, exchange):
        if not exchange.is_local and exchange.request.get("x-hold") is not None:
            exchange.response.set("X-Size", str(len(exchange.response_body)))


class Picky(Policy):
    """Refuses pieces of bodies."""

    name = "picky"

    def request_body(self, exchange, chunk, end):
        return self.look("request", chunk)

    def response_body(self, exchange, chunk, end):
        return self.look("response", chunk)

    def look(self, what, chunk):
        if b"xyzzy" in chunk:
            raise Refused(Problem(422, "refused", f"This {what} is refused."))
        if b"plugh" in chunk:
            raise RuntimeError("a bug")
        return chunk
'''
CONFIG = """
services: {{up: "{url}"}}
routes:
  - {{path: /api/*, service: up, strip_prefix: /api, policies: ["translating:Shout"]}}
  - {{path: /held/*, service: up, policies: ["translating:Held"]}}
  - {{path: /picky/local, policies: ["translating:Picky", {{respond: {{body: plugh}}}}]}}
  - {{path: /picky/*, service: up, policies: ["translating:Picky"]}}
"""
HEAD = b"%s HTTP/1.1\r\nHost: a\r\n%s\r\n"


@pytest.fixture
def running(gateway, upstream, tmp_path, monkeypatch):
    (tmp_path / "translating.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return gateway(CONFIG.format(url=upstream.url))


def ask(running, line, headers=b"", body=b""):
    if body:
        headers += b"Content-Length: %d\r\n" % len(body)
    with running.client() as client:
        return client.request(HEAD % (line, headers) + body)


SHOUT = b"X-Shout: yes\r\n"


def test_a_body_that_is_wanted_is_there_and_can_be_another(running, upstream):
    assert ask(running, b"POST /api/x?y=2", SHOUT, b"hello").status == 200
    (seen,) = upstream.requests
    assert (seen.method, seen.target, bytes(seen.body)) == ("PUT", "/shouted?n=1", b"HELLO!")
    assert seen.get("Content-Length") == "6"
    until(lambda: running.records == [(200, None)])


def test_a_request_without_a_body_gets_one(running, upstream):
    assert ask(running, b"GET /api/x", SHOUT).status == 200
    (seen,) = upstream.requests
    assert (seen.method, seen.target, bytes(seen.body)) == ("PUT", "/shouted?n=1", b"!")


def test_others_are_not_touched(running, upstream):
    assert ask(running, b"POST /api/x?y=2", b"", b"longer than ten bytes").status == 200
    (seen,) = upstream.requests
    assert (seen.method, seen.target, bytes(seen.body)) == ("POST", "/x?y=2", b"longer than ten bytes")


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD % (b"POST /api/x", SHOUT + b"Content-Length: 11\r\n") + b"x" * 11,
        HEAD % (b"POST /api/x", SHOUT + b"Transfer-Encoding: chunked\r\n") + b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n",
    ],
)
def test_a_longer_body_is_refused(running, upstream, request_bytes):
    with running.client() as client:
        assert client.request(request_bytes).status == 413
    assert upstream.requests == []


@pytest.mark.parametrize("body", [b"", b"hello"])
def test_a_body_asked_for_again_and_again_is_a_failure(running, upstream, body):
    assert ask(running, b"POST /api/x", SHOUT + b"X-Twice: yes\r\n", body).status == 500
    assert upstream.requests == []
    until(lambda: running.records == [(500, "policy_failed")])


def test_an_answer_is_held_for_the_request_that_asks(running, upstream):
    upstream.script(answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"))
    response = ask(running, b"GET /held/x", b"X-Hold: 5\r\n")
    assert (response.get("X-Size"), bytes(response.body)) == ("5", b"abcde")
    assert response.get("Content-Length") == "5"
    response = ask(running, b"GET /held/x")
    assert (response.get("X-Size"), bytes(response.body)) == (None, b"abcde")
    assert ask(running, b"GET /held/x", b"X-Hold: 4\r\n").status == 502
    until(lambda: running.records[-1:] == [(502, "upstream_body_too_large")])


def test_a_filter_refuses_a_request(running):
    response = ask(running, b"POST /picky/x", b"", b"xyzzy")
    assert response.status == 422
    assert b"This request is refused." in response.body
    until(lambda: running.records == [(422, "refused")])


def test_a_filter_that_fails_lets_nothing_pass(running):
    assert ask(running, b"POST /picky/x", b"", b"plugh").status == 500
    assert ask(running, b"GET /picky/local").status == 500
    until(lambda: running.records == [(500, "policy_failed"), (500, "policy_failed")])


@pytest.mark.parametrize(("word", "code"), [(b"xyzzy", "refused"), (b"plugh", "policy_failed")])
def test_a_filter_that_refuses_an_answer_cuts_it_off(running, upstream, word, code):
    upstream.script(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + word))
    with running.client() as client:
        client.send(HEAD % (b"GET /picky/x", b""))
        assert client.ended() in ("eof", "reset")
        assert word not in client.rest() and not client.rest().endswith(b"0\r\n\r\n")
    until(lambda: running.records == [(200, code)])


def test_the_connection_goes_on_after_a_refused_body(running, upstream):
    with running.client() as client:
        refused = client.request(HEAD % (b"POST /picky/x", b"Content-Length: 5\r\n") + b"xyzzy")
        assert refused.status == 422
        assert client.request(HEAD % (b"GET /picky/x", b"")).status == 200


@pytest.mark.parametrize(
    ("method", "target"), [("BREW", "/"), ("GET", "x"), ("GET", "/a b"), ("GET", "/a\r\nb"), ("GET", "/ä"), ("GET", "")]
)
def test_what_cannot_stand_in_a_request_line_is_refused(method, target):
    with pytest.raises(ValueError, match="is not a"):
        Exchange().send_as(method, target)


def test_the_names_are_public():
    refused = Refused(Problem(400, "no"))
    assert refused.problem.code == "no"
    assert WholeBody(5).limit == 5
    assert Reply(200).status == 200
