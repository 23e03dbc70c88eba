"""How many requests may be under way: those beyond wait their turn, or are refused."""

import json
import re
import threading
import time
from contextlib import ExitStack, contextmanager

from fastgw.testing import FakeUpstream, GatewayProcess
from tests.e2e.test_http2_upstream import code
from tests.patience import until

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Gate:
    """An endpoint that answers one request each time it is let."""

    def __init__(self):
        self.passes = threading.Semaphore(0)
        self.paths = []
        self.answers = []                # instead of GOOD, once each
        self.up = None

    def __call__(self, connection):
        while True:
            self.paths.append(connection.read_request().target)
            while not self.passes.acquire(timeout=0.05):
                if connection.owner.stopping:
                    return
            connection.send(self.answers.pop() if self.answers else GOOD)


@contextmanager
def world(service=None, route=None, workers=1, **more):
    gate = Gate()
    with ExitStack() as stack:
        gate.up = stack.enter_context(FakeUpstream(gate))
        config = {
            "server": {"workers": workers},
            "services": {"up": {"endpoints": [gate.up.url], **(service or {})}},
            "routes": [{"path": "/*", "service": "up", **(route or {})}, {"path": "/free/*", "service": "up"}],
            **more,
        }
        gateway = stack.enter_context(GatewayProcess(config))
        clients = []

        def ask(path="/x"):
            client = stack.enter_context(gateway.client(60))
            clients.append(client)
            client.send(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            return client

        yield gateway, gate, ask


def counted(gateway, name, scope="service"):
    text = gateway.admin("/metrics")[1]
    found = re.search(rf'^fastgw_concurrency_{name}{{[^}}]*scope="{scope}"[^}}]*}} (\S+)$', text, re.MULTILINE)
    return None if found is None else float(found[1])


def test_beyond_the_limit_is_refused():
    with world({"concurrency": 2}) as (gateway, gate, ask):
        first, second = ask("/1"), ask("/2")
        until(lambda: len(gate.paths) == 2)
        refused = ask().response()
        assert code(refused) == (503, "service_overloaded")
        assert dict(refused.headers)["Retry-After"] == "1"
        names = ("limit", "in_flight", "queued", "refused_total")
        until(lambda: [counted(gateway, name) for name in names] == [2, 2, 0, 1])
        gate.passes.release(2)
        assert first.response().status == second.response().status == 200
        until(lambda: counted(gateway, "in_flight") == 0)
        third = ask()
        gate.passes.release()
        assert third.response().status == 200


def test_the_queue_is_first_in_first_out():
    with world({"concurrency": {"max": 1, "queue": {"max": 3, "timeout": "60s"}}}) as (gateway, gate, ask):
        clients = [ask("/0")]
        until(lambda: gate.paths == ["/0"])
        for number in (1, 2, 3):
            clients.append(ask(f"/{number}"))
            until(lambda number=number: counted(gateway, "queued") == number)
        assert code(ask("/4").response()) == (503, "service_overloaded")
        for client in clients:
            gate.passes.release()
            assert client.response().status == 200
        assert gate.paths == ["/0", "/1", "/2", "/3"]
        until(lambda: [counted(gateway, name) for name in ("in_flight", "queued", "refused_total")] == [0, 0, 1])


def test_nobody_waits_for_longer_than_is_said():
    with world({"concurrency": {"max": 1, "queue": {"max": 9, "timeout": "300ms"}}}) as (_, gate, ask):
        first = ask("/0")
        until(lambda: gate.paths == ["/0"])
        begun = time.monotonic()
        late = [ask(), ask()]
        for client in late:
            found = client.response()
            assert code(found) == (503, "service_queue_timeout")
            assert "waited" in json.loads(found.body)["title"]
        assert time.monotonic() - begun >= 0.3
        gate.passes.release()
        assert first.response().status == 200 and gate.paths == ["/0"]


def test_who_leaves_leaves_the_queue():
    with world({"concurrency": {"max": 1, "queue": {"max": 2, "timeout": "60s"}}}) as (gateway, gate, ask):
        first, leaving = ask("/0"), None
        until(lambda: gate.paths == ["/0"])
        leaving = ask("/gone")
        until(lambda: counted(gateway, "queued") == 1)
        last = ask("/1")
        until(lambda: counted(gateway, "queued") == 2)
        leaving.close()
        until(lambda: counted(gateway, "queued") == 1)
        gate.passes.release(2)
        assert first.response().status == last.response().status == 200
        assert gate.paths == ["/0", "/1"]


def test_the_time_of_the_route_holds_in_the_queue():
    route = {"timeouts": {"total": "300ms"}}
    with world({"concurrency": {"max": 1, "queue": {"max": 2, "timeout": "60s"}}}, route) as (gateway, gate, ask):
        first = ask("/free/0")
        until(lambda: gate.paths == ["/free/0"])
        assert code(ask().response()) == (504, "route_timeout")
        until(lambda: counted(gateway, "queued") == 0)
        gate.passes.release()
        assert first.response().status == 200
        until(lambda: counted(gateway, "in_flight") == 0)


def test_a_route_has_its_own():
    with world({"concurrency": 5}, {"concurrency": 1}) as (gateway, gate, ask):
        first = ask("/x")
        until(lambda: gate.paths == ["/x"])
        assert code(ask("/x").response()) == (503, "service_overloaded")
        free = ask("/free/x")
        until(lambda: len(gate.paths) == 2)
        until(lambda: counted(gateway, "in_flight") == 2 and counted(gateway, "in_flight", "route") == 1)
        gate.passes.release(2)
        assert first.response().status == free.response().status == 200
        until(lambda: counted(gateway, "in_flight") == 0 == counted(gateway, "in_flight", "route"))


def test_each_worker_has_its_share():
    with world({"concurrency": 5}, workers=2) as (gateway, _, _ask):
        assert counted(gateway, "limit") == 6
        shown = json.loads(gateway.admin("/services")[1])
        services = shown["services"] if isinstance(shown, dict) else shown
        assert services[0]["concurrency"] == {"limit": 6, "in_flight": 0, "queued": 0, "refused": 0}


def test_a_reload_goes_on_counting():
    with world({"concurrency": 1}) as (gateway, gate, ask):
        first = ask("/0")
        until(lambda: gate.paths == ["/0"])
        gateway.file.write_text(gateway.file.read_text().replace("/free/", "/other/"))
        status, body = gateway.admin("/config/reload", "POST")
        assert (status, json.loads(body)["generation"]) == (200, 2)
        assert code(ask().response()) == (503, "service_overloaded")
        gate.passes.release()
        assert first.response().status == 200
        until(lambda: counted(gateway, "in_flight") == 0)


def test_a_limit_that_is_learnt():
    """With room for all that comes it grows from its least; nothing is refused where there is a queue."""
    adaptive = {"min": 2, "max": 64, "window": "20ms", "min_rtt_requests": 10}
    service = {"concurrency": {"adaptive": adaptive, "queue": {"max": 100, "timeout": "60s"}}}
    with world(service) as (gateway, gate, _ask):
        gate.passes.release(100_000)
        assert counted(gateway, "limit") == 2
        stop = threading.Event()
        bad = []

        def load():
            with gateway.client(60) as client:
                while not stop.is_set():
                    found = client.request(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
                    if found.status != 200:
                        bad.append(found.status)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: counted(gateway, "limit") > 2)
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        assert bad == []
        until(lambda: counted(gateway, "in_flight") == 0 == counted(gateway, "queued"))
