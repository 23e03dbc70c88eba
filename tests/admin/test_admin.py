"""The admin listener of a real gateway."""

import json
import socket

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastgw.testing import FakeUpstream, GatewayProcess
from tests.patience import until

TOKEN = "a-token-nobody-may-see"


@pytest.fixture(scope="module")
def gateway():
    config = {
        "server": {"workers": 1, "public_endpoints": ["health", "ready", "metrics"]},
        "admin": {"token": TOKEN},
        "observability": {"access_log": {"enabled": False}},
    }
    with FakeUpstream() as upstream:
        config["services"] = {"up": upstream.url}
        config["routes"] = [{"name": "all", "path": "/api/*", "service": "up"}]
        with GatewayProcess(config) as found:
            yield found


def authorized(gateway, path, method="GET"):
    return gateway.admin(path, method, {"Authorization": f"Bearer {TOKEN}"})


def public(gateway, path):
    with gateway.client() as client:
        client.send(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        return client.response()


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}])
@pytest.mark.parametrize("path", ["/config", "/metrics", "/routes", "/nothing"])
def test_without_the_token_nothing_is_shown(gateway, path, header):
    status, body = gateway.admin(path, headers=header)
    assert (status, json.loads(body)["code"]) == (401, "unauthorized")


def test_probes_need_no_token(gateway):
    assert gateway.admin("/health")[0] == 200
    assert gateway.admin("/ready")[0] == 200


def test_the_configuration_is_shown_without_secrets(gateway):
    status, body = authorized(gateway, "/config")
    assert status == 200
    assert "up" in json.loads(body)["services"]
    assert TOKEN not in body


def test_services_and_routes(gateway):
    assert [service["name"] for service in json.loads(authorized(gateway, "/services")[1])] == ["up"]
    assert authorized(gateway, "/services/up/endpoints")[0] == 200
    assert authorized(gateway, "/services/other/endpoints")[0] == 404
    assert "all" in authorized(gateway, "/routes")[1]


def test_unknown_paths_and_wrong_methods(gateway):
    assert authorized(gateway, "/nothing")[0] == 404
    assert authorized(gateway, "/config/reload")[0] == 405
    assert authorized(gateway, "/config", "POST")[0] == 405


def test_a_head_that_never_ends_is_refused(gateway):
    with socket.create_connection(("127.0.0.1", gateway.admin_port), 10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 431 ")


def test_metrics_are_what_prometheus_reads_and_count_requests(gateway):
    for _ in range(3):
        assert public(gateway, b"/api/x").status == 200

    def counted():
        families = {one.name: one for one in text_string_to_metric_families(authorized(gateway, "/metrics")[1])}
        requests = families["fastgw_requests"].samples
        return sum(sample.value for sample in requests if sample.labels.get("route") == "all")

    until(lambda: counted() == 3)


def test_public_endpoints(gateway):
    assert public(gateway, b"/health").status == 200
    assert public(gateway, b"/ready").status == 200
    metrics = public(gateway, b"/metrics")
    assert metrics.status == 200
    assert b"fastgw_requests_total" in metrics.body
    assert public(gateway, b"/config").status == 404
