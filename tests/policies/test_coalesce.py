"""`coalesce`, through sockets: who shares, who does not, and what becomes of those who wait."""

import threading

import pytest
from pydantic import ValidationError

from fastgw.policies.coalesce import CoalesceOptions
from fastgw.testing import FakeUpstream, Gate, answer
from tests.patience import until

REQUEST = b"GET /things?a=1 HTTP/1.1\r\nHost: example.com\r\n%s\r\n"
CONFIG = """
services:
  things: {url}
routes:
  - path: /*
    service: things
    policies:
      - coalesce: {options}
"""


HELLO = b"HTTP/1.1 200 OK\r\nX-From: up\r\nContent-Length: 5\r\n\r\nhello"


def start(gateway, gate, options="{}"):
    upstream = FakeUpstream(gate)
    running = gateway(CONFIG.format(url=upstream.url, options=options))
    return upstream, running


def waiting(running, count):
    """Waits until so many exchanges are on a flight, the leader among them."""
    hook = running.engine.plan.routes[0].chain[0]
    until(lambda: f", {count} exchanges" in running.call(lambda: repr(hook)), f"{count} exchanges, {hook!r}")


def ask(running, count, headers=(b"",)):
    clients = [running.client() for _ in range(count)]
    for number, client in enumerate(clients):
        client.send(REQUEST % headers[number % len(headers)])
    return clients


def test_one_request_answers_all(gateway):
    gate = Gate(HELLO)
    upstream, running = start(gateway, gate)
    with upstream:
        clients = ask(running, 5)
        waiting(running, 5)
        gate.open.set()
        answers = [client.response() for client in clients]
        assert {(a.status, bytes(a.body), a.get("X-From")) for a in answers} == {(200, b"hello", "up")}
        assert len(upstream.requests) == 1
        until(lambda: running.stats.read_counters()["coalesced"] == 4)
        # the flight is over: what comes now is asked for anew, also on the connections of those who waited
        for client in clients:
            assert client.request(REQUEST % b"").status == 200
        assert len(upstream.requests) == 6
        waiting(running, 0)


@pytest.mark.parametrize(
    "options, headers, requests",
    [
        ("{}", (b"Authorization: Bearer a\r\n", b"Authorization: Bearer b\r\n"), 2),
        ("{}", (b"Cookie: s=1\r\n", b""), 2),
        ("{across_identities: true}", (b"Cookie: s=1\r\n", b"Cookie: s=2\r\n"), 1),
        ("{}", (b"Accept: a\r\n", b"Accept: b\r\n"), 2),
        ("{headers: []}", (b"Accept: a\r\n", b"Accept: b\r\n"), 1),
        ("{}", (b"Origin: https://a\r\n", b"Origin: https://b\r\n"), 2),
        ("{}", (b"Cache-Control: no-store\r\n",), 4),
        ("{max_waiters: 1}", (b"",), 3),
    ],
)
def test_who_shares(gateway, options, headers, requests):
    gate = Gate(HELLO)
    upstream, running = start(gateway, gate, options)
    with upstream:
        clients = ask(running, 4, headers)
        upstream.wait_requests(requests)
        if requests < 4:
            waiting(running, 4 if "max_waiters" not in options else 2)
        gate.open.set()
        assert [client.response().status for client in clients] == [200] * 4
        assert len(upstream.requests) == requests


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nSet-Cookie: s=1\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nCache-Control: max-age=1, Private\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nVary: *\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nVary: Accept, X-Team\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n",
    ],
)
def test_what_is_not_for_sharing(gateway, reply):
    gate = Gate(reply)
    upstream, running = start(gateway, gate, "{max_body: 1000}")
    with upstream:
        clients = ask(running, 3)
        waiting(running, 3)
        gate.open.set()
        bodies = [bytes(client.response().body) for client in clients]
        assert len({len(body) for body in bodies}) == 1
        assert len(upstream.requests) == 3
        assert running.stats.read_counters()["coalesced"] == 0


def test_other_methods_go_alone(gateway):
    gate = Gate(b"HTTP/1.1 204 No Content\r\n\r\n")
    upstream, running = start(gateway, gate)
    with upstream:
        clients = [running.client() for _ in range(2)]
        for client in clients:
            client.send(b"DELETE /things HTTP/1.1\r\nHost: a\r\n\r\n")
        upstream.wait_requests(2)
        gate.open.set()
        assert [client.response().status for client in clients] == [204, 204]


def test_a_leader_that_leaves_hands_on(gateway):
    gate = Gate(HELLO)
    upstream, running = start(gateway, gate)
    with upstream:
        (leader,) = ask(running, 1)
        waiting(running, 1)
        others = ask(running, 3)
        waiting(running, 4)
        leader.close()
        upstream.wait_requests(2)
        waiting(running, 3)
        gate.open.set()
        assert [client.response().status for client in others] == [200] * 3
        assert len(upstream.requests) == 2
        until(lambda: (499, "client_closed") in running.records)


def test_one_that_waits_may_leave(gateway):
    gate = Gate(HELLO)
    upstream, running = start(gateway, gate)
    with upstream:
        first, second, third = ask(running, 3)
        waiting(running, 3)
        third.close()
        waiting(running, 2)
        gate.open.set()
        assert [client.response().status for client in (first, second)] == [200, 200]


@pytest.mark.parametrize("options, statuses, requests", [("{}", [200, 200], 3), ("{on_failure: fail}", [502, 502], 1)])
def test_a_leader_that_fails(gateway, options, statuses, requests):
    gate = threading.Event()

    def play(connection):
        connection.read_request()
        connection.wait(gate)
        if len(upstream.requests) > 1:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    upstream, running = start(gateway, play, options)
    with upstream:
        (leader,) = ask(running, 1)
        waiting(running, 1)
        others = ask(running, 2)
        waiting(running, 3)
        # only the first connection is there; it closes without an answer
        upstream.play = (answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),)
        gate.set()
        assert leader.response().status == 502
        assert [client.response().status for client in others] == statuses
        assert len(upstream.requests) == requests


@pytest.mark.parametrize("options, status", [("{timeout: 50ms, on_failure: fail}", 504), ("{timeout: 50ms}", 200)])
def test_a_wait_has_an_end(gateway, options, status):
    gate = Gate(HELLO)
    upstream, running = start(gateway, gate, options)
    with upstream:
        (first,) = ask(running, 1)
        upstream.wait_requests(1)
        (second,) = ask(running, 1)
        if status == 200:
            upstream.wait_requests(2)
            gate.open.set()
        assert second.response().status == status
        gate.open.set()
        assert first.response().status == 200
        if status == 504:
            until(lambda: (504, "coalesce_timeout") in running.records)


def test_consumers_do_not_share(gateway):
    import hashlib

    gate = Gate(HELLO)
    digests = [hashlib.sha256(key).hexdigest() for key in (b"k1", b"k2")]
    with FakeUpstream(gate) as upstream:
        running = gateway(
            f"services: {{things: '{upstream.url}'}}\n"
            f"consumers: [{{name: a, keys: ['sha256:{digests[0]}']}}, {{name: b, keys: "
            f"['sha256:{digests[1]}']}}]\n"
            "routes:\n  - {path: /*, service: things, policies: [key_auth, coalesce]}\n"
        )
        clients = ask(running, 4, (b"X-API-Key: k1\r\n", b"X-API-Key: k2\r\n"))
        upstream.wait_requests(2)
        hook = running.engine.plan.routes[0].chain[1]
        until(lambda: "2 flights, 4 exchanges" in running.call(lambda: repr(hook)), repr(hook))
        gate.open.set()
        assert [client.response().status for client in clients] == [200] * 4
        assert len(upstream.requests) == 2


def test_bounds_are_checked():
    for options in ({"max_body": 0}, {"max_waiters": 0}, {"timeout": 0}, {"on_failure": "ignore"}):
        with pytest.raises(ValidationError):
            CoalesceOptions.model_validate(options)
