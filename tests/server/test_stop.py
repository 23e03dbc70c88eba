"""SIGTERM ends everything in time, whatever state the processes are in."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from fastgw.server.supervisor import GRACE
from fastgw.testing import GatewayProcess

GET = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
DRAIN = 1.0


def named(gateway, name):
    """The process id of the process of that name, 0 when there is none."""
    for pid in gateway.processes():
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                return pid
        except OSError:
            continue
    return 0


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def short(config):
    config["server"]["timeouts"]["drain"] = f"{DRAIN:g}s"
    return config


@pytest.mark.parametrize("stopped", [["fastgw-agent"], ["fastgw-0"], ["fastgw-0", "fastgw-1", "fastgw-agent"]])
def test_a_process_that_stands_still_holds_up_nothing_beyond_its_time(short, stopped):
    with GatewayProcess(short) as gateway:
        processes = gateway.processes()
        for name in stopped:
            os.kill(named(gateway, name), signal.SIGSTOP)
        begun = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert gateway.wait(60) == 0
        took = time.monotonic() - begun
        late = (DRAIN + GRACE if "fastgw-0" in stopped else 0) + (GRACE if "fastgw-agent" in stopped else 0)
        assert late - 0.1 <= took < late + 30
        assert not any(alive(pid) for pid in processes)


def test_a_stopped_worker_takes_nothing_from_the_requests_of_others(short, upstream, eventually):
    release = threading.Event()

    def slow(connection):
        connection.read_request()
        connection.wait(release)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    upstream.script(slow)
    short["server"]["timeouts"]["drain"] = "4s"       # within it the answer must be through
    with GatewayProcess(short) as gateway, gateway.client() as client:
        client.send(GET)
        upstream.wait_requests(1)
        # the one that serves the client is not the one to be stopped
        inodes = client_sockets(client)
        serving = next(name for name in ("fastgw-0", "fastgw-1") if inodes & sockets(named(gateway, name)))
        other = named(gateway, {"fastgw-0": "fastgw-1", "fastgw-1": "fastgw-0"}[serving])
        os.kill(other, signal.SIGSTOP)
        gateway.signal(signal.SIGTERM)
        release.set()
        answer = client.response()
        assert (answer.status, answer.body) == (200, b"late")
        client.close()
        assert gateway.wait(60) == 0
        assert not alive(other)


def sockets(pid):
    """Inodes of the sockets a process has open."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def client_sockets(client):
    """Inodes of the gateway's end of a client's connection."""
    port = client.sock.getsockname()[1]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[2].endswith(f":{port:04X}")}


def test_a_second_sigterm_does_not_wait_for_a_stopped_worker_either(config):
    config["server"]["timeouts"]["drain"] = "60s"
    with GatewayProcess(config) as gateway:
        os.kill(named(gateway, "fastgw-1"), signal.SIGSTOP)
        gateway.signal(signal.SIGTERM)
        gateway.signal(signal.SIGTERM)                # they may arrive as one
        begun = time.monotonic()
        while True:
            gateway.signal(signal.SIGTERM)
            try:
                assert gateway.wait(0.2) == 0
                break
            except Exception as error:
                assert "timed out" in str(error)
        assert time.monotonic() - begun < 30              # not the minute of the drain


def test_a_sigterm_after_drain_cuts_nothing(config, upstream, eventually):
    """As orchestrators do: the admin API first, the signal then."""
    release = threading.Event()

    def slow(connection):
        connection.read_request()
        connection.wait(release)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    upstream.script(slow)
    with GatewayProcess(config) as gateway, gateway.client() as client, gateway.client() as idle:
        client.send(GET)
        upstream.wait_requests(1)
        assert gateway.admin("/drain", "POST")[0] == 202
        assert gateway.admin("/drain", "POST")[0] == 202
        assert idle.sock.recv(1) == b""               # it drains
        gateway.signal(signal.SIGTERM)
        eventually(lambda: not pending(gateway.pid, signal.SIGTERM), "the signal has arrived")
        assert json.loads(gateway.admin("/ready")[1])["draining"]
        release.set()
        answer = client.response()
        assert (answer.status, answer.body) == (200, b"late")
        client.close()
        assert gateway.wait(60) == 0


def pending(pid, number):
    """Whether the signal waits to be delivered (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("ShdPnd"))
    return bool(mask >> (number - 1) & 1)


def test_a_reload_under_way_holds_up_no_stop(short, eventually):
    with GatewayProcess(short) as gateway:
        text = gateway.file.read_text()
        gateway.file.unlink()
        os.mkfifo(gateway.file)                       # it is never written
        gateway.signal(signal.SIGHUP)
        compiling = eventually(lambda: named(gateway, "fastgw:compile"), "it compiles")
        begun = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert gateway.wait(60) == 0
        assert time.monotonic() - begun < 30
        eventually(lambda: not alive(compiling), "the compiling process is gone")
        gateway.file.unlink()
        gateway.file.write_text(text)


def test_a_silent_name_server_holds_up_no_stop(short, tmp_path):
    """The look-up blocks in a thread of the agent; it is not waited for."""
    short["services"] = {"up": "http://name.invalid:80"}
    folder = tmp_path / "site"
    folder.mkdir()
    silent = "import socket, time\nsocket.getaddrinfo = lambda *a, **k: time.sleep(60)\n"
    (folder / "sitecustomize.py").write_text(silent)
    gateway = GatewayProcess(short, env={"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', os.getcwd())}"})
    with gateway:
        begun = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert gateway.wait(60) == 0
        assert time.monotonic() - begun < 30              # not the minute that the look-up takes


def test_public_endpoints_share_the_agents_answer_and_do_not_wait_for_ever(short, eventually):
    short["server"]["workers"] = 1
    short["server"]["public_endpoints"] = [{"path": "/-/ready", "endpoint": "ready"}]
    ask = GET.replace(b"/hello", b"/-/ready")
    with GatewayProcess(short) as gateway:
        with gateway.client() as client:
            assert client.request(ask).status == 200
        agent = named(gateway, "fastgw-agent")
        os.kill(agent, signal.SIGSTOP)
        clients = [gateway.client(60) for _ in range(20)]
        for client in clients:
            client.send(ask)
        statuses = [client.response().status for client in clients]
        assert statuses == [503] * 20
        os.kill(agent, signal.SIGCONT)
        for client in clients:
            client.send(ask)
        assert [client.response().status for client in clients] == [200] * 20
        for client in clients:
            client.close()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["SIGTERM", "admin"])
def test_before_a_drain_load_balancers_have_time_to_look_away(short, eventually, workers, how):
    """/ready is false at once, all is served as before, dead processes are replaced; a second SIGTERM hurries."""
    short["server"]["workers"] = workers
    short["server"]["timeouts"]["drain_delay"] = "10m"
    with GatewayProcess(short) as gateway, gateway.client() as kept:
        assert kept.request(GET).status == 200
        if how == "admin":
            assert gateway.admin("/drain", "POST")[0] == 202
        else:
            gateway.signal(signal.SIGTERM)
        eventually(lambda: gateway.admin("/ready")[0] == 503, "not ready")
        answer = kept.request(GET)
        assert (answer.status, ("Connection", "close") in answer.headers) == (200, False)
        with gateway.client() as fresh:
            assert fresh.request(GET).status == 200
        if workers:
            for name in ("fastgw-0", "fastgw-agent"):
                old = named(gateway, name)
                os.kill(old, signal.SIGKILL)
                eventually(lambda name=name, old=old: named(gateway, name) not in (0, old), "it is replaced")
            eventually(lambda: answers(gateway) and gateway.admin("/ready")[0] == 503, "the new agent knows")
        kept.close()
        if how == "admin" and workers:
            gateway.signal(signal.SIGTERM)            # the first signal says nothing that is not known
            eventually(lambda: not pending(gateway.pid, signal.SIGTERM), "it has arrived")
            assert gateway.admin("/ready")[0] == 503
        gateway.signal(signal.SIGTERM)
        assert gateway.wait(60) == 0


def test_the_drain_begins_when_the_delay_is_over(short):
    short["server"]["timeouts"]["drain_delay"] = "300ms"
    with GatewayProcess(short) as gateway, gateway.client() as kept:
        assert kept.request(GET).status == 200
        begun = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert kept.sock.recv(1) == b""
        assert time.monotonic() - begun >= 0.29
        kept.close()
        assert gateway.wait(60) == 0


def answers(gateway):
    try:
        return bool(gateway.admin("/ready"))
    except OSError:
        return False
