"""The way of a response's body through the hooks of its chain: in which order, and from where on."""

import sys
import time

import pytest

from fastgw.testing import FakeUpstream, Gate

REQUEST = b"GET %s HTTP/1.1\r\nHost: example.com\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup"
NAME = "body_policies_of_the_test"
POLICIES = """
from fastgw import Policy, Problem, Refused, Reply

class Mark(Policy):
    name = "mark"
    letter = b"?"
    def response_body(self, exchange, chunk, end):
        return chunk + self.letter if chunk else chunk

class A(Mark):
    letter = b"a"

class B(Mark):
    letter = b"b"

class Answers(Policy):
    name = "answers"
    def request(self, exchange):
        return Reply(200, "own")

class Replaces(Policy):
    name = "replaces"
    def response_head(self, exchange):
        return Reply(203, "other")

class AtTheEnd(Policy):
    name = "at_the_end"
    def response_body(self, exchange, chunk, end):
        return chunk + b"!" if end else chunk

class Fails(Policy):
    name = "fails"
    def response_body(self, exchange, chunk, end):
        raise Refused(Problem(502, "not_this", side=3))

class WrongType(Policy):
    name = "wrong_type"
    def response_body(self, exchange, chunk, end):
        return "text"
"""
ROUTES = {
    "both": ("A", "B"),
    "between": ("A", "Answers", "B"),
    "replaced": ("A", "Replaces", "B"),
    "end": ("A", "AtTheEnd"),
    "fails": ("Fails", "Answers"),
    "wrong": ("WrongType", "Answers"),
    "shared": ("A", "coalesce"),
    "alone": ("coalesce", "A"),
}


@pytest.fixture
def running(gateway, tmp_path, monkeypatch):
    (tmp_path / f"{NAME}.py").write_text(POLICIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    held = Gate(ANSWER)
    with FakeUpstream(held) as upstream:
        text = f"services: {{things: {upstream.url}}}\nroutes:\n"
        for path, chain in ROUTES.items():
            names = [f'"{NAME}:{one}"' if one[0].isupper() else one for one in chain]
            text += f"  - {{path: /{path}, service: things, policies: [{', '.join(names)}]}}\n"
        found = gateway(text)
        found.upstream, found.held = upstream, held
        yield found
    sys.modules.pop(NAME, None)


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        (b"/both", 200, b"upba"),           # the last of the file first
        (b"/end", 200, b"upa!a"),           # what comes with the end passes those before it too
        (b"/between", 200, b"owna"),        # what stands behind the one that answers has no part in it
        (b"/replaced", 203, b"othera"),     # and what has passed already has none in what replaces it
    ],
)
def test_the_order(running, path, status, body):
    running.held.open.set()
    with running.client() as client:
        for _ in range(2):
            response = client.request(REQUEST % path)
            assert (response.status, bytes(response.body)) == (status, body)


def test_a_filter_that_fails(running):
    running.held.open.set()
    with running.client() as client:
        response = client.request(REQUEST % b"/fails")
        assert response.status == 502 and b"not_this" in response.body
        response = client.request(REQUEST % b"/wrong")
        assert response.status == 500 and b"policy_failed" in response.body


def test_a_tap_sees_what_leaves_those_behind_it(running):
    """`coalesce` shares what the service sent: a filter before it does not matter, each answer passes it by itself."""
    clients = [running.client() for _ in range(3)]
    for client in clients:
        client.send(REQUEST % b"/shared")
    deadline = time.monotonic() + 30
    hook = running.engine.plan.routes[6].chain[1]
    while ", 3 exchanges" not in running.call(lambda: repr(hook)):
        assert time.monotonic() < deadline, hook
        time.sleep(0.002)
    running.held.open.set()
    assert [bytes(client.response().body) for client in clients] == [b"upa"] * 3
    assert len(running.upstream.requests) == 1


def test_what_a_filter_behind_it_changes_is_not_shared(running):
    clients = [running.client() for _ in range(3)]
    for client in clients:
        client.send(REQUEST % b"/alone")
    running.upstream.wait_requests(3)
    running.held.open.set()
    assert [bytes(client.response().body) for client in clients] == [b"upa"] * 3
