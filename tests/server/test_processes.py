"""The process tree, as users run it: real processes, real signals."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import yaml

from fastgw.testing import FakeUpstream, GatewayProcess
from tests.patience import until

ROOT = Path(__file__).parents[2]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def serve(connection):
    while True:
        request = connection.read_head()
        connection.read_body(request)
        connection.send(OK)


@pytest.fixture(scope="module")
def upstream():
    with FakeUpstream(serve) as up:
        yield up


def config(upstream, workers=2, **server):
    return {
        "server": {"workers": workers, "timeouts": {"drain": "5s"}, **server},
        "services": {"up": upstream.url},
        "routes": [{"path": "/*", "service": "up"}],
    }


def children(pid):
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def comm(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:                                  # it ended since it was listed
        return ""


def named(pid, name):
    return [child for child in children(pid) if comm(child).startswith(name)]


def workers_of(gateway):
    return [pid for pid in named(gateway.pid, "fastgw-") if "agent" not in comm(pid)]


def get(path="/", extra=""):
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n{extra}\r\n".encode()


def status(gateway, path="/"):
    with gateway.client() as client:
        return client.request(get(path)).status


def ready(gateway):
    code, body = gateway.admin("/ready")
    return code == 200 and orjson.loads(body)


def test_connections_that_wait_are_served_by_the_successor(upstream):
    with GatewayProcess(config(upstream, workers=1)) as gateway:
        (worker,) = workers_of(gateway)
        os.kill(worker, signal.SIGSTOP)
        with gateway.client(60) as client:
            client.send(get())                       # it waits in the accept queue of a worker that stands still
            os.kill(worker, signal.SIGKILL)
            assert client.response().status == 200


def rewrite(gateway, **changes):
    tree = yaml.safe_load(gateway.file.read_text())
    tree.update(changes)
    gateway.file.write_text(yaml.safe_dump(tree))


def test_reload_keeps_connections_and_unchanged_listeners(upstream, tmp_path):
    with GatewayProcess(config(upstream)) as gateway, gateway.client() as client:
        assert client.request(get()).status == 200
        kept = {"bind": f"127.0.0.1:{gateway.port}"}
        path = tmp_path / "more.sock"
        tree = yaml.safe_load(gateway.file.read_text())
        tree["server"]["listeners"] = [kept, {"bind": f"unix:{path}"}]
        gateway.file.write_text(yaml.safe_dump(tree))
        assert gateway.admin("/config/reload", "POST")[0] == 200
        assert client.request(get()).status == 200     # the same connection, over the reload
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(path))
            other.sendall(get("/", "Connection: close\r\n"))
            assert other.recv(15) == b"HTTP/1.1 200 OK"
        tree["server"]["listeners"] = [kept]
        gateway.file.write_text(yaml.safe_dump(tree))
        assert gateway.admin("/config/reload", "POST")[0] == 200
        assert client.request(get()).status == 200
        until(lambda: not path.exists())               # the supervisor closes it when it hears of the commit
        with socket.socket(socket.AF_UNIX) as other, pytest.raises(OSError):
            other.connect(str(path))


def test_a_replaced_worker_begins_with_the_configuration_in_force(upstream):
    with GatewayProcess(config(upstream, workers=1)) as gateway:
        rewrite(gateway, routes=[{"path": "/only", "service": "up"}])
        assert gateway.admin("/config/reload", "POST")[0] == 200
        (worker,) = workers_of(gateway)
        os.kill(worker, signal.SIGKILL)
        until(lambda: workers_of(gateway) not in ([], [worker]) and ready(gateway))
        assert (status(gateway, "/new"), status(gateway, "/only")) == (404, 200)


def test_workers_together_admit_exactly_the_limit(upstream):
    limited = config(upstream, workers=3)
    limited["policies"] = [{"rate_limit": {"requests": 50, "per": "1h", "burst": 50, "by": "global"}}]
    with GatewayProcess(limited) as gateway:
        found = [status(gateway) for _ in range(120)]
        assert found.count(200) == 50
        assert found.count(429) == 70
        # the level of the bucket survives a reload and the death of a worker
        assert gateway.admin("/config/reload", "POST")[0] == 200
        killed = workers_of(gateway)[0]
        os.kill(killed, signal.SIGKILL)
        until(lambda: killed not in (found := workers_of(gateway)) and len(found) == 3 and ready(gateway))
        assert {status(gateway) for _ in range(30)} == {429}


def run(file, *args):
    return subprocess.run(
        [sys.executable, "-m", "fastgw", "run", str(file), *args], capture_output=True, text=True, cwd=ROOT, timeout=60
    )


def test_an_address_that_is_taken_ends_at_once_with_3(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        file = tmp_path / "taken.yaml"
        file.write_text(
            f"server: {{listeners: ['127.0.0.1:{taken.getsockname()[1]}']}}\nadmin: {{enabled: false}}\n"
            "services: {a: http://127.0.0.1:1}\nroutes: [{path: /x, service: a}]\n"
        )
        result = run(file)
    assert result.returncode == 3
    assert "cannot listen at 127.0.0.1:" in result.stderr


def test_one_process_is_enough_for_debugging(upstream):
    with GatewayProcess(config(upstream, workers=0)) as gateway:
        assert children(gateway.pid) == []
        assert status(gateway) == 200
        rewrite(gateway, routes=[{"path": "/only", "service": "up"}])
        assert gateway.admin("/config/reload", "POST")[0] == 200
        assert status(gateway, "/new") == 404
