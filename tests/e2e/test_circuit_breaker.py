"""Circuit breakers in a gateway: what opens which, who is asked then, and how they close again."""

import json
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import pytest

from fastgw.testing import FakeUpstream, GatewayProcess, free_port
from tests.e2e.test_http2_upstream import code

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\ndown"
LONG = {"failure_threshold": 3, "timeout": "1h"}
SHORT = {"failure_threshold": 2, "timeout": "500ms", "half_open_requests": 2}


class Switch:
    """A handler whose answer can be changed."""

    def __init__(self, answer=BAD):
        self.answer = answer

    def __call__(self, connection):
        while True:
            connection.read_request()
            connection.send(self.answer)


@contextmanager
def world(*plays, breaker=None, route=None, service=None, endpoints=(), workers=1):
    with ExitStack() as stack:
        ups = [stack.enter_context(FakeUpstream(play)) for play in plays]
        given = {"endpoints": [*endpoints, *(up.url for up in ups)], **(service or {})}
        if breaker is not None:
            given["circuit_breaker"] = breaker
        config = {
            # some tests ask again and again on one connection until a breaker is half open
            "server": {"workers": workers, "limits": {"requests_per_connection": 10_000_000}},
            "services": {"up": given},
            "routes": [
                {"path": "/a/*", "service": "up", **(route or {})},
                {"path": "/b/*", "service": "up"},
            ],
        }
        gateway = stack.enter_context(GatewayProcess(config))
        client = stack.enter_context(gateway.client())
        yield client, gateway, ups


def get(client, path="/a/x"):
    return client.request(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())


def asked(ups):
    return sum(len(up.requests) for up in ups)


@pytest.mark.parametrize("scope", ["service", "route", "endpoint"])
def test_failures_in_a_row_open_it_and_nobody_is_asked_then(scope):
    with world(Switch(), breaker={**LONG, "scope": scope}) as (client, _, ups):
        for _ in range(3):
            assert get(client).status == 500
        found = get(client)
        assert code(found) == (503, "circuit_open")
        assert 3000 < int(found.get("retry-after")) <= 3600
        assert asked(ups) == 3
        assert get(client, "/b/x").status == (500 if scope == "route" else 503)


def test_a_route_has_its_own():
    with world(Switch(), route={"circuit_breaker": LONG}) as (client, _, ups):
        for _ in range(3):
            assert get(client).status == 500
        assert code(get(client)) == (503, "circuit_open")
        assert get(client, "/b/x").status == 500 and asked(ups) == 4


def test_an_open_endpoint_is_left_out():
    with world(Switch(), Switch(GOOD), breaker=LONG) as (client, _, (bad, good)):
        statuses = [get(client).status for _ in range(20)]
        assert statuses.count(500) == 3 == len(bad.requests)
        assert statuses.count(200) == 17 == len(good.requests)
        assert statuses[-10:] == [200] * 10


@pytest.mark.parametrize("way", ["consistent_hash", "least_requests", "random", "ewma"])
def test_whatever_the_way_to_choose(way):
    balance = {"type": way} | ({"hash_on": "${request.header.X-Key}"} if way == "consistent_hash" else {})
    with world(Switch(), Switch(GOOD), breaker=LONG, service={"balance": balance}) as (client, _, (bad, good)):
        for number in range(60):
            client.request(f"GET /a/x HTTP/1.1\r\nHost: h\r\nX-Key: {number}\r\n\r\n".encode())
        assert len(bad.requests) <= 3 and len(good.requests) >= 57


def test_all_endpoints_open_is_an_answer_of_its_own():
    with world(Switch(), Switch(), breaker=LONG) as (client, _, ups):
        for _ in range(6):
            assert get(client).status == 500
        assert code(get(client)) == (503, "circuit_open") and asked(ups) == 6


def test_an_endpoint_that_is_down_is_asked_before_one_that_is_open():
    # panic: a service of which nothing is well is asked all the same; what is open stays out
    dead = f"http://127.0.0.1:{free_port()}"
    check = {"type": "tcp", "interval": "100ms"}
    with world(Switch(), breaker=LONG, endpoints=[dead], service={"health_check": check}) as (client, gateway, ups):
        deadline = time.monotonic() + 60
        while asked(ups) < 3 and time.monotonic() < deadline:
            get(client)
        deadline = time.monotonic() + 60
        while "down" not in {one["state"] for one in endpoints(gateway)} and time.monotonic() < deadline:
            time.sleep(0.01)
        before = asked(ups)
        # its circuit opens too, in the end
        answers = [code(get(client)) for _ in range(10)]
        assert asked(ups) == before == 3
        assert set(answers) <= {(502, "upstream_connect_failed"), (503, "circuit_open")}


def endpoints(gateway):
    return json.loads(gateway.admin("/services/up/endpoints")[1])


@pytest.mark.parametrize("scope", ["service", "endpoint"])
def test_probes_close_it_again(scope):
    play = Switch()
    with world(play, breaker={**SHORT, "scope": scope}) as (client, _, _):
        assert [get(client).status for _ in range(3)] == [500, 500, 503]
        play.answer = GOOD
        deadline = time.monotonic() + 60
        while get(client).status != 200 and time.monotonic() < deadline:
            pass
        assert [get(client).status for _ in range(10)] == [200] * 10


@pytest.mark.parametrize("scope", ["service", "endpoint"])
def test_a_probe_that_fails_opens_it_again(scope):
    with world(Switch(), breaker={**SHORT, "scope": scope}) as (client, gateway, ups):
        deadline = time.monotonic() + 60
        while asked(ups) < 4 and time.monotonic() < deadline:
            get(client)
        assert asked(ups) == 4
        # one probe each time it is half open, whatever comes meanwhile
        found = json.loads(gateway.admin("/circuit-breakers")[1])["circuit_breakers"]
        assert [one["scope"] for one in found] == [scope]
        assert found[0]["transitions"]["half_open"] >= 2 and found[0]["refused"] >= 1


def test_failures_without_an_answer_count():
    breaker = {**LONG, "scope": "service"}
    with world(breaker=breaker, endpoints=[f"http://127.0.0.1:{free_port()}"]) as (client, _, _):
        codes = [code(get(client))[1] for _ in range(4)]
        assert codes == ["upstream_connect_failed"] * 3 + ["circuit_open"]


def test_a_client_that_leaves_is_no_failure():
    def play(connection):
        connection.read_request()
        connection.hang()

    with world(play, breaker={**LONG, "failure_threshold": 1}) as (_, gateway, (up,)):
        for number in range(3):
            with gateway.client() as other:
                other.send(b"GET /a/x HTTP/1.1\r\nHost: h\r\n\r\n")
                deadline = time.monotonic() + 60
                while len(up.requests) <= number and time.monotonic() < deadline:
                    time.sleep(0.01)
        assert len(up.requests) == 3


def test_statuses_are_yours():
    throttled = b"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\n\r\n"
    breaker = {**LONG, "statuses": [429], "scope": "service"}
    play = Switch()
    with world(play, breaker=breaker) as (client, _, _):
        assert [get(client).status for _ in range(5)] == [500] * 5
        play.answer = throttled
        assert [get(client).status for _ in range(4)] == [429, 429, 429, 503]


def test_an_error_rate():
    breaker = {"failure_threshold": 0, "error_rate": "50%", "min_requests": 6, "timeout": "1h", "window": "1h"}
    play = Switch(GOOD)
    with world(play, breaker={**breaker, "scope": "service"}) as (client, _, _):
        assert [get(client).status for _ in range(3)] == [200] * 3
        play.answer = BAD
        assert [get(client).status for _ in range(4)] == [500, 500, 500, 503]


def test_it_stays_open_over_a_reload_and_an_upgrade():
    with world(Switch(), breaker=LONG) as (client, gateway, ups):
        for _ in range(3):
            assert get(client).status == 500
        assert gateway.admin("/config/reload", "POST")[0] == 200
        assert code(get(client)) == (503, "circuit_open")
        gateway.upgrade()
        with gateway.client() as other:
            assert code(get(other)) == (503, "circuit_open")
        assert asked(ups) == 3


def test_workers_share_it():
    breaker = {**LONG, "failure_threshold": 4, "scope": "service"}
    with world(Switch(), breaker=breaker, workers=2) as (_, gateway, ups):
        statuses = []
        for _ in range(40):
            with gateway.client() as client:
                statuses.append(get(client).status)
        assert statuses == [500] * 4 + [503] * 36 and asked(ups) == 4


def test_retries_find_another_endpoint_and_what_is_open_is_not_tried():
    retry = {"retry_on": ["500"], "backoff": "1ms", "budget": {"ratio": 1, "per_second": 100}}
    with world(Switch(), Switch(GOOD), breaker=LONG, service={"retry": retry}) as (client, _, (bad, _)):
        assert [get(client).status for _ in range(20)] == [200] * 20
        assert len(bad.requests) == 3


def test_commands_by_the_admin_api_and_by_the_verb():
    with world(Switch(GOOD), breaker=LONG, route={"circuit_breaker": LONG}) as (client, gateway, ups):
        verb = [sys.executable, "-m", "fastgw", "circuits"]

        def run(*words):
            address = f"{gateway.host}:{gateway.admin_port}"
            return subprocess.run([*verb, *words, "--admin", address], capture_output=True, text=True, timeout=60)

        assert get(client).status == 200
        found = run("open", "up", "--endpoint", ups[0].url, "--json")
        assert found.returncode == 0, found.stderr
        assert [one["state"] for one in json.loads(found.stdout)["circuit_breakers"]] == ["forced_open"]
        assert code(get(client, "/b/x")) == (503, "circuit_open")
        assert "forced_open" in run().stdout and 'state="forced_open"} 1.0' in gateway.admin("/metrics")[1]
        assert run("auto", "up").returncode == 0
        assert get(client, "/b/x").status == 200
        assert run("open", "-", "--route", "/a/*").returncode == 0
        assert get(client).status == 503 and get(client, "/b/x").status == 200
        assert run("reset", "-").returncode == 0 and get(client).status == 200
        assert run("reset", "nobody").returncode == 1
        assert run("reset").returncode == 2
