"""`overload`: a worker that is late, or has too many requests under way, turns the least important away first."""

import json
import time

import pytest
from pydantic import ValidationError

from fastgw._core.pressure import OverloadHook, Pressure
from fastgw.policies import Policy
from fastgw.policies.overload import OverloadOptions
from fastgw.testing import FakeUpstream, GatewayProcess
from fastgw.testing.policy import Trial
from tests.e2e.test_concurrency import Gate, until
from tests.e2e.test_http2_upstream import code


class Block(Policy):
    """Keeps the whole worker from its work."""

    name = "block"

    def request(self, exchange):
        time.sleep(0.15)


def test_one_late_look_means_nothing():
    pressure = Pressure()
    for late, behind in ((500, 0), (0, 0), (400, 0), (300, 300), (600, 300), (-5, 0), (700, 0)):
        pressure.saw(late)
        assert pressure.behind == behind


def test_options():
    assert OverloadOptions().lag == 0.1
    with pytest.raises(ValidationError, match="neither"):
        OverloadOptions(lag=None)
    with pytest.raises(ValueError, match="lag or a number"):
        OverloadHook(Pressure(), 0, 0, 1, print)
    from fastgw.policies.overload import Overload

    assert Trial(Overload, {"requests": 1}).ask("GET /").passed          # without a worker nothing is late


PRIORITIES = {
    "classes": ["critical", "normal", "batch"],
    "default": "normal",
    "rules": [{"priority": "${request.header.X-Class}", "callers": ["127.0.0.0/8"], "headers": {"X-Class": "*"}}],
}


@pytest.fixture(scope="module")
def world():
    gate = Gate()
    with FakeUpstream(gate) as up:
        config = {
            "server": {"workers": 1},
            "priorities": PRIORITIES,
            "services": {"up": {"endpoints": [up.url]}},
            "routes": [
                {
                    "path": "/block",
                    "policies": [{"tests.policies.test_overload:Block": {}}, {"respond": {"status": 200}}],
                },
                {
                    "path": "/late",
                    "policies": [{"overload": {"lag": "20ms", "retry_after": "3s"}}, {"respond": {"status": 200}}],
                },
                {"path": "/*", "service": "up", "policies": [{"overload": {"lag": None, "requests": 2}}]},
            ],
        }
        with GatewayProcess(config) as gateway:
            yield gateway, gate


def test_the_least_important_are_refused_first(world):
    gateway, gate = world
    clients = []

    def ask(which):
        client = gateway.client(60)
        clients.append(client)
        client.send(f"GET /x HTTP/1.1\r\nHost: h\r\nX-Class: {which}\r\n\r\n".encode())
        return client

    try:
        # 2 may be under way: batch is refused from 2 on, normal from 3, critical from 4
        for number in (1, 2):
            ask("batch")
            until(lambda number=number: len(gate.paths) == number)
        found = ask("batch").response()
        assert code(found) == (503, "worker_overloaded")
        assert found.get("retry-after") == "1" and json.loads(found.body)["priority"] == "batch"
        ask("normal")
        until(lambda: len(gate.paths) == 3)
        assert code(ask("normal").response()) == (503, "worker_overloaded")
        ask("critical")
        until(lambda: len(gate.paths) == 4)
        assert code(ask("critical").response()) == (503, "worker_overloaded")
        told = json.loads(gateway.admin("/overload")[1])["workers"]
        assert [one["sheds"] for one in told] == [{"batch": 1, "normal": 1, "critical": 1}]
        assert 'fastgw_worker_shed_total{class="normal"} 1.0' in gateway.admin("/metrics")[1]
        gate.passes.release(4)
        assert [clients[number].response().status for number in (0, 1, 3, 5)] == [200] * 4
    finally:
        for client in clients:
            client.close()


def test_a_worker_that_is_late(world):
    gateway, _ = world
    head = b"HTTP/1.1\r\nHost: h\r\nX-Class: batch\r\n\r\n"
    end = time.monotonic() + 60
    with gateway.client(60) as late, gateway.client(60) as one, gateway.client(60) as other:
        until(lambda: late.request(b"GET /late " + head).status == 200)
        while time.monotonic() < end:
            # two clients block it in turns, and a third one comes between
            one.send(b"GET /block " + head)
            other.send(b"GET /block " + head)
            found = late.request(b"GET /late " + head)
            assert one.response().status == other.response().status == 200
            if found.status == 503:
                break
        assert code(found) == (503, "worker_overloaded") and found.get("retry-after") == "3"
        until(lambda: late.request(b"GET /late " + head).status == 200)
