"""Routes that nobody asks for, and those whose service has no endpoint."""

import json

import pytest

from fastgw._core.record import Stats
from fastgw.config import load
from fastgw.policies import RESOLVER
from fastgw.server.shared import Slots
from fastgw.server.stale import StaleWatch
from fastgw.testing import FakeUpstream, GatewayProcess
from tests.patience import until

FILE = """
services: {a: "http://127.0.0.1:1", b: {discovery: {type: dns}}}
routes:
  - {name: one, path: /one, service: a}
  - {name: two, path: /two, service: b}
  - {name: three, path: /three, split: [{service: a, weight: 1}, {service: b, weight: 1}]}
"""


class Counting:
    """Stands in for Stats: what it is asked is all that is wanted of it."""

    slots = 10

    def __init__(self):
        self.counts = {}

    def read_route(self, slot):
        return (self.counts.get(slot, 0), 0), 0, 0, ()


def test_the_double_answers_as_the_real_one():
    block = Stats(bytearray(Stats.size(4, 4)), 4, 4).read_route(1)
    assert block is None or isinstance(sum(block[0]), int)


def test_what_moves_is_fresh_and_what_does_not_grows_old():
    config = load(FILE, resolver=RESOLVER, env={})
    slots, stats = Slots(2).next(1, ["one", "two", "three"]), Counting()
    watch = StaleWatch(100.0)
    watch.look([stats], slots, ["b"], 110.0)
    stats.counts[slots("one")] = 5
    watch.look([stats], slots, ["b"], 140.0)
    watch.look([stats], slots, ["b"], 170.0)
    rows = {row["route"]: row for row in watch.report(config, slots, 200.0)}
    assert (rows["one"]["idle"], rows["one"]["asked"], rows["one"]["no_endpoint"]) == (60.0, True, None)
    assert (rows["two"]["idle"], rows["two"]["asked"], rows["two"]["no_endpoint"]) == (100.0, False, 90.0)
    # no slot of its own: nobody knows; and of its two services one has endpoints
    assert (rows["three"]["idle"], rows["three"]["no_endpoint"]) == (None, None)
    assert [row["route"] for row in watch.report(config, slots, 200.0)] == ["two", "one", "three"]
    watch.look([stats], slots, [], 230.0)
    assert watch.report(config, slots, 240.0)[0]["no_endpoint"] is None


def serve(connection):
    while True:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture
def upstream():
    with FakeUpstream(serve) as found:
        yield found


def test_the_admin_api_tells_it(upstream, tmp_path):
    config = {
        "services": {"up": upstream.url, "none": {"discovery": {"type": "file", "path": str(tmp_path / "none"),
                                                                "wait": "0s"}}},
        "routes": [{"name": "used", "path": "/used", "service": "up"}, {"name": "lost", "path": "/lost",
                                                                      "service": "none"}],
    }  # fmt: skip
    with GatewayProcess(config) as gateway:
        with gateway.client() as client:
            assert client.request(b"GET /used HTTP/1.1\r\nHost: x\r\n\r\n").status == 200
        found = {}

        def rows_of():
            status, body = gateway.admin("/routes/stale")
            found.update(status=status, **json.loads(body))
            return {row["route"]: row for row in found["routes"]}

        # a request is counted a moment after the client has its answer
        rows = until(lambda: (rows := rows_of())["used"]["asked"] and rows)
        assert found["status"] == 200 and found["observed"] >= 0
        assert rows["used"]["asked"] and rows["used"]["no_endpoint"] is None
        assert not rows["lost"]["asked"] and rows["lost"]["no_endpoint"] is not None
        assert rows["lost"]["services"] == ["none"]
