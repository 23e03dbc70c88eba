"""Who goes on first where the limit of a service is reached, and who is shed."""

import hashlib
import json
import time
from contextlib import ExitStack

import grpc
import pytest
import yaml

from fastgw.testing import FakeUpstream, GatewayProcess
from tests.e2e.test_concurrency import Gate, counted, until
from tests.e2e.test_concurrency import world as limited
from tests.e2e.test_http2_upstream import code

PRIORITIES = {
    "classes": ["critical", "normal", "batch"],
    "default": "normal",
    "rules": [
        {"priority": "critical", "consumers": ["vip"]},
        {"priority": "critical", "plans": ["gold"]},
        {"priority": "${request.header.X-Class}", "callers": ["127.0.0.0/8"], "headers": {"X-Class": "*"}},
    ],
}


class World:
    """One gateway for all tests of this file: one place, room for some; the queue is told by `limit`."""

    def __init__(self, stack):
        self.stack = stack
        self.gate = Gate()
        self.up = stack.enter_context(FakeUpstream(self.gate))
        self.gateway = None
        self.number = 0

    def limit(self, concurrency, **more):
        """A service and routes of their own for each test, so that no count is another's."""
        self.number += 1
        name = f"s{self.number}"
        config = {
            "server": {"workers": 1},
            "priorities": PRIORITIES,
            "plans": {"gold": {}},
            "consumers": [
                {"name": who, "keys": [digest(who)], **({"plan": "gold"} if who == "rich" else {})}
                for who in ("vip", "rich", "loud", "quiet", "other")
            ],
            "services": {name: {"endpoints": [self.up.url], "concurrency": concurrency, **more.pop("service", {})}},
            "routes": [
                {"path": f"/{name}/batch/*", "service": name, "priority": "batch"},
                {"path": f"/{name}/who/*", "service": name, "policies": [{"key_auth": {}}]},
                {"path": f"/{name}/*", "service": name, **more.pop("route", {})},
            ],
            **more,
        }
        if self.gateway is None:
            self.gateway = self.stack.enter_context(GatewayProcess(config))
        else:
            text = yaml.safe_load(self.gateway.file.read_text())
            for key in ("services", "routes", "priorities"):
                text[key] = config[key]
            self.gateway.file.write_text(yaml.safe_dump(text))
            status, body = self.gateway.admin("/config/reload", "POST")
            assert status == 200, body
        self.gate.paths.clear()
        while self.gate.passes.acquire(blocking=False):
            pass
        self.name = name
        return self

    def ask(self, path, *headers):
        client = self.stack.enter_context(self.gateway.client(60))
        lines = "".join(f"{line}\r\n" for line in headers)
        client.send(f"GET /{self.name}{path} HTTP/1.1\r\nHost: h\r\n{lines}\r\n".encode())
        return client

    def first(self):
        """Takes the only place."""
        client = self.ask("/first")
        until(lambda: self.gate.paths == [f"/{self.name}/first"])
        return client

    def shown(self):
        limits = json.loads(self.gateway.admin("/overload")[1])["limits"]
        return next(one for one in limits if one["name"] == self.name)

    def queued(self):
        return self.shown()["queued"]

    def wait(self, path, *headers):
        """One more that waits."""
        before = self.queued()
        client = self.ask(path, *headers)
        until(lambda: self.queued() == before + 1)
        return client

    def served(self):
        """In which order they reached the service, after the first."""
        return [path.removeprefix(f"/{self.name}") for path in self.gate.paths[1:]]

    def metric(self, name, **labels):
        text = self.gateway.admin("/metrics")[1]
        for line in text.splitlines():
            wanted = [f'name="{self.name}"', *(f'{key}="{value}"' for key, value in labels.items())]
            if line.startswith(f"fastgw_queue_{name}{{") and all(one in line for one in wanted):
                return float(line.rpartition(" ")[2])
        return None


def digest(name):
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()


@pytest.fixture(scope="module")
def world():
    with ExitStack() as stack:
        yield World(stack)


def finish(world, *clients):
    world.gate.passes.release(len(clients))
    found = [client.response().status for client in clients]
    until(lambda: world.shown()["in_flight"] == 0)
    return found


def test_the_more_important_go_first(world):
    world.limit({"max": 1, "queue": {"max": 20, "timeout": "60s"}})
    clients = [world.first()]
    clients.append(world.wait("/batch/1"))
    clients.append(world.wait("/n1"))
    clients.append(world.wait("/n2"))
    clients.append(world.wait("/h", "X-Class: critical"))
    clients.append(world.wait("/nonsense", "X-Class: urgent"))
    clients.append(world.wait("/who/vip", "X-API-Key: vip"))
    clients.append(world.wait("/who/gold", "X-API-Key: rich"))
    clients.append(world.wait("/who/any", "X-API-Key: other"))
    told = {one["name"]: one["waiting"] for one in world.shown()["classes"]}
    assert told == {"critical": 3, "normal": 4, "batch": 1, "retry": 0, "mirror": 0}
    assert world.metric("waiting", **{"class": "critical"}) == 3
    assert finish(world, *clients) == [200] * 9
    assert world.served() == [
        "/h", "/who/vip", "/who/gold", "/n1", "/n2", "/nonsense", "/who/any", "/batch/1",
    ]  # fmt: skip
    until(lambda: world.metric("wait_seconds_count", **{"class": "critical"}) == 3)
    until(lambda: world.metric("waiting", **{"class": "critical"}) == 0)


def test_a_full_queue_sheds_the_least_important(world):
    world.limit({"max": 1, "queue": {"max": 2, "timeout": "60s"}, "retry_after": "7s"})
    first = world.first()
    batch, other = world.wait("/batch/1"), world.wait("/batch/2")
    critical = world.ask("/c", "X-Class: critical")
    found = other.response()                          # the last that came of the least important ones
    assert code(found) == (503, "service_queue_shed")
    assert found.get("retry-after") == "7" and json.loads(found.body)["priority"] == "batch"
    normal = world.ask("/n")
    assert code(batch.response()) == (503, "service_queue_shed")
    found = world.ask("/batch/3").response()
    assert code(found) == (503, "service_overloaded")
    assert [one["sheds"] for one in world.shown()["classes"] if one["name"] == "batch"] == [
        {"full": 1, "timeout": 0, "displaced": 2, "delay": 0}
    ]
    assert world.metric("shed_total", reason="displaced", **{"class": "batch"}) == 2
    assert finish(world, first, critical, normal) == [200] * 3
    assert world.served() == ["/c", "/n"]


def test_who_sends_most_waits_for_the_others_and_loses_the_places(world):
    world.limit({"max": 1, "queue": {"max": 6, "timeout": "60s", "fair": "consumer"}})
    clients = [world.first()]
    loud = [world.wait(f"/who/loud{number}", "X-API-Key: loud") for number in range(6)]
    quiet = world.ask("/who/quiet", "X-API-Key: quiet")
    assert code(loud.pop().response()) == (503, "service_queue_shed")
    other = world.ask("/who/other", "X-API-Key: other")
    assert code(loud.pop().response()) == (503, "service_queue_shed")
    assert code(world.ask("/who/more", "X-API-Key: loud").response()) == (503, "service_overloaded")
    tenants = world.shown()["tenants"]
    assert [(one["name"], one["waiting"]) for one in tenants] == [("loud", 4), ("other", 1), ("quiet", 1)]
    assert finish(world, *clients, *loud, quiet, other) == [200] * 7
    assert world.served().index("/who/quiet") <= 2 and world.served().index("/who/other") <= 2


def test_a_class_with_a_share_leaves_room_for_the_others(world):
    world.limit({"max": 2, "queue": {"max": 20, "timeout": "60s"}, "shares": {"batch": "50%"}})
    clients = [world.first()]
    clients.append(world.wait("/batch/1"))            # though there is a place
    clients.append(world.ask("/n"))
    until(lambda: len(world.gate.paths) == 2)
    assert world.served() == ["/n"] and world.queued() == 1
    world.gate.passes.release(2)
    until(lambda: len(world.gate.paths) == 3)
    assert finish(world, *clients) == [200] * 3


def test_controlled_delay_sheds_who_waits_while_the_queue_stands(world):
    codel = {"target": "1ms", "interval": "10ms"}
    world.limit({"max": 1, "queue": {"max": 50, "timeout": "60s", "codel": codel}})
    clients = [world.first()] + [world.wait(f"/{number}") for number in range(12)]
    for _ in range(3):
        # who goes on has waited for longer than the target, and more than the interval goes by
        served, begun = len(world.gate.paths), time.monotonic()
        world.gate.passes.release()
        until(lambda served=served: len(world.gate.paths) > served or world.queued() == 0)
        until(lambda begun=begun: time.monotonic() > begun + 0.05)
    world.gate.passes.release(20)
    found = [client.response() for client in clients]
    shed = [one for one in found if one.status == 503]
    assert shed and {code(one) for one in shed} == {(503, "service_queue_delay")}
    assert all(one.status == 200 for one in found[:2])


def test_retries_wait_behind_the_others_and_lose_their_places(world):
    """The service answers the first with 503, so it is asked again; by then others wait."""
    retry = {"attempts": 2, "retry_on": [503], "backoff": "1ms", "budget": {"ratio": 1, "per_second": 100}}
    world.limit({"max": 1, "queue": {"max": 2, "timeout": "60s"}}, service={"retry": retry})
    failing = world.ask("/fail")
    until(lambda: world.gate.paths == [f"/{world.name}/fail"])
    waiting = [world.wait("/batch/1"), world.wait("/batch/2")]
    world.gate.answers.append(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    world.gate.passes.release()
    until(lambda: len(world.gate.paths) == 2)         # one of those that waited has the place
    until(lambda: world.queued() == 2)
    told = {one["name"]: one["waiting"] for one in world.shown()["classes"]}
    assert (told["batch"], told["retry"]) == (1, 1)
    last = world.ask("/batch/3")
    found = failing.response()
    assert code(found) == (503, "service_queue_shed") and json.loads(found.body)["priority"] == "retry"
    assert finish(world, *waiting, last) == [200] * 3


def test_a_client_that_leaves_and_a_time_that_is_over_leave_the_queue(world):
    concurrency = {"max": 1, "queue": {"max": 9, "timeout": "300ms", "fair": "client_ip"}}
    world.limit(concurrency, route={"timeouts": {"total": "20s"}})
    first = world.first()
    world.wait("/gone").close()
    until(lambda: world.queued() == 0)
    late = world.ask("/late")
    assert code(late.response()) == (503, "service_queue_timeout")
    until(lambda: world.queued() == 0)
    assert finish(world, first) == [200]
    assert world.served() == []


def test_many_that_are_late_are_all_told(world):
    world.limit({"max": 1, "queue": {"max": 500, "timeout": "1s", "fair": "consumer"}})
    first = world.first()
    late = [world.ask(f"/{number}") for number in range(150)]
    assert {code(client.response()) for client in late} == {(503, "service_queue_timeout")}
    assert [one["sheds"]["timeout"] for one in world.shown()["classes"] if one["name"] == "normal"] == [150]
    for client in late:
        client.close()
    assert finish(world, first) == [200]


def test_a_drain_serves_those_that_wait():
    concurrency = {"max": 1, "queue": {"max": 9, "timeout": "60s", "fair": "client_ip"}}
    with limited({"concurrency": concurrency}) as (gateway, gate, ask):
        first = ask("/0")
        until(lambda: gate.paths == ["/0"])
        waiting = ask("/1")
        until(lambda: counted(gateway, "queued") == 1)
        assert gateway.admin("/drain", "POST")[0] == 202
        until(lambda: gateway.admin("/ready")[0] == 503)
        gate.passes.release(2)
        assert first.response().status == waiting.response().status == 200


def test_a_reload_keeps_those_that_wait(world):
    world.limit({"max": 1, "queue": {"max": 9, "timeout": "60s", "fair": "consumer"}})
    first, waiting = world.first(), world.wait("/x")
    assert world.gateway.admin("/config/reload", "POST")[0] == 200
    assert world.queued() == 1
    # another number: those that wait do so at the old limit until they have gone
    text = world.gateway.file.read_text()
    world.gateway.file.write_text(text.replace("max: 9", "max: 8"))
    assert world.gateway.admin("/config/reload", "POST")[0] == 200
    world.gate.passes.release(2)
    assert first.response().status == waiting.response().status == 200
    assert world.served() == ["/x"]


def test_copies_wait_behind_everybody(world):
    mirror = {"mirror": {"service": f"s{world.number + 1}"}}
    world.limit({"max": 1, "queue": {"max": 9, "timeout": "60s"}}, route={"policies": [mirror]})
    first = world.first()
    until(lambda: world.queued() == 1)
    told = {one["name"]: one["waiting"] for one in world.shown()["classes"]}
    assert told["mirror"] == 1
    batch = world.wait("/batch/1")
    world.gate.passes.release(3)
    assert first.response().status == batch.response().status == 200
    until(lambda: world.shown()["in_flight"] == 0)
    assert world.served() == ["/batch/1", "/first"]


def test_a_hedge_takes_no_second_place_in_the_queue(world):
    with FakeUpstream(world.gate) as other:
        service = {"endpoints": [world.up.url, other.url], "hedge": {"delay": "10ms", "budget": {"ratio": 1}}}
        world.limit({"max": 1, "queue": {"max": 9, "timeout": "60s"}}, service=service)
        begun = time.monotonic()
        first = world.first()
        until(lambda: time.monotonic() > begun + 0.3)          # the hedge was due long ago
        assert world.queued() == 0 and len(world.gate.paths) == 1
        waiting = world.wait("/x")
        assert world.queued() == 1
        assert finish(world, first, waiting) == [200] * 2
        assert world.served() == ["/x"]


def test_handshakes_of_websockets_wait_too(world):
    world.limit({"max": 1, "queue": {"max": 9, "timeout": "60s"}}, route={"websocket": True})
    first = world.first()
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", key, "Sec-WebSocket-Version: 13")
    socket = world.wait("/socket", *upgrade, "X-Class: critical")
    plain = world.ask("/plain")
    until(lambda: world.queued() == 2)
    assert {one["name"]: one["waiting"] for one in world.shown()["classes"]}["critical"] == 1
    assert finish(world, first, socket, plain) == [200] * 3    # this service knows of none
    assert world.served() == ["/socket", "/plain"]


def test_calls_of_grpc_hear_that_it_is_unavailable(world):
    world.limit({"max": 1})
    first = world.first()
    with grpc.insecure_channel(f"127.0.0.1:{world.gateway.port}") as channel:
        call = channel.unary_unary(f"/{world.name}/Method")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "too many" in caught.value.details().lower()
    assert finish(world, first) == [200]
