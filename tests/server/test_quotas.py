"""`quota` in a gateway with two workers, at the admin API and by `fastgw quotas`; and what it does without Redis."""

import csv
import hashlib
import http.client
import io
import json
import subprocess
import sys
import time

import pytest
import yaml

from fastgw.config import check
from fastgw.policies import RESOLVER
from fastgw.testing import GatewayProcess
from tests.store.redis_server import RedisServer, needed


def hashed(key):
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def quota(path, **options):
    name = path.strip("/")
    given = {"name": name, "requests": 3, "timezone": "Europe/Berlin", "on_failure": "closed", **options}
    return {"path": path, "policies": ["key_auth", {"quota": given}, {"respond": {"body": "in"}}]}


def configuration(server):
    consumers = [
        {"name": name, "keys": [{"hash": hashed(f"key-of-{name}")}], **({"plan": plan} if plan else {})}
        for name, plan in (("ada", "gold"), ("bob", None), ("eve", "endless"))
    ]
    return {
        "server": {"workers": 2},
        "stores": {"redis": {"url": server.url, "deadline": "5s", "timeout": "5s",
                             "breaker": {"failures": 1, "pause": "20ms", "max_pause": "50ms"}}},
        "plans": {"gold": {}, "endless": {}},
        "consumers": consumers,
        "routes": [
            quota("/calls", plans={"gold": 5, "endless": None}, warn_at=0.5),
            quota("/open", on_failure="open"),
            quota("/dear", cost=2, headers=False),
            {"path": "/anybody", "policies": [
                {"key_auth": {"optional": True}}, {"quota": {"name": "nobody", "requests": 1, "on_failure": "open"}},
                {"respond": {"body": "in"}}]},
            {"path": "/by-address", "policies": [
                {"quota": {"name": "address", "requests": 1, "per": "day", "by": "client_ip", "on_failure": "closed"}},
                {"respond": {"body": "in"}}]},
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(server):
    with GatewayProcess(configuration(server)) as running:
        yield running


def ask(gateway, path, who="bob"):
    key = f"X-API-Key: key-of-{who}\r\n" if who else ""
    with gateway.client(60) as client:
        return client.request(f"GET {path} HTTP/1.1\r\nHost: a\r\n{key}Connection: close\r\n\r\n".encode())


def admin(gateway, method, path, body=None):
    connection = http.client.HTTPConnection(gateway.host, gateway.admin_port, timeout=60)
    try:
        connection.request(method, path, None if body is None else json.dumps(body).encode())
        answer = connection.getresponse()
        raw = answer.read()
        return answer.status, json.loads(raw) if "json" in answer.getheader("Content-Type") else raw.decode()
    finally:
        connection.close()


def fastgw(gateway, *words):
    return subprocess.run(
        [sys.executable, "-m", "fastgw", "quotas", *words, "--admin", f"127.0.0.1:{gateway.admin_port}"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@needed
def test_plans_headers_and_the_end(gateway):
    answers = [ask(gateway, "/calls") for _ in range(4)]
    assert [one.status for one in answers] == [200, 200, 200, 429]
    assert [one.get("X-Quota-Remaining") for one in answers] == ["2", "1", "0", "0"]
    assert [one.get("X-Quota-Warning") is not None for one in answers] == [False, True, True, True]
    assert answers[0].get("X-Quota-Limit") == "3"
    last = answers[-1]
    problem = json.loads(last.body)
    assert problem["code"] == "quota_exceeded" and problem["quota"] == "calls"
    assert last.get("Retry-After") == last.get("X-Quota-Reset") == str(problem["retry_after"])
    assert 0 < problem["retry_after"] <= 31 * 86400 + 3600
    assert [ask(gateway, "/calls", "ada").status for _ in range(6)] == [200] * 5 + [429]
    endless = [ask(gateway, "/calls", "eve") for _ in range(6)]
    assert all(one.status == 200 and one.get("X-Quota-Limit") is None for one in endless)
    assert [ask(gateway, "/dear").status for _ in range(2)] == [200, 429], "2 + 2 are more than 3"
    assert ask(gateway, "/dear").get("X-Quota-Limit") is None
    assert [ask(gateway, "/by-address", None).status for _ in range(2)] == [200, 429]
    nobody = ask(gateway, "/anybody", None)
    assert nobody.status == 401 and json.loads(nobody.body)["code"] == "unauthorized"


@needed
def test_the_admin_api_and_the_verb(gateway):
    while ask(gateway, "/calls").status == 200:
        pass
    while ask(gateway, "/calls", "ada").status == 200:
        pass
    status, rows = admin(gateway, "GET", "/quotas")
    calls = next(row for row in rows if row["name"] == "calls")
    assert status == 200 and calls["plans"] == {"gold": 5, "endless": None} and calls["resets_in"] > 0
    assert admin(gateway, "POST", "/quotas/calls/grant", {"subject": "bob", "requests": 1})[1]["granted"] == 1
    assert [ask(gateway, "/calls").status for _ in range(2)] == [200, 429]
    status, found = admin(gateway, "GET", f"/quotas/calls/usage/{calls['period']}")
    by_name = {row["subject"]: row for row in found["usage"]}
    assert by_name["bob"] == {"subject": "bob", "plan": None, "used": 4, "granted": 1, "limit": 3}
    assert (by_name["ada"]["plan"], by_name["ada"]["limit"]) == ("gold", 5)
    status, text = admin(gateway, "GET", "/quotas/calls/usage.csv")
    sheet = list(csv.DictReader(io.StringIO(text)))
    assert {"quota": "calls", "period": calls["period"], "subject": "bob", "plan": "", "used": "4", "granted": "1",
            "limit": "3"} in sheet  # fmt: skip
    exported = fastgw(gateway, "export", "calls", "--period", calls["period"])
    assert exported.returncode == 0 and list(csv.DictReader(io.StringIO(exported.stdout))) == sheet
    assert fastgw(gateway, "grant", "calls", "bob", "-1").returncode == 0
    assert ask(gateway, "/calls").status == 429
    assert fastgw(gateway, "reset", "calls", "bob").returncode == 0
    assert ask(gateway, "/calls").status == 200
    assert admin(gateway, "GET", "/quotas/calls/usage/2020-01")[1]["usage"] == []
    wrong = [("GET", "/quotas/none/usage", None, 404), ("POST", "/quotas", {}, 405),
             ("GET", "/quotas/calls/grant", None, 405), ("POST", "/quotas/calls/grant", {"subject": "bob"}, 400),
             ("POST", "/quotas/calls/reset", {"subject": "x"}, 404),
             ("GET", "/quotas/calls/usage/x%20y", None, 400), ("GET", "/quotas/calls", None, 404)]  # fmt: skip
    for method, path, body, expected in wrong:
        assert admin(gateway, method, path, body)[0] == expected, (method, path)
    assert fastgw(gateway, "reset", "calls", "nobody").returncode == 1


@needed
def test_without_redis(gateway, server):
    """Runs last: the server comes back empty."""
    assert ask(gateway, "/open").status == 200
    server.kill()
    shut = ask(gateway, "/calls", "eve")
    assert shut.status == 503 and json.loads(shut.body)["code"] == "store_unavailable"
    assert [ask(gateway, "/open").status for _ in range(6)] == [200] * 6, "more than 3, and not counted"
    assert admin(gateway, "GET", "/quotas/calls/usage")[0] == 503
    server.start()
    deadline = time.monotonic() + 60
    while ask(gateway, "/calls").get("X-Quota-Remaining") is None:
        assert time.monotonic() < deadline
    assert ask(gateway, "/calls").get("X-Quota-Limit") == "3"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("{name: a, requests: 1}", "on_failure"),
        ("{name: a, on_failure: open, timezone: Middle/Earth}", "is not a time zone"),
        ("{name: a, on_failure: open, by: header:X}", "nobody to count for"),
        ("{name: a, on_failure: open, by: client_ip, plans: {gold: 1}}", "`plans` are consumers'"),
        ("{name: a, on_failure: open, by: client_ip, requests: 1}", "'redis'"),
    ],
)
def test_what_check_refuses(options, wanted):
    text = f"routes: [{{path: /, policies: [{{quota: {options}}}, {{respond: {{body: x}}}}]}}]"
    config, problems = check(yaml.safe_load(text), resolver=RESOLVER)
    assert config is None and wanted in str(problems), problems
