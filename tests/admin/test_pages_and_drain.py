"""Who may ask the admin API, and its drain."""

import json

import pytest

from fastgw.testing import FakeUpstream, GatewayProcess


@pytest.fixture(params=[0, 1], ids=["one process", "one worker"])
def gateway(request):
    config = {
        "server": {"workers": request.param, "timeouts": {"drain": "5s"}},
        "observability": {"access_log": {"enabled": False}},
        "routes": [{"path": "/*", "service": "up"}],
    }
    with FakeUpstream() as upstream:
        config["services"] = {"up": upstream.url}
        with GatewayProcess(config) as found:
            yield found


def test_a_web_page_cannot_drain_but_its_owner_can(gateway):
    for path, method in [("/drain", "POST"), ("/config/reload", "POST"), ("/config", "GET")]:
        status, body = gateway.admin(path, method, {"Origin": "http://a.page.example"})
        assert (status, json.loads(body)["code"]) == (403, "cross_origin")
    ready, facts = gateway.admin("/ready")
    assert (ready, json.loads(facts)["generation"]) == (200, 1)
    assert gateway.admin("/drain", "POST")[0] == 202
    assert gateway.wait(60) == 0
