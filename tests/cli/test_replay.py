"""`fastgw replay`: real log lines of a real gateway, and lines by hand."""

import json
import time

import pytest

from fastgw.testing import FakeUpstream, GatewayProcess
from tests.cli.test_diff import run

NEW = """
services: {users: "http://127.0.0.1:1", v2: "http://127.0.0.1:2", orders: "http://127.0.0.1:3"}
server: {listeners: ["127.0.0.1:8080"]}
routes:
  - {name: v2, match: {path: "/users/*", headers: {X-Version: "2"}}, service: v2}
  - {name: users, path: /users/*, service: users, methods: [GET]}
  - {name: orders, path: /orders/*, service: orders, limits: {body_size: 10}}
  - {name: beta, match: {path: /beta, cookies: {beta: "on"}}, service: v2}
  - {name: search, match: {path: /search, query: {new: "*"}}, service: v2}
  - {name: inside, match: {path: /inside, client_ip: 10.0.0.0/8}, service: v2}
  - {name: bots, match: {path: /ua, user_agent: bot}, service: v2}
  - {name: people, path: /ua, service: users}
"""
LINE = {"method": "GET", "host": "a", "path": "/users/1", "route": "users", "service": "users", "status": 200,
        "client": "127.0.0.1", "user_agent": None}  # fmt: skip


@pytest.fixture
def replay(tmp_path):
    def go(*records, args=("--json",), new=NEW):
        log, file = tmp_path / "access.log", tmp_path / "new.yaml"
        log.write_text("".join((r if isinstance(r, str) else json.dumps(LINE | r)) + "\n" for r in records))
        file.write_text(new)
        return run("replay", str(log), str(file), *args)

    return go


@pytest.mark.parametrize(
    ("record", "kind", "words"),
    [
        ({"headers": {"x-version": None}}, "same", ""),
        ({"headers": {"x-version": "2"}}, "route", "route users → v2"),
        ({"headers": {"x-version": "2"}, "route": "v2", "service": "v2"}, "same", ""),
        ({}, "undecidable", "not recorded: header x-version"),
        ({"headers": {"x-other": "2"}}, "undecidable", "not recorded: header x-version"),
        ({"method": "POST", "headers": {"x-version": None}}, "refused", "route users → 405"),
        ({"method": "POST"}, "undecidable", "not recorded: header x-version"),
        ({"path": "/gone", "route": "gone"}, "refused", "route gone → 404"),
        ({"path": "/gone", "route": None, "service": None, "status": 404}, "same", ""),
        ({"path": "/orders/1", "route": None, "service": None, "status": 404}, "routed", "404 → route orders"),
        ({"path": "/orders/1", "route": "orders", "service": "old"}, "service", "route orders: service old → orders"),
        ({"path": "/orders/1", "route": "orders", "service": "orders", "bytes_in": 11}, "refused",
         "route orders → 413, the body is larger than 10 bytes"),
        ({"path": "/orders/1", "route": "orders", "service": "orders", "bytes_in": 10}, "same", ""),
        ({"path": "/beta", "route": "beta", "service": "v2"}, "undecidable", "not recorded: cookie beta"),
        ({"path": "/beta", "route": "beta", "service": "v2", "cookies": {"beta": "on"}}, "same", ""),
        ({"path": "/beta", "route": "beta", "service": "v2", "cookies": {"beta": None}}, "refused", "route beta → 404"),
        ({"path": "/search", "route": "search"}, "undecidable", "not recorded: query"),
        ({"path": "/search", "route": "search", "service": "v2", "query": "new=1"}, "same", ""),
        ({"path": "/inside", "route": "inside", "service": "v2", "client": "10.2.3.4"}, "same", ""),
        ({"path": "/inside", "route": "inside"}, "refused", "route inside → 404"),
        ({"path": "/ua", "route": "people"}, "same", ""),
        ({"path": "/ua", "route": "people", "user_agent": "Googlebot/2.1"}, "route", "route people → bots"),
        ({"path": "/orders/1", "method": "OPTIONS", "route": "orders"}, "undecidable",
         "not recorded: header origin, header access-control-request-method"),
        ({"path": "/a", "route": None, "status": 431}, "undecidable", "it ended before it was routed"),
        ({"path": "/orders/1", "route": None, "status": 499}, "undecidable", "it ended before it was routed"),
        ({"headers": {"x-version": ["1", "2"]}}, "route", "route users → v2"),
        ({"path": "/beta", "route": "beta", "service": "v2", "cookies": {"beta": ["x", "on"]}}, "same", ""),
    ],
)  # fmt: skip
def test_one_line(replay, record, kind, words):
    found = replay(record)
    data = json.loads(found.stdout)
    if kind == "same":
        assert data["same"] == 1 and data["groups"] == [], data
    else:
        assert [(group["kind"], group["words"]) for group in data["groups"]] == [(kind, words)]
    assert found.returncode == (0 if kind in ("same", "undecidable") else 4)


def test_the_summary_is_ranked_and_bad_lines_are_counted(replay):
    gone = {"path": "/gone", "route": "gone"}
    found = replay({}, gone, gone, "no json", "[1]", '{"method": "GET"}', "x" * (1024 * 1024 + 5), gone, args=())
    first, second, last = found.stdout.splitlines()
    assert first.startswith("3  refused      route gone → 404") and "access.log:2 GET a/gone" in first
    assert second.startswith("1  undecidable")
    assert last == "4 requests, 0 same, 3 different, 1 undecidable, 4 unreadable"
    assert replay({}, args=()).returncode == 0
    assert replay({}, args=("--strict",)).returncode == 4
    assert replay({}, new=NEW.replace("service: v2", "service: v3")).returncode == 1


def test_lines_of_a_real_gateway(tmp_path):
    """What the access log records is what replay reads: the same file says `same`, another one the truth."""
    log = tmp_path / "access.log"

    def serve(connection):
        while True:
            connection.read_request()
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with FakeUpstream(serve) as upstream:
        config = {
            "observability": {"access_log": {
                "path": str(log), "record_headers": ["X-Version"], "record_cookies": ["beta"],
                "fields": ["method", "host", "path", "query", "client", "user_agent", "route", "service", "status"],
            }},
            "services": {"a": upstream.url, "b": {"endpoints": [upstream.url]}},
            "routes": [
                {"name": "two", "match": {"path": "/x/*", "headers": {"X-Version": "2"}}, "service": "b"},
                {"name": "beta", "match": {"path": "/x/*", "cookies": {"beta": "on"}}, "service": "b"},
                {"name": "one", "path": "/x/*", "service": "a"},
            ],
        }  # fmt: skip
        with GatewayProcess(config) as gateway:
            heads = [b"GET /x/1 HTTP/1.1\r\nHost: h\r\n", b"GET /x/1?a=b%20c HTTP/1.1\r\nHost: h\r\nX-Version: 2\r\n",
                     b"GET /x/1 HTTP/1.1\r\nHost: h\r\nCookie: sid=secret; beta=on\r\n",
                     b"GET /y HTTP/1.1\r\nHost: h\r\n"]
            for head in heads:
                with gateway.client() as client:
                    client.request(head + b"\r\n")
            deadline = time.monotonic() + 60
            while not log.exists() or log.read_bytes().count(b"\n") < 4:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            same = run("replay", str(log), str(gateway.file), "--json")
            other = tmp_path / "new.yaml"
            other.write_text(gateway.file.read_text().replace("name: one", "name: uno"))
            different = run("replay", str(log), str(other))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["headers"] for line in lines] == [{"x-version": value} for value in (None, "2", None, None)]
    assert [line["cookies"] for line in lines] == [{"beta": value} for value in (None, None, "on", None)]
    assert lines[1]["query"] == "a=b%20c" and "secret" not in log.read_text()
    assert json.loads(same.stdout)["same"] == 4, same.stdout + same.stderr
    assert different.returncode == 4
    assert different.stdout.splitlines()[0].startswith("1  route        route one → uno")


def test_credentials_are_not_recorded(tmp_path):
    file = tmp_path / "gateway.yaml"
    file.write_text(NEW + "observability: {access_log: {record_headers: [Authorization]}}\n")
    found = run("check", str(file))
    assert found.returncode == 1 and "does not belong in a log" in found.stdout
