"""Who is asked before an attempt: in which order, what each verdict does, and that all who said yes hear of the end."""

import threading
from contextlib import contextmanager
from importlib import import_module

import pytest

from fastgw._core.probe import ScriptedAdmission
from fastgw.testing import FakeUpstream
from fastgw.testing.inprocess import GatewayThread
from fastgw.testing.upstream import close_without_answer

BUILD = import_module("fastgw.plan.build")
CONTINUE, REPLIED, WAIT = 0, 1, 2
GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"


class Doors:
    """One at the route and one at the service; `says` is what each answers, `heard` all that they heard."""

    def __init__(self):
        self.says = {"route": CONTINUE, "service": CONTINUE}
        self.heard = []
        self.waiting = {}
        self.lock = threading.Condition()
        self.doors = {name: ScriptedAdmission(self.ask(name), self.hear(name)) for name in self.says}

    def ask(self, name):
        def asked(exchange):
            if self.says[name] == WAIT:
                self.waiting[name] = exchange
            return self.says[name]

        return asked

    def hear(self, name):
        def heard(what, exchange, detail):
            with self.lock:
                self.heard.append((name, what) if detail is None else (name, what, detail))
                self.lock.notify_all()

        return heard

    def wait_for(self, *event):
        with self.lock:
            assert self.lock.wait_for(lambda: event in self.heard, 30), self.heard


@contextmanager
def world(monkeypatch, play=None, service=None, route=None):
    doors = Doors()

    monkeypatch.setattr(BUILD.Builder, "admissions", lambda self, given: (doors.doors["service"],))
    monkeypatch.setattr(BUILD.Builder, "route_admissions", lambda self, given: (doors.doors["route"],))
    with FakeUpstream(play) if play else FakeUpstream() as up:
        config = {
            "services": {"up": {"endpoints": [up.url], **(service or {})}},
            "routes": [{"path": "/*", "service": "up", **(route or {})}],
        }
        with GatewayThread(config) as gateway, gateway.client() as client:
            yield doors, gateway, client, up


def test_all_are_asked_in_order_and_hear_of_the_answer_and_the_end(monkeypatch):
    with world(monkeypatch) as (doors, _, client, _):
        assert client.request(GET).status == 200
        doors.wait_for("route", "left")
    assert doors.heard == [
        ("route", "asked"),
        ("service", "asked"),
        ("service", "answered", 200),
        ("route", "answered", 200),
        ("service", "left"),
        ("route", "left"),
    ]


@pytest.mark.parametrize("who", ["route", "service"])
def test_a_refusal_is_the_answer_and_nobody_is_asked(monkeypatch, who):
    with world(monkeypatch) as (doors, _, client, up):
        doors.says[who] = REPLIED
        found = client.request(GET)
        assert (found.status, found.get("retry-after")) == (503, "7")
        assert b'"code":"overloaded"' in bytes(found.body)
        doors.says[who] = CONTINUE
        assert client.request(GET).status == 200
        assert len(up.requests) == 1
    before = [("route", "asked")] if who == "service" else []
    after = [("route", "left")] if who == "service" else []
    assert doors.heard[: len(before) * 2 + 2] == [*before, (who, "asked"), (who, "refused"), *after]


@pytest.mark.parametrize("who", ["route", "service"])
@pytest.mark.parametrize("verdict", [CONTINUE, REPLIED])
def test_one_that_waits_goes_on_or_is_refused(monkeypatch, who, verdict):
    with world(monkeypatch) as (doors, gateway, client, up):
        doors.says[who] = WAIT
        client.send(GET)
        doors.wait_for(who, "asked")
        exchange = doors.waiting[who]
        gateway.call(lambda: doors.doors[who].resume(exchange, verdict))
        assert client.response().status == (200 if verdict == CONTINUE else 503)
        doors.wait_for(who, "left" if verdict == CONTINUE else "refused")
        assert len(up.requests) == (1 if verdict == CONTINUE else 0)
        assert (who, "gave up") not in doors.heard
        # what comes too late changes nothing
        doors.says[who] = CONTINUE
        assert client.request(GET).status == 200


def test_a_client_that_leaves_while_it_waits(monkeypatch):
    with world(monkeypatch) as (doors, gateway, client, up):
        doors.says["service"] = WAIT
        client.send(GET)
        doors.wait_for("service", "asked")
        client.close()
        doors.wait_for("route", "left")
        assert doors.heard == [
            ("route", "asked"), ("service", "asked"), ("service", "gave up"), ("route", "left"),
        ]  # fmt: skip
        assert gateway.call(lambda: gateway.gateway.plane.engine.active) == 0
        assert up.requests == []


def test_the_total_time_ends_a_wait(monkeypatch):
    with world(monkeypatch, route={"timeouts": {"total": "100ms"}}) as (doors, _, client, up):
        doors.says["service"] = WAIT
        found = client.request(GET)
        assert (found.status, b"route_timeout" in bytes(found.body)) == (504, True)
        assert doors.heard == [
            ("route", "asked"),
            ("service", "asked"),
            ("route", "failed", "route_timeout"),
            ("service", "gave up"),
            ("route", "left"),
        ]
        assert up.requests == []


def test_each_attempt_is_asked_for_and_waits_hold_nothing(monkeypatch):
    retry = {"attempts": 2, "backoff": "1ms", "budget": {"ratio": 1, "per_second": 100}}
    with world(monkeypatch, close_without_answer, service={"retry": retry}) as (doors, _, client, _):
        assert client.request(GET).status == 502
        doors.wait_for("route", "left")
        one = [
            ("route", "asked"),
            ("service", "asked"),
            ("service", "failed", "upstream_reset"),
            ("route", "failed", "upstream_reset"),
            ("service", "left"),
            ("route", "left"),
        ]
        assert doors.heard == one * 2


def test_an_answer_that_breaks_off(monkeypatch):
    def play(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    with world(monkeypatch, play) as (doors, _, client, _):
        client.send(GET)
        doors.wait_for("route", "left")
        heard = [one[1:] for one in doors.heard if one[0] == "service"]
        assert heard == [("asked",), ("answered", 200), ("failed", "upstream_truncated"), ("left",)]


def test_a_wait_is_over_for_all_when_the_gateway_stops(monkeypatch):
    with world(monkeypatch) as (doors, _, client, _):
        doors.says["route"] = WAIT
        client.send(GET)
        doors.wait_for("route", "asked")
    assert ("route", "gave up") in doors.heard
