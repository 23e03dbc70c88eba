"""Kept answers are those of the whole host: one fetches for all workers, and what one forgets is forgotten.

FASTGW_HERD=10000 has so many clients ask for one cold key; it takes as many descriptors (`ulimit -n`)."""

import json
import os
import re

import pytest

from fastgw.testing import FakeUpstream, Gate, GatewayProcess

CLIENTS = int(os.environ.get("FASTGW_HERD", "60"))
FRESH = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture(scope="module")
def world():
    gate = Gate(FRESH)
    with FakeUpstream(gate) as upstream:
        config = {
            "server": {"workers": 3},
            "observability": {"access_log": {"fields": ["path", "cache"]}},
            "services": {"up": upstream.url},
            "routes": [
                {
                    "name": "kept",
                    "path": "/*",
                    "service": "up",
                    "policies": [{"cache": {"wait": "5m", "purge": {"addresses": ["127.0.0.1"]}}}],
                }
            ],
        }
        with GatewayProcess(config) as gateway:
            yield gate, upstream, gateway


def ask(gateway, path, method="GET"):
    with gateway.client() as client:
        client.send(f"{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        return client.response()


def count(upstream, path):
    return sum(request.target == path for request in list(upstream.requests))


def results(gateway):
    text = gateway.admin("/metrics")[1]
    found = re.findall(r'fastgw_cache_requests_total\{result="(\w+)",route="kept"\} (\S+)', text)
    return {result: float(value) for result, value in found}


def test_one_fetches_for_the_whole_host(world, eventually):
    gate, upstream, gateway = world
    clients = [gateway.client() for _ in range(CLIENTS)]
    for client in clients:
        client.send(b"GET /cold HTTP/1.1\r\nHost: h\r\n\r\n")
    upstream.wait_requests(1)
    gate.open.set()
    assert [bytes(client.response().body) for client in clients] == [b"hello"] * CLIENTS
    for client in clients:
        client.close()
    assert count(upstream, "/cold") == 1
    eventually(lambda: sum(results(gateway).values()) == CLIENTS, "all are counted")
    assert results(gateway)["miss"] == 1


def test_a_hit_in_every_worker(world, eventually):
    gate, upstream, gateway = world
    gate.open.set()
    # it is there for all a moment after its first reader has it: who asks meanwhile has it from the same answer
    eventually(lambda: "hit" in ask(gateway, "/warm").get("cache-status"), "it is kept")
    for _ in range(20):
        assert "hit" in ask(gateway, "/warm").get("cache-status")
    assert count(upstream, "/warm") == 1
    eventually(lambda: '{"path":"/warm","cache":"hit"}' in gateway.stdout, gateway.stdout[-2000:])
    eventually(lambda: '{"path":"/warm","cache":"miss"}' in gateway.stdout, gateway.stdout[-2000:])


def test_what_is_purged_is_gone_everywhere(world):
    gate, upstream, gateway = world
    gate.open.set()
    for number in range(1, 4):
        assert ask(gateway, "/old").status == 200
        for _ in range(10):
            ask(gateway, "/old")
        assert count(upstream, "/old") == number
        assert json.loads(ask(gateway, "/old", "PURGE").body) == {"purged": 1}
