"""What /metrics says after real requests to real processes."""

import re

import pytest

from fastgw.testing import FakeUpstream, Gate, GatewayProcess, free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def get(path):
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def metric(gateway, name, **labels):
    """The value of a series; 0 when there is none."""
    total = 0.0
    for line in gateway.admin("/metrics")[1].splitlines():
        found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if found and found[1] == name and labels.items() <= dict(re.findall(r'(\w+)="(.*?)"', found[2] or "")).items():
            total += float(found[3])
    return total


@pytest.fixture
def gate():
    found = Gate(OK)
    yield found
    found.open.set()


def tree(upstream, **more):
    return {
        "server": {"workers": 1},
        "observability": {"access_log": {"enabled": False}},
        "services": {"up": {"endpoints": [upstream.url], **more.pop("service", {})}},
        "routes": [
            {"path": "/own", "policies": [{"respond": {"status": 200}}]},
            {"path": "/*", "service": "up", "policies": more.pop("policies", [])},
        ],
        **more,
    }


def test_answers_that_were_shared_are_counted(gate, eventually):
    with FakeUpstream(gate) as upstream, GatewayProcess(tree(upstream, policies=[{"coalesce": {}}])) as gateway:
        clients = [gateway.client() for _ in range(5)]
        for client in clients:
            client.send(get("/things"))
        with gateway.client() as other:               # answered twice: what was sent before has been read
            for _ in range(2):
                other.send(get("/own"))
                assert other.response().status == 200
        assert metric(gateway, "fastgw_coalesced_total") == 0
        gate.open.set()
        assert [client.response().body for client in clients] == [b"ok"] * 5
        for client in clients:
            client.close()
        assert len(upstream.requests) == 1
        eventually(lambda: metric(gateway, "fastgw_coalesced_total") == 4, "four of five were shared")


def test_requests_over_the_limit_are_counted(gate, eventually):
    gate.open.set()
    limit = {"rate_limit": {"requests": 3, "per": "1h", "burst": 3, "by": "global"}}
    with FakeUpstream(gate) as upstream, GatewayProcess(tree(upstream, policies=[limit])) as gateway:
        with gateway.client() as client:
            assert [client.request(get("/x")).status for _ in range(5)] == [200, 200, 200, 429, 429]
        eventually(lambda: metric(gateway, "fastgw_rate_limited_total") == 2, "two were refused")
        eventually(lambda: metric(gateway, "fastgw_errors_total", code="rate_limited") == 2, "by their code")
        eventually(lambda: metric(gateway, "fastgw_requests_total", status="4xx") == 2, "by their status")


def test_pools_are_shown_as_they_are(gate, eventually):
    service = {"pool": {"max_connections": 1}}
    with FakeUpstream(gate) as upstream, GatewayProcess(tree(upstream, service=service)) as gateway:
        endpoint = upstream.url.partition("://")[2]

        def pool(what, **labels):
            return metric(gateway, f"fastgw_pool_{what}", service="up", endpoint=endpoint, **labels)

        with gateway.client() as first, gateway.client() as second:
            first.send(get("/1"))
            upstream.wait_requests(1)
            second.send(get("/2"))
            eventually(lambda: pool("waiting") == 1, "the second waits for the only connection")
            assert pool("connections", state="busy") == 1
            assert pool("connections", state="idle") == 0
            gate.open.set()
            assert (first.response().status, second.response().status) == (200, 200)
        eventually(lambda: pool("connections", state="idle") == 1, "the connection is kept")
        assert pool("connections", state="busy") == 0
        assert pool("waiting") == 0
        assert pool("connects_total") == 1
        assert pool("reuses_total") == 1
        assert pool("connect_errors_total") == 0


def test_connections_that_fail_are_counted(eventually):
    url = f"http://127.0.0.1:{free_port()}"
    config = {
        "server": {"workers": 1},
        "observability": {"access_log": {"enabled": False}},
        "services": {"down": url},
        "routes": [{"path": "/*", "service": "down"}],
    }
    with GatewayProcess(config) as gateway:
        with gateway.client() as client:
            assert client.request(get("/")).status >= 502
        eventually(lambda: metric(gateway, "fastgw_pool_connect_errors_total", service="down") >= 1, "it failed")
        eventually(lambda: metric(gateway, "fastgw_errors_total") == 1, "the answer is counted")
