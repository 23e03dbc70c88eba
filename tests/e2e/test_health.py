"""Health of endpoints in a running gateway: checks once per host, ejection by requests, what is told of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager

import pytest
import yaml

from fastgw.testing import FakeUpstream, GatewayProcess, free_port
from fastgw.testing.certificates import Authority
from tests.e2e.test_tls import https_server
from tests.server.test_processes import comm

DEADLINE = 60


class Endpoint:
    """An upstream whose behaviour can be changed while it runs."""

    def __init__(self, number):
        self.number = number
        self.health = b"200 OK"
        self.health_body = b'{"status":"ok"}'
        self.status = b"200 OK"
        self.checks = []
        self.served = 0
        self.up = FakeUpstream(self.play)

    def play(self, connection):
        while True:
            request = connection.read_request()
            if request.target.startswith("/health"):
                self.checks.append(request)
                status, body = self.health, self.health_body
            else:
                self.served += 1
                status, body = self.status, b"%d" % self.number
            connection.send(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))


def configuration(endpoints, workers=2, **service):
    return {
        "server": {"listeners": ["127.0.0.1:${FASTGW_PORT}"], "workers": workers},
        "observability": {"access_log": {"enabled": False}},
        "services": {"s": {"endpoints": [one.up.url for one in endpoints], **service}},
        "routes": [{"path": "/*", "service": "s"}],
    }


CHECK = {"path": "/health", "interval": "100ms", "healthy_threshold": 2, "unhealthy_threshold": 2}


@contextmanager
def running(count=3, workers=2, **service):
    with ExitStack() as stack:
        endpoints = [Endpoint(i) for i in range(count)]
        for one in endpoints:
            stack.enter_context(one.up)
        gateway = stack.enter_context(GatewayProcess(configuration(endpoints, workers, **service)))
        yield gateway, endpoints


def rows(gateway, service="s"):
    status, text = gateway.admin(f"/services/{service}/endpoints")
    assert status == 200, text
    return json.loads(text)


def states(gateway):
    return [row["state"] for row in rows(gateway)]


def until(condition, what):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"no {what} in {DEADLINE} s"
        time.sleep(0.02)


def ask(gateway):
    with gateway.client() as client:
        answer = client.request(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        return answer.status, bytes(answer.body)


def asked(gateway, count=24):
    """Which endpoints answered, and with which statuses, over connections to either worker."""
    answers = [ask(gateway) for _ in range(count)]
    return {int(body) for status, body in answers if status < 500}, Counter(status for status, _ in answers)


# ---------------------------------------------------------------- checks


def test_one_that_fails_its_checks_is_left_out_until_it_is_well_again():
    with running(health_check=CHECK) as (gateway, endpoints):
        until(lambda: states(gateway) == ["up"] * 3, "good check")
        assert asked(gateway)[0] == {0, 1, 2}
        endpoints[1].health = b"503 Service Unavailable"
        until(lambda: states(gateway) == ["up", "down", "up"], "bad check")
        row = rows(gateway)[1]
        assert row["reason"] == "the health check failed: status 503" and row["since"] < DEADLINE
        assert row["checks"]["bad"] >= 2
        assert asked(gateway) == ({0, 2}, {200: 24})
        _, metrics = gateway.admin("/metrics")
        name = endpoints[1].up.url.removeprefix("http://")
        assert f'fastgw_endpoint_up{{endpoint="{name}",service="s"}} 0.0' in metrics
        assert f'fastgw_health_checks_total{{endpoint="{name}",result="bad",service="s"}}' in metrics
        endpoints[1].health = b"201 Created"
        until(lambda: states(gateway) == ["up"] * 3, "good check")
        assert asked(gateway)[0] == {0, 1, 2}


def test_checks_are_made_once_per_host_not_by_each_worker():
    with running(count=1, workers=4, health_check={**CHECK, "interval": "200ms", "jitter": 0}) as (gateway, endpoints):
        (one,) = endpoints
        until(lambda: len(one.checks) >= 2, "check")
        begun, first = time.monotonic(), len(one.checks)
        until(lambda: len(one.checks) >= first + 6, "six more checks")
        # four workers would have made them in 0.3 s
        assert time.monotonic() - begun > 0.8
        assert states(gateway) == ["up"]


def test_what_a_check_asks():
    check = {**CHECK, "path": "/health/deep?full=1", "host": "users.internal", "statuses": "2xx"}
    check["body"] = '"status":"ok"'
    with running(count=2, health_check=check) as (gateway, endpoints):
        until(lambda: states(gateway) == ["up"] * 2, "good check")
        request = endpoints[0].checks[0]
        assert request.start == "GET /health/deep?full=1 HTTP/1.1"
        assert request.get("host") == "users.internal"
        endpoints[0].health_body = b'{"status":"broken"}'
        until(lambda: states(gateway) == ["down", "up"], "bad check")
        assert "the body has not the text" in rows(gateway)[0]["reason"]


def test_tcp_and_another_port():
    with ExitStack() as stack:
        one, side = Endpoint(0), Endpoint(9)
        stack.enter_context(one.up)
        stack.enter_context(side.up)
        config = configuration([one], health_check={**CHECK, "port": side.up.address[1]})
        config["services"]["t"] = {"endpoints": [one.up.url], "health_check": {"type": "tcp", "interval": "100ms"}}
        config["services"]["closed"] = {
            "endpoints": [f"http://127.0.0.1:{free_port()}"], "health_check": {"type": "tcp", "interval": "100ms"},
        }  # fmt: skip
        gateway = stack.enter_context(GatewayProcess(config))
        until(lambda: states(gateway) == ["up"], "good check")
        assert side.checks and not one.checks
        until(lambda: rows(gateway, "t")[0]["state"] == "up", "good check")
        until(lambda: rows(gateway, "closed")[0]["state"] == "down", "bad check")
        assert "refused" in rows(gateway, "closed")[0]["reason"].lower()


def test_an_endpoint_that_does_not_answer_its_check():
    with running(count=2, health_check={**CHECK, "timeout": "150ms"}) as (gateway, endpoints):
        until(lambda: states(gateway) == ["up"] * 2, "good check")
        endpoints[0].up.script(lambda connection: connection.hang())
        endpoints[0].up.kill_connections(with_reset=False)
        until(lambda: states(gateway) == ["down", "up"], "bad check")
        assert rows(gateway)[0]["reason"].endswith("no answer in 0.15 s")


def test_all_down_and_the_declared_behaviour():
    for panic, wanted in (("any", {200: 24}), ("fail", {503: 24})):
        with running(count=2, health_check=CHECK, balance={"panic": panic}) as (gateway, endpoints):
            for one in endpoints:
                one.health = b"500 Oh"
            until(lambda gateway=gateway: states(gateway) == ["down"] * 2, "bad checks")
            assert asked(gateway)[1] == wanted


def test_priorities_fail_over_and_back():
    with ExitStack() as stack:
        endpoints = [Endpoint(i) for i in range(2)]
        for one in endpoints:
            stack.enter_context(one.up)
        config = configuration(endpoints, health_check=CHECK)
        config["services"]["s"]["endpoints"] = [{"url": one.up.url, "priority": i} for i, one in enumerate(endpoints)]
        gateway = stack.enter_context(GatewayProcess(config))
        assert asked(gateway)[0] == {0}
        endpoints[0].health = b"500 Oh"
        until(lambda: states(gateway)[0] == "down", "bad check")
        assert asked(gateway) == ({1}, {200: 24})
        endpoints[0].health = b"200 OK"
        until(lambda: states(gateway)[0] == "up", "good check")
        assert asked(gateway) == ({0}, {200: 24})


def test_the_state_outlives_the_agent_and_a_worker():
    with running(health_check=CHECK) as (gateway, endpoints):
        endpoints[2].health = b"500 Oh"
        until(lambda: states(gateway) == ["up", "up", "down"], "checks")
        # the check that would bring it back is held, so that only what is remembered keeps it out
        killed = 0
        for pid in gateway.processes():
            name = comm(pid)
            if name in ("fastgw-agent", "fastgw-0"):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        assert killed == 2

        def back():
            try:
                status, text = gateway.admin("/ready")
            except OSError:
                return False
            return status == 200 and json.loads(text)["workers"] == 2

        until(back, "agent and worker")
        assert asked(gateway) == ({0, 1}, {200: 24})
        until(lambda: states(gateway) == ["up", "up", "down"], "checks")
        before = len(endpoints[2].checks)
        until(lambda: len(endpoints[2].checks) > before, "check of the new agent")
        endpoints[2].health = b"200 OK"
        until(lambda: states(gateway) == ["up"] * 3, "good check")
        assert asked(gateway)[0] == {0, 1, 2}


def test_a_reload_keeps_the_state_and_the_end_of_checks_forgets_it():
    with running(health_check=CHECK) as (gateway, endpoints):
        endpoints[0].health = b"500 Oh"
        until(lambda: states(gateway) == ["down", "up", "up"], "checks")
        assert gateway.admin("/config/reload", "POST")[0] == 200
        assert states(gateway)[0] == "down" and asked(gateway)[0] == {1, 2}
        tree = yaml.safe_load(gateway.file.read_text())
        tree["services"]["s"]["outliers"] = {}
        del tree["services"]["s"]["health_check"]
        gateway.file.write_text(yaml.safe_dump(tree))
        assert gateway.admin("/config/reload", "POST")[0] == 200
        assert states(gateway) == ["unchecked"] * 3
        assert asked(gateway)[0] == {0, 1, 2}
        count = len(endpoints[1].checks)
        assert asked(gateway)[1] == {200: 24}
        assert len(endpoints[1].checks) <= count + 1


def test_endpoints_that_discovery_brings_are_checked(tmp_path):
    with ExitStack() as stack:
        endpoints = [Endpoint(i) for i in range(2)]
        for one in endpoints:
            stack.enter_context(one.up)
        found = tmp_path / "endpoints.yaml"
        found.write_text(f"[{endpoints[0].up.url}]")
        config = configuration([], health_check=CHECK)
        config["services"]["s"] |= {"discovery": {"type": "file", "path": str(found)}}
        del config["services"]["s"]["endpoints"]
        gateway = stack.enter_context(GatewayProcess(config))
        until(lambda: states(gateway) == ["up"], "good check")
        endpoints[1].health = b"500 Oh"
        other = tmp_path / "new.yaml"
        other.write_text(f"[{endpoints[0].up.url}, {endpoints[1].up.url}]")
        other.replace(found)
        until(lambda: sorted(states(gateway)) == ["down", "up"], "new endpoint")
        assert asked(gateway) == ({0}, {200: 24})


def test_checks_speak_tls_as_the_service_does(tmp_path):
    pki = Authority(tmp_path / "pki")
    shown = pki.client("gateway")
    with https_server(pki.leaf("users.internal"), client_ca=pki.cert) as port:
        tls = {"ca": pki.cert, "cert": shown.cert, "key": shown.key, "server_name": "users.internal"}
        kinds = {
            "good": tls,
            "name": {**tls, "server_name": "orders.internal"},
            "unshown": {"ca": pki.cert, "server_name": "users.internal"},
            "unchecked": {**tls, "server_name": "orders.internal", "verify": False},
        }
        config = {
            "server": {"listeners": ["127.0.0.1:${FASTGW_PORT}"]},
            "services": {
                name: {"endpoints": [f"https://127.0.0.1:{port}"], "health_check": CHECK, "tls": options}
                for name, options in kinds.items()
            },
            "routes": [{"path": f"/{name}", "service": name} for name in kinds],
        }
        with GatewayProcess(config) as gateway:
            for name, wanted in {"good": "up", "name": "down", "unshown": "down", "unchecked": "up"}.items():
                until(lambda name=name, wanted=wanted: rows(gateway, name)[0]["state"] == wanted, f"{name} {wanted}")
            assert "TLS" in rows(gateway, "name")[0]["reason"]


# ---------------------------------------------------------------- ejection


def test_one_that_fails_requests_is_ejected_and_comes_back():
    with running(outliers={"consecutive_failures": 3, "ejection_time": "4s"}) as (gateway, endpoints):
        assert asked(gateway) == ({0, 1, 2}, {200: 24})
        endpoints[0].status = b"503 Service Unavailable"
        answered, statuses = asked(gateway, 60)
        # three failures in a row, counted by both workers together
        assert statuses[503] == 3 and answered == {1, 2}
        row = rows(gateway)[0]
        assert row["state"] == "ejected" and row["reason"] == "too many failures in a row" and row["ejections"] == 1
        assert 0 < row["ejected_for"] <= 4
        endpoints[0].status = b"200 OK"
        until(lambda: states(gateway) == ["unchecked"] * 3, "end of the ejection")
        assert asked(gateway) == ({0, 1, 2}, {200: 24})
        _, metrics = gateway.admin("/metrics")
        name = endpoints[0].up.url.removeprefix("http://")
        assert f'fastgw_endpoint_ejections_total{{endpoint="{name}",service="s"}} 1.0' in metrics


def test_the_second_ejection_is_longer():
    with running(outliers={"consecutive_errors": 2, "consecutive_failures": 0, "ejection_time": "300ms"}) as (
        gateway,
        endpoints,
    ):
        endpoints[0].status = b"500 Oh"
        begun = time.monotonic()
        failed = 0
        while rows(gateway)[0]["ejections"] < 3:
            failed += ask(gateway)[0] == 500
            assert time.monotonic() - begun < DEADLINE
        assert failed == 6
        assert time.monotonic() - begun > 0.3 + 0.6


@pytest.mark.parametrize("option", [{"latency_above": 3, "interval": "2s"}, {"success_rate_below": "20%"}])
def test_one_that_is_worse_than_the_others_is_ejected(option):
    outliers = {"consecutive_errors": 0, "consecutive_failures": 0, "interval": "500ms", "min_requests": 5,
                "ejection_time": "60s", **option}  # fmt: skip
    with running(outliers=outliers) as (gateway, endpoints):
        worse = endpoints[1]

        def play(connection):
            turn = 0
            while True:
                connection.read_request()
                turn += 1
                if "latency_above" in option:
                    time.sleep(0.2)                  # it is slow: that is what is measured
                status = b"500 Oh" if "success_rate_below" in option and turn % 2 else b"200 OK"
                connection.send(b"HTTP/1.1 %s\r\nContent-Length: 1\r\n\r\n1" % status)

        worse.up.script(play)

        def ejected():
            asked(gateway, 12)
            return states(gateway)[1] == "ejected"

        until(ejected, "ejection")
        word = "slower" if "latency_above" in option else "success rate"
        assert word in rows(gateway)[1]["reason"]
        # on a machine with other work another one may look slow for a moment; a third is always asked
        answered, statuses = asked(gateway)
        assert answered and answered <= {0, 2} and statuses == {200: 24}


def test_status_says_it_in_words():
    with running(health_check=CHECK) as (gateway, endpoints):
        endpoints[1].health = b"500 Oh"
        until(lambda: states(gateway) == ["up", "down", "up"], "checks")
        command = [sys.executable, "-m", "fastgw", "status", "--admin", f"127.0.0.1:{gateway.admin_port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        first, second = json.loads(done.stdout)["health"]
        assert first == "s: 2 of 3 endpoints are asked"
        assert endpoints[1].up.url in second and second.endswith("(the health check failed: status 500)")
