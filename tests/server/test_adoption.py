"""What a reload brings must work at once, and what cannot work must not be adopted."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fastgw.testing import FakeUpstream, GatewayProcess, free_port


def rewrite(gateway, **rooms):
    tree = yaml.safe_load(gateway.file.read_text())
    for room, values in rooms.items():
        tree[room] = {**tree.get(room, {}), **values} if isinstance(values, dict) else values
    gateway.file.write_text(yaml.safe_dump(tree, sort_keys=False))


def get(gateway, path="/hello"):
    with gateway.client() as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return client.response().status


def generation(gateway):
    status, body = gateway.admin("/ready")
    assert status == 200
    return json.loads(body)["generation"]


def test_a_host_name_that_a_reload_brings_is_known_at_once(config):
    with FakeUpstream() as other, GatewayProcess(config) as gateway:
        rewrite(
            gateway,
            services={"named": other.url.replace("127.0.0.1", "localhost")},
            routes=[{"path": "/named/*", "service": "named"}, {"path": "/*", "service": "up"}],
        )
        assert gateway.admin("/config/reload", "POST")[0] == 200
        assert [get(gateway, "/named/x") for _ in range(8)] == [200] * 8


def test_an_access_log_that_cannot_be_opened_fails_the_reload(config, tmp_path, eventually):
    with GatewayProcess(config) as gateway:
        before = gateway.processes()
        path = str(tmp_path / "no" / "such" / "folder.log")
        rewrite(gateway, observability={"access_log": {"path": path}})
        status, body = gateway.admin("/config/reload", "POST")
        assert status == 400
        assert path in json.dumps(json.loads(body)["problems"])
        assert generation(gateway) == 1
        assert get(gateway) == 200
        # the one that compiled may still be ending
        eventually(lambda: gateway.processes() == before, "the same processes")


def test_a_reload_opens_another_access_log(config, tmp_path, eventually):
    with GatewayProcess(config) as gateway:
        path = tmp_path / "access.log"
        rewrite(gateway, observability={"access_log": {"path": str(path)}})
        assert gateway.admin("/config/reload", "POST")[0] == 200
        assert get(gateway, "/logged") == 200
        eventually(lambda: "/logged" in path.read_text(), "the line")


def test_an_access_log_that_cannot_be_opened_starts_nothing(config, tmp_path):
    file = tmp_path / "gateway.yaml"
    path = str(tmp_path / "no" / "folder.log")
    config["server"]["listeners"] = ["127.0.0.1:0"]
    file.write_text(yaml.safe_dump({**config, "observability": {"access_log": {"path": path}}}))
    done = subprocess.run(
        [sys.executable, "-m", "fastgw", "run", str(file)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 3
    assert path in done.stderr


def test_the_file_of_a_unix_listener_goes_with_it(config, tmp_path, eventually):
    file = tmp_path / "fastgw.sock"
    with GatewayProcess(config) as gateway:
        first = f"127.0.0.1:{gateway.port}"
        rewrite(gateway, server={"listeners": [first, f"unix:{file}"]})
        assert gateway.admin("/config/reload", "POST")[0] == 200
        assert file.is_socket()
        rewrite(gateway, server={"listeners": [first]})
        assert gateway.admin("/config/reload", "POST")[0] == 200
        eventually(lambda: not file.exists(), "the file is gone")
        assert get(gateway) == 200


def kept_open(port):
    """Whether anybody at all has a listening socket there: a connection is tried at once."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("replaced", ["nobody", "a worker", "the agent"])
def test_a_removed_listener_is_closed_when_the_reload_is_answered(config, eventually, replaced):
    """Also the sockets that a child was born with, be they its own or those of others."""
    other = free_port()
    config["server"]["listeners"] = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{other}"]
    with GatewayProcess(config) as gateway:
        first = config["server"]["listeners"][0]
        gateway.port = int(first.rpartition(":")[2])
        if replaced != "nobody":
            name = {"a worker": "fastgw-1", "the agent": "fastgw-agent"}[replaced]
            old = named(gateway, name)
            os.kill(old, signal.SIGKILL)
            eventually(lambda: named(gateway, name) not in (0, old) and serving(gateway), "its successor")
        for _ in range(5):
            assert kept_open(other)
            rewrite(gateway, server={"listeners": [first]})
            assert gateway.admin("/config/reload", "POST")[0] == 200
            assert not kept_open(other)
            assert get(gateway) == 200
            rewrite(gateway, server={"listeners": [first, f"127.0.0.1:{other}"]})
            assert gateway.admin("/config/reload", "POST")[0] == 200


def serving(gateway):
    try:
        return gateway.admin("/ready")[0] == 200
    except OSError:
        return False


def named(gateway, name):
    """The process id, 0 when there is none."""
    return next((pid for pid in gateway.processes() if comm(pid) == name), 0)


def comm(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:                                  # it ended since it was listed
        return ""
