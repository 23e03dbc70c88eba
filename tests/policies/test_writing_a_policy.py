"""The code of docs/writing-a-policy.md is what runs here."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER, PolicyError, _entry_points, resolve
from fastgw.testing import FakeUpstream, answer

DOC = Path(__file__).parents[2] / "docs" / "writing-a-policy.md"
BLOCKS = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", DOC.read_text(), re.S))
(YAML,) = re.findall(r"```yaml\n(.*?)```", DOC.read_text(), re.S)


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """The doc's files on sys.path."""
    for name, code in BLOCKS.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in BLOCKS:
        sys.modules.pop(name, None)


def ask(running, headers=b"", path=b"/orders/1"):
    with running.client() as client:
        return client.request(b"GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n" % (path, headers))


def test_it_is_about_twenty_lines():
    lines = [line for line in BLOCKS["edge_policies"].splitlines() if line.strip()]
    assert len(lines) <= 20


def test_by_dotted_path(modules, gateway, upstream):
    running = gateway(YAML.replace("http://127.0.0.1:9002", upstream.url))
    response = ask(running, b"X-Tenant: acme\r\n")
    assert (response.status, response.get("X-Served-By")) == (200, "edge")
    assert upstream.requests[0].get("X-Tenant-Class") == "known"
    response = ask(running, b"X-Tenant: evil\r\n")
    assert response.status == 403 and b'"unknown_tenant"' in response.body
    assert response.get("X-Served-By") == "edge"
    assert len(upstream.requests) == 1


def test_by_entry_point(modules, gateway, upstream):
    package = modules / "edge_policies-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: edge-policies\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[fastgw.policies]\ntenant = edge_policies:Tenant\nkey_auth = edge_policies:Tenant\n"
    )
    importlib.invalidate_caches()
    _entry_points.cache_clear()
    try:
        running = gateway(YAML.replace("http://127.0.0.1:9002", upstream.url).replace("edge_policies:Tenant", "tenant"))
        assert ask(running, b"X-Tenant: globex\r\n").status == 200
        assert ask(running).status == 403
        assert "tenant" in RESOLVER.names()
        assert resolve("key_auth").__module__ == "fastgw.policies.key_auth", "built-in names come first"
    finally:
        _entry_points.cache_clear()


def test_its_options_are_checked_with_a_position(modules):
    config, problems = check(YAML.replace("tenants: [acme, globex]", "tenant: [acme]"), resolver=RESOLVER)
    assert config is None
    assert {problem.line for problem in problems if problem.severity == "error"} == {6}


def test_one_that_waits(modules, gateway, upstream):
    yes = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    no = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    with FakeUpstream(answer(yes, no)) as decider:
        running = gateway(
            f"services: {{orders: '{upstream.url}', decider: '{decider.url}'}}\n"
            "routes: [{path: /orders/*, service: orders, policies: ['asking:Ask']},"
            " {path: /d, service: decider}]\n"
        )
        assert ask(running).status == 200
        assert ask(running).status == 403
        assert decider.requests[0].get("X-Path") == "/orders/1" and decider.requests[0].target == "/may"
    assert len(upstream.requests) == 1


def test_one_that_dispatches_again(modules, gateway):
    busy = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    fine = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    def play(connection):
        while True:
            connection.read_request()
            connection.send(busy if len(upstream.requests) == 1 else fine)

    with FakeUpstream(play) as upstream:
        running = gateway(
            f"services: {{orders: '{upstream.url}'}}\n"
            "routes: [{path: /orders/*, service: orders, policies: ['again:Again']}]\n"
        )
        response = ask(running)
        assert (response.status, bytes(response.body)) == (200, b"ok")
        assert len(upstream.requests) == 2


def test_trying_it(modules):
    importlib.import_module("trying")


@pytest.mark.parametrize(
    "name, words",
    [
        ("nothing", "there is no policy"),
        ("no.such.module:Class", "can not be imported"),
        ("json:Nothing", "has no Nothing"),
        ("json:dumps", "not a class derived from"),
        ("json:", "package.module:Class"),
        (":Class", "package.module:Class"),
        ("json:a b", "package.module:Class"),
    ],
)
def test_names_that_lead_nowhere(name, words):
    with pytest.raises(PolicyError, match=re.escape(words)):
        resolve(name)


def test_bodies_and_another_request(modules, gateway, upstream):
    running = gateway(f"""
services: {{up: "{upstream.url}"}}
routes: [{{path: /*, service: up, policies: ["shouting:Shout"]}}]
""")
    with running.client() as client:
        sent = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
        assert client.request(sent).status == 200
    (seen,) = upstream.requests
    assert (seen.method, seen.target, bytes(seen.body)) == ("PUT", "/shouted/a", b"HI")


def test_a_filter_that_refuses(modules, gateway, upstream):
    running = gateway(f"""
services: {{up: "{upstream.url}"}}
routes: [{{path: /*, service: up, policies: ["shouting:Shout"]}}]
""")
    upstream.script(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na secret!"))
    with running.client() as client:
        client.send(b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.ended() in ("eof", "reset")
        assert b"secret" not in client.rest()
