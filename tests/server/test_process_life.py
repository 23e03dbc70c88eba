"""Crashes, drains and reloads of real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from fastgw.testing import GatewayProcess, free_port

GET = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"


def comm(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def named(gateway, prefix):
    """Process ids by name: workers are fastgw-0, fastgw-1; the agent is fastgw-agent."""
    return {comm(pid): pid for pid in gateway.processes()[1:] if comm(pid).startswith(prefix)}


def workers(gateway):
    return {name: pid for name, pid in named(gateway, "fastgw-").items() if name != "fastgw-agent"}


def ask(gateway, request=GET):
    with gateway.client() as client:
        client.send(request)
        return client.response()


def ready(gateway):
    status, body = gateway.admin("/ready")
    return status == 200 and json.loads(body)


def rewrite(gateway, change):
    tree = yaml.safe_load(gateway.file.read_text())
    change(tree)
    gateway.file.write_text(yaml.safe_dump(tree, sort_keys=False))


def test_a_killed_worker_is_replaced_and_the_others_notice_nothing(config, eventually):
    with GatewayProcess(config) as gateway:
        before = workers(gateway)
        assert sorted(before) == ["fastgw-0", "fastgw-1"]
        os.kill(before["fastgw-0"], signal.SIGKILL)
        # also those that wait in the dead worker's accept queue are answered, by its successor
        for _ in range(20):
            assert ask(gateway).status == 200
        eventually(lambda: workers(gateway).get("fastgw-0", before["fastgw-0"]) != before["fastgw-0"], "a new worker")
        assert workers(gateway)["fastgw-1"] == before["fastgw-1"]
        eventually(lambda: ready(gateway), "ready")
        assert "fastgw_worker_restarts_total 1.0" in gateway.admin("/metrics")[1]


def counted(gateway):
    """Requests counted so far, over all workers."""
    text = gateway.admin("/metrics")[1]
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("fastgw_requests_total{"))


def test_counters_survive_the_crash_of_their_worker(config, eventually):
    with GatewayProcess({**config, "server": {"workers": 1}}) as gateway:
        for _ in range(3):
            assert ask(gateway).status == 200
        # a request is counted when its answer is out: a moment after the client has it
        eventually(lambda: counted(gateway) == 3, "three requests counted")
        old = workers(gateway)["fastgw-0"]
        os.kill(old, signal.SIGKILL)
        assert ask(gateway).status == 200
        eventually(lambda: ready(gateway), "ready")
        eventually(lambda: counted(gateway) == 4, "the fourth counted with them")


def test_a_killed_agent_is_replaced_and_knows_the_configuration(config, eventually):
    with GatewayProcess(config) as gateway:
        assert gateway.admin("/config/reload", "POST")[0] == 200
        old = named(gateway, "fastgw-agent")["fastgw-agent"]
        os.kill(old, signal.SIGKILL)
        assert ask(gateway).status == 200

        def replaced():
            try:
                return named(gateway, "fastgw-agent").get("fastgw-agent", old) != old and ready(gateway)
            except OSError:
                return False

        assert eventually(replaced, "a new agent")["generation"] == 2
        assert gateway.admin("/config/reload", "POST")[0] == 200


def test_a_new_agent_knows_whose_counters_it_shows(config, eventually):
    with GatewayProcess(config) as gateway:

        def name(path):
            route = {"name": path, "path": f"/{path}", "service": "up"}
            rewrite(gateway, lambda tree: tree["routes"].insert(0, route))
            assert gateway.admin("/config/reload", "POST")[0] == 200

        def counted():
            lines = gateway.admin("/metrics")[1].splitlines()
            lines = [line for line in lines if line.startswith("fastgw_requests_total{")]
            return {
                path: sum(float(line.split()[-1]) for line in lines if f'route="{path}"' in line)
                for path in ("first", "second")
            }

        def replaced():
            try:
                return named(gateway, "fastgw-agent").get("fastgw-agent", old) != old and ready(gateway)
            except OSError:
                return False

        name("first")
        assert ask(gateway, GET.replace(b"/hello", b"/first")).status == 200
        old = named(gateway, "fastgw-agent")["fastgw-agent"]
        os.kill(old, signal.SIGKILL)
        eventually(replaced, "a new agent")
        eventually(lambda: counted() == {"first": 1, "second": 0}, "the first is counted")
        name("second")
        assert ask(gateway, GET.replace(b"/hello", b"/second")).status == 200
        eventually(lambda: counted() == {"first": 1, "second": 1}, "the second is counted")


def test_no_child_outlives_a_killed_supervisor(config, eventually):
    gateway = GatewayProcess(config).start()
    try:
        children = gateway.processes()[1:]
        os.kill(gateway.pid, signal.SIGKILL)
        gateway.wait()
        eventually(lambda: not any(comm(pid).startswith("fastgw") for pid in children), "all children gone")
    finally:
        gateway.kill()


def test_sigterm_lets_the_request_in_flight_end(config, upstream):
    release = threading.Event()

    def slow(connection):
        connection.read_request()
        connection.wait(release)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    upstream.script(slow)
    with GatewayProcess(config) as gateway, gateway.client() as client, gateway.client() as idle:
        client.send(GET)
        upstream.wait_requests(1)
        gateway.signal(signal.SIGTERM)
        assert idle.sock.recv(1) == b""  # closed: it had nothing under way
        release.set()
        answer = client.response()
        assert (answer.status, answer.body) == (200, b"late")
        assert gateway.wait() == 0


def test_a_second_sigterm_ends_it_at_once(config, upstream):
    release = threading.Event()

    def hang(connection):
        connection.read_request()
        connection.wait(release)

    upstream.script(hang)
    config["server"]["timeouts"]["drain"] = "60s"
    with GatewayProcess(config) as gateway, gateway.client() as client, gateway.client() as idle:
        client.send(GET)
        upstream.wait_requests(1)
        gateway.signal(signal.SIGTERM)
        assert idle.sock.recv(1) == b""
        gateway.signal(signal.SIGTERM)
        assert gateway.wait(60) == 0
        release.set()


@pytest.mark.parametrize("how", ["admin", "SIGHUP"])
def test_a_good_reload_serves_the_new_routes_everywhere(config, eventually, how):
    with GatewayProcess(config) as gateway:
        before = workers(gateway)
        teapot = {"path": "/new", "policies": [{"respond": {"status": 418}}]}
        rewrite(gateway, lambda tree: tree["routes"].insert(0, teapot))
        if how == "admin":
            status, body = gateway.admin("/config/reload", "POST")
            assert (status, json.loads(body)["generation"]) == (200, 2)
        else:
            gateway.signal(signal.SIGHUP)
            # /ready knows the generation from the commit on; the workers adopt it after that
            eventually(lambda: "configuration 2 is in force" in gateway.stderr, "generation 2")
        for _ in range(20):
            assert ask(gateway, GET.replace(b"/hello", b"/new")).status == 418
        assert workers(gateway) == before


def test_a_bad_reload_changes_nothing_and_says_why(config):
    with GatewayProcess(config) as gateway:

        def spoil(tree):
            tree["routes"].append({"path": "/x", "service": "nobody"})
            tree["routes"].append({"path": "/y", "servise": "up"})

        rewrite(gateway, spoil)
        status, body = gateway.admin("/config/reload", "POST")
        problems = json.loads(body)["problems"]
        assert status == 400
        assert any("nobody" in str(problem) for problem in problems)
        assert any("servise" in str(problem) for problem in problems)
        assert ready(gateway)["generation"] == 1
        assert ask(gateway).status == 200


def test_listeners_come_and_go_with_a_reload(config):
    with GatewayProcess(config) as gateway, gateway.client() as kept:
        first = f"127.0.0.1:{gateway.port}"
        other = free_port()
        rewrite(gateway, lambda tree: tree["server"].update(listeners=[first, f"127.0.0.1:{other}"]))
        assert gateway.admin("/config/reload", "POST")[0] == 200
        old, gateway.port = gateway.port, other
        assert ask(gateway).status == 200
        gateway.port = old
        kept.send(GET)
        assert kept.response().status == 200  # the connection of before goes on
        rewrite(gateway, lambda tree: tree["server"].update(listeners=[first]))
        assert gateway.admin("/config/reload", "POST")[0] == 200
        gateway.port = other
        with pytest.raises(ConnectionRefusedError):
            gateway.client()
        gateway.port = old
        assert ask(gateway).status == 200


def test_a_listener_that_cannot_be_opened_fails_the_reload(config):

    with GatewayProcess(config) as gateway, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        rewrite(gateway, lambda t: t["server"].update(listeners=[f"127.0.0.1:{gateway.port}", f"127.0.0.1:{port}"]))
        status, body = gateway.admin("/config/reload", "POST")
        assert status == 400
        assert str(port) in body
        assert ready(gateway)["generation"] == 1
        assert ask(gateway).status == 200


def test_a_bad_file_starts_nothing(config, tmp_path):

    file = tmp_path / "bad.yaml"
    file.write_text("routes: [{path: /x, service: nobody}]\n")
    done = subprocess.run(
        [sys.executable, "-m", "fastgw", "run", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "nobody" in done.stderr
