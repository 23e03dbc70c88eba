"""`fastgw diff` on real files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OLD = """
server:
  listeners: ["127.0.0.1:8080", "127.0.0.1:8081"]
  limits: {body_size: 10MiB}
services:
  users: http://127.0.0.1:9001
  orders: {endpoints: [{url: "http://127.0.0.1:9002", weight: 1}], timeouts: {response: 30s}}
  old: http://127.0.0.1:9009
consumers:
  - {name: app, groups: [a], keys: ["sha256:c48a01f49fd0f2cc404bc3cbbc80e91457a3d41bb429a695243de4c61794155c"]}
policies: [request_id, cors: {origins: ["https://a.example"]}]
routes:
  - {name: users, path: /users/*, service: users, methods: [GET]}
  - name: orders
    path: /orders/*
    service: orders
    policies: [jwt: {secret: "first-secret-first-secret-first-secret"}, rate_limit: {requests: 60, per: 1m}]
  - {name: legacy, path: /old/*, service: old}
  - {name: hello, path: /hello, policies: [respond: {status: 200}]}
"""


def run(*arguments):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "fastgw", *arguments], capture_output=True, text=True, env=env)


@pytest.fixture
def files(tmp_path):
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(OLD)

    def diff(*pairs, args=()):
        text = OLD
        for before, after in pairs:
            assert before in text
            text = text.replace(before, after)
        new.write_text(text)
        return run("diff", str(old), str(new), *args)

    return diff


def test_of_a_new_room_only_what_is_not_the_default_is_said(files):
    found = files(("service: users, methods", "service: users, timeouts: {total: 5s}, methods"))
    assert found.stdout == "~ route users\n    timeouts.total: 5s is new\n"
    gone = files((", timeouts: {response: 30s}", ""), ("service: old}", "service: old, circuit_breaker: {}}"))
    assert "circuit_breaker.failure_threshold: 5 is new" in gone.stdout      # defaults alone are all told


def test_the_same_in_other_words_is_the_same(files):
    long = "users: {endpoints: ['http://127.0.0.1:9001/']}"
    found = files(("users: http://127.0.0.1:9001", long), ("30s", "30000ms"))
    assert (found.returncode, found.stdout) == (0, "They mean the same.\n")


@pytest.mark.parametrize(
    ("pair", "lines"),
    [
        (("10MiB", "20MiB"), ["~ setting server.limits.body_size: 10MiB → 20MiB"]),
        (("services:\n", "priorities: {classes: [a, b], default: b}\nservices:\n"),
         ["~ setting priorities.classes: a, b is new", "~ setting priorities.default: b is new"]),
        ((', "127.0.0.1:8081"', ', "127.0.0.1:8082"'), ["- listener 127.0.0.1:8081", "+ listener 127.0.0.1:8082"]),
        (("users: http://127.0.0.1:9001", "users: http://127.0.0.1:9101"),
         ["~ service users", "    moved: http://127.0.0.1:9001 → http://127.0.0.1:9101"]),
        (("weight: 1", "weight: 5"), ["~ service orders", "    weight of http://127.0.0.1:9002: 1 → 5"]),
        (("response: 30s", "response: 5s"), ["~ service orders", "    timeouts.response: 30s → 5s"]),
        (("groups: [a]", "groups: [a, b]"), ["~ consumer app", "    groups: a → a, b"]),
        (("sha256:c", "sha256:d"), ["~ consumer app", "    keys: 1 new, 1 gone"]),
        (("https://a.example", "https://b.example"),
         ["~ policies for every route: cors: origins: https://a.example → https://b.example"]),
        (("first-secret-first", "other-secret-other"),
         ["~ route orders", "    policy jwt: secret: is another one (***)"]),
        (("requests: 60", "requests: 100"), ["~ route orders", "    policy rate_limit: requests: 60 → 100"]),
        ((", rate_limit: {requests: 60, per: 1m}", ""), ["~ route orders", "    policy rate_limit removed"]),
        (("path: /users/*", "path: /people/*"), ["~ route users", "    path: /users/* → /people/*"]),
        (("methods: [GET]", "methods: [GET, POST]"), ["~ route users", "    methods: GET → GET, POST"]),
        (("path: /users/*,", "path: /users/*, headers: {X-V: '2'},"), ["~ route users", "    headers.x-v: 2 is new"]),
        (("name: users", "name: people"), ["~ route people", "    renamed: it was users"]),
        (("  - {name: hello,", "  - {name: more, path: /more, service: users}\n  - {name: hello,"),
         ["+ route more", "    any method /more → users", "    policies: request_id, cors"]),
        (("  - {name: legacy, path: /old/*, service: old}\n", ""),
         ["- route legacy", "    any method /old/* → old"]),
        (("  old: http://127.0.0.1:9009\n", "  old: {discovery: {type: consul, address: 'consul:8500'}}\n"),
         ["~ service old", "    moved: http://127.0.0.1:9009 → consul discovery"]),
    ],
)  # fmt: skip
def test_each_change_has_its_words(files, pair, lines):
    found = files(pair)
    assert found.returncode == 4, found.stderr
    told = found.stdout.splitlines()
    assert told[: len(lines)] == lines
    assert not any("first-secret" in line or "other-secret" in line for line in told)


def test_another_order_is_told(files):
    first = "  - {name: users, path: /users/*, service: users, methods: [GET]}\n"
    found = files((first, ""), ("  - {name: hello,", first + "  - {name: hello,"))
    assert found.stdout == "~ order of the routes: it decides between those that match equally well\n"
    cors = "cors: {origins: [\"https://a.example\"]}"
    found = files((f"[request_id, {cors}]", f"[{cors}, request_id]"))
    assert "order: request_id, cors → cors, request_id" in found.stdout


def test_json_and_a_file_with_problems(files):
    found = files(("10MiB", "20MiB"), args=("--json",))
    assert json.loads(found.stdout) == [
        {"how": "changed", "what": "setting", "name": "server.limits.body_size: 10MiB → 20MiB", "lines": []}
    ]
    found = files(("service: users", "service: nobody"))
    assert found.returncode == 1 and "unknown_service" in found.stderr and found.stdout == ""


def test_every_key_of_a_route_is_compared(tmp_path):
    """Sockets too: a change that is not told is a change nobody looks at."""
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    services = 'services: {a: "http://127.0.0.1:9001"}\nroutes:\n'
    old.write_text(services + "  - {path: /x, service: a, websocket: true}\n  - {path: /y, service: a}\n")
    new.write_text(
        services + "  - {path: /x, service: a, websocket: {max_message: 1MiB, ping: 5s}}\n"
        "  - {path: /y, service: a, websocket_broadcast: {path: /feed, source: sse}}\n"
    )
    found = run("diff", str(old), str(new))
    assert found.returncode == 4
    for words in ("websocket.max_message: 1MiB is new", "websocket.ping.interval: 5s is new",
                  "websocket_broadcast.path: /feed is new", "websocket_broadcast.source: sse is new"):  # fmt: skip
        assert words in found.stdout
