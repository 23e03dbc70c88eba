"""`rate_limit` over sockets and workers: those who wait, those under way, and workers that die."""

import contextlib
import http.client
import json
import os
import select
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from fastgw.testing import FakeUpstream, Gate, GatewayProcess
from tests.patience import until

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ASK = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n"
CONFIG = """
server: {workers: 2}
services: {up: {endpoints: ["%s"]}}
routes:
  - path: /leaky
    policies:
      - rate_limit: {requests: 5, per: 1s, algorithm: leaky_bucket, queue: 2, by: global}
      - respond: {body: ok}
  - path: /slow
    policies:
      - rate_limit: {requests: 1, per: 1m, algorithm: leaky_bucket, queue: 1, max_delay: 5m, by: global}
      - respond: {body: ok}
  - path: /held
    service: up
    policies: [rate_limit: {requests: 2, algorithm: concurrency, by: global}]
  - path: /exact
    policies:
      - rate_limit: {limits: [40/1h, {requests: 60, per: 2h, algorithm: sliding_log}], by: global}
      - respond: {body: ok}
  - path: /key
    policies:
      - rate_limit: {limits: [2/1h, {requests: 10, per: 2h, algorithm: sliding_window, name: slow}]}
      - respond: {body: ok}
"""


@pytest.fixture(scope="module")
def gate():
    return Gate(GOOD)


@pytest.fixture(scope="module")
def up(gate):
    with FakeUpstream(gate) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(up):
    with GatewayProcess(yaml.safe_load(CONFIG % up.url)) as running:
        yield running


def ask(gateway, path):
    with gateway.client(60) as client:
        return client.request(ASK % path.encode())


def test_who_comes_faster_than_it_leaks_waits(gateway):
    def one(_):
        answer = ask(gateway, "/leaky")
        return answer.status, time.monotonic()

    start = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        found = sorted(pool.map(one, range(4)))
    passed = sorted(at for status, at in found if status == 200)
    if len(passed) == 4:                               # the machine is so slow that there was room again
        assert passed[-1] - start >= 0.4
    else:
        assert [status for status, _ in found] == [200, 200, 200, 429]
    assert passed[1] - start >= 0.19 and passed[2] - start >= 0.39
    counted = {row["route"]: row for row in told(gateway, "/limits")[1]["limits"]}["/leaky"]
    assert counted["allowed"] == len(passed) and counted["delayed"] >= 2


def test_who_leaves_while_waiting_is_forgotten(gateway):
    assert ask(gateway, "/slow").status == 200
    clients = {one.sock: one for one in (gateway.client(60), gateway.client(60))}
    for client in clients.values():
        client.send(ASK % b"/slow")
    refused = select.select(list(clients), [], [], 60)[0]    # one waits for a minute, the other has no place to wait in
    assert [clients[sock].response().status for sock in refused] == [429]
    for client in clients.values():
        client.close()
    assert ask(gateway, "/slow").status == 429, "its place in the bucket is not given back: it leaks by itself"


def hold(gateway, gate, up):
    """Two requests under way, all there may be."""
    gate.open.clear()
    up.forget()
    clients = [gateway.client(60) for _ in range(2)]
    for client in clients:
        client.send(ASK % b"/held")
    up.wait_requests(2)
    assert ask(gateway, "/held").status == 429
    return clients


def test_requests_under_way_are_counted_over_workers_and_given_back(gateway, gate, up):
    clients = hold(gateway, gate, up)
    gate.open.set()
    for client in clients:
        assert client.response().status == 200
        client.close()
    until(lambda: ask(gateway, "/held").status == 200)


def test_who_goes_away_gives_its_place_back(gateway, gate, up):
    for client in hold(gateway, gate, up):
        client.close()
    gate.open.set()
    until(lambda: ask(gateway, "/held").status == 200)


def comm(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()


def test_workers_that_are_killed_leak_nothing(gateway, gate, up):
    clients = hold(gateway, gate, up)
    killed = [pid for pid in gateway.processes() if comm(pid) in ("fastgw-0", "fastgw-1")]
    assert len(killed) == 2
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    for client in clients:
        client.close()
    gate.open.set()

    def passes():
        with contextlib.suppress(OSError, EOFError):
            return ask(gateway, "/held").status == 200

    until(passes, 60)


def test_workers_together_admit_exactly_the_limit(gateway):
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda _: ask(gateway, "/exact").status, range(60)))
    assert statuses.count(200) == 40 and statuses.count(429) == 20


def told(gateway, path, method="GET", body=None):
    connection = http.client.HTTPConnection(gateway.host, gateway.admin_port, timeout=60)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_a_key_is_looked_at_and_reset(gateway):
    assert [ask(gateway, "/key").status for _ in range(3)] == [200, 200, 429]
    policy = {"policy": "/key/rate_limit/1", "key": ["127.0.0.1"]}
    status, state = told(gateway, "/limits/state", "POST", policy)
    assert status == 200 and [one["remaining"] for one in state["limits"]] == [0, 8]
    assert told(gateway, "/limits/reset", "POST", policy)[1]["reset"] == 2
    assert ask(gateway, "/key").status == 200

    _, view = told(gateway, "/limits")
    rows = {(row["route"], row["limit"]): row for row in view["limits"]}
    assert (rows["/key", "2/1h"]["allowed"], rows["/key", "2/1h"]["refused"]) == (3, 1)
    assert rows["/key", "slow"]["allowed"] == 3 and rows["/key", "slow"]["refused"] == 0
    assert view["table"]["slots"] > 1_000_000 and 0 < view["table"]["keys"] < 1000
    shown = {one["policy"]: one for one in view["policies"]}["/key/rate_limit/1"]
    assert (shown["by"], shown["limits"]) == (["client_ip"], ["2/1h", "slow"])

    metrics = gateway.admin("/metrics")[1]
    assert 'fastgw_limit_requests_total{limit="2/1h",result="refused",route="/key"} 1.0' in metrics
    assert "fastgw_limit_table_evictions_total 0.0" in metrics


@pytest.mark.parametrize(
    "path, method, body, status",
    [
        ("/limits", "POST", {}, 405),
        ("/limits/state", "GET", None, 405),
        ("/limits/state", "POST", {"policy": "none/rate_limit/1", "key": ["a"]}, 404),
        ("/limits/state", "POST", {"policy": "/key/rate_limit/1", "key": ["no address"]}, 400),
        ("/limits/state", "POST", {"policy": "/key/rate_limit/1", "key": []}, 400),
        ("/limits/reset", "POST", {"policy": "/key/rate_limit/1", "key": [1]}, 400),
        ("/limits/reset", "POST", ["a"], 400),
    ],
)
def test_what_the_admin_api_refuses(gateway, path, method, body, status):
    assert told(gateway, path, method, body)[0] == status
