"""Which listener of `protocol: tcp` takes a connection, as `explain` tells it."""

import json

import pytest

from fastgw.cli import main
from fastgw.config import check
from fastgw.plan.tcp import explain_connection
from fastgw.policies import RESOLVER

TEXT = """
server:
  listeners:
    - {bind: "0.0.0.0:6379", protocol: tcp, tcp: redis}
    - {bind: "127.0.0.1:6379", protocol: tcp, tcp: other, proxy_protocol: {trusted_proxies: [10.0.0.0/8]}}
    - {bind: "10.0.0.1:5432", protocol: tcp, tcp: other, tls: {self_signed: true}}
    - {bind: ":8080"}
services:
  redis: {endpoints: [tcp://10.0.0.1:6379, tcp://10.0.0.2:6379]}
  other: tcp://10.0.0.3:5432
routes: [{path: /*, policies: [{respond: {body: x}}]}]
"""


@pytest.fixture(scope="module")
def config():
    found, problems = check(TEXT, resolver=RESOLVER, env={}, file="gateway.yaml")
    assert [str(problem) for problem in problems] == []
    return found


@pytest.mark.parametrize(
    ("url", "bind", "service"),
    [
        ("tcp://:6379", "0.0.0.0:6379", "redis"),
        ("tcp://192.0.2.1:6379", "0.0.0.0:6379", "redis"),
        ("tcp://127.0.0.1:6379", "127.0.0.1:6379", "other"),
        ("tcp://10.0.0.1:5432", "10.0.0.1:5432", "other"),
        ("tcp://10.0.0.9:5432", None, None),
        ("tcp://:1", None, None),
        ("tcp://:8080", "0.0.0.0:8080", None),
    ],
)
def test_where_it_goes(config, url, bind, service):
    found = explain_connection(config, url)
    assert (found["listener"], found.get("service")) == (bind, service)
    assert service is not None or found["reason"]


def test_what_is_told(config):
    found = explain_connection(config, "tcp://127.0.0.1:6379")
    assert found["proxy_protocol"] == ["10.0.0.0/8"] and found["endpoints"] == ["tcp://10.0.0.3:5432"]
    assert explain_connection(config, "tcp://10.0.0.1:5432")["tls"] == "terminated here"


def test_the_verb(tmp_path, capsys):
    file = tmp_path / "gateway.yaml"
    file.write_text(TEXT)
    assert main(["explain", str(file), "tcp://:6379"]) == 0
    assert "redis" in capsys.readouterr().out
    assert main(["explain", str(file), "tcp://:6379", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["endpoints"] == ["tcp://10.0.0.1:6379", "tcp://10.0.0.2:6379"]
    assert main(["explain", str(file), "tcp://:1"]) == 1
    assert main(["explain", str(file), "tcp://x"]) == 2


@pytest.mark.parametrize(
    ("url", "route", "service"),
    [
        ("tls://a.example:443", "sni[0]", "redis"),
        ("tls://A.example:443", "sni[0]", "redis"),
        ("tls://x.a.example:443", "sni[1]", "other"),
        ("tls://x.y.a.example:443", "sni[1]", "other"),
        ("tls://x.b.a.example:443", "sni[2]", "redis"),
        ("tls://b.example:443", None, None),
        ("tls://b.example:8443", "service, for other names", "other"),
    ],
)
def test_where_a_name_goes(url, route, service):
    """As the listener itself does it: tests/e2e/test_tls_passthrough.py has the same cases in bytes."""
    names = [(["a.example"], "redis"), (["*.a.example"], "other"), (["*.b.a.example"], "redis")]
    sni = [{"names": given, "service": service} for given, service in names]
    listener = {"protocol": "tcp", "tls": "passthrough"}
    listeners = [
        {**listener, "bind": ":443", "tcp": {"sni": sni}},
        {**listener, "bind": ":8443", "tcp": {"sni": sni, "service": "other"}},
    ]
    services = {"redis": "tcp://h:1", "other": "tcp://h:2"}
    text = json.dumps({"server": {"listeners": listeners}, "services": services}) + "\n"
    config, problems = check(text, resolver=RESOLVER, env={}, file="gateway.yaml")
    assert [str(problem) for problem in problems] == []
    found = explain_connection(config, url)
    assert (found.get("route"), found.get("service")) == (route, service)
    assert found["tls"] == "passes through"
