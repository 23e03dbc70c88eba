"""Processes of the gateway that are killed under load. Every scenario says its numbers."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from fastgw.testing import FakeUpstream, GatewayProcess, RawClient
from tests.patience import until

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
DEADLINE = 60


def comm(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def workers(gateway):
    return {comm(pid): pid for pid in gateway.processes() if comm(pid) in ("fastgw-0", "fastgw-1")}


def sockets(pid):
    """Inodes of the sockets that a process has open."""
    found = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(fd)
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def owner(gateway, port):
    """The name of the worker that has the gateway's end of the connection from this local port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if row[2] == f"0100007F:{port:04X}" and row[9] != "0"}
    return next((name for name, pid in workers(gateway).items() if inodes & sockets(pid)), None)


class Client(threading.Thread):
    """Asks again and again on one kept connection; a new one after a failure. What failed: on which connection."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.address = address
        self.answered = 0
        self.failed = []
        self.over = threading.Event()

    def run(self):
        client = None
        while not self.over.is_set():
            if client is None:
                client = RawClient(self.address, DEADLINE)
                self.port = client.local[1]
            try:
                assert client.request(GET).status == 200
                self.answered += 1
            except Exception:
                self.failed.append(self.port)
                client.close()
                client = None
            self.over.wait(0.002)
        if client is not None:
            client.close()


@pytest.fixture
def config():
    with FakeUpstream() as up:
        yield {
            "server": {"workers": 2, "timeouts": {"drain": "30s"}},
            "observability": {"access_log": {"enabled": False}},
            "services": {"up": up.url},
            "routes": [{"path": "/*", "service": "up"}],
            "upstream": up,
        }


def start(config, **more):
    return GatewayProcess({name: value for name, value in config.items() if name != "upstream"}, **more)


def test_a_worker_killed_under_load_costs_its_own_exchanges_and_is_replaced(config, capsys):
    """12 clients on two workers, one worker killed: nobody on the other one fails, nobody fails twice."""
    with start(config) as gateway:
        clients = [Client(gateway.address) for _ in range(12)]
        for one in clients:
            one.start()
        until(lambda: all(one.answered > 5 for one in clients), "load on all connections")
        owners = {one.port: owner(gateway, one.port) for one in clients}
        victim = until(lambda: workers(gateway).get(owners[clients[0].port]), "the worker of a client")
        name = owners[clients[0].port]
        theirs = {port for port, worker in owners.items() if worker == name}
        os.kill(victim, signal.SIGKILL)
        begun = time.monotonic()
        until(lambda: workers(gateway).get(name, victim) != victim, "its successor")
        born = time.monotonic() - begun
        answered = {one: one.answered for one in clients}
        until(lambda: all(one.answered > answered[one] + 5 for one in clients), "all are answered again")
        again = time.monotonic() - begun
        until(lambda: "fastgw_worker_restarts_total 1.0" in gateway.admin("/metrics")[1], "it is counted")
        for one in clients:
            one.over.set()
        for one in clients:
            one.join(DEADLINE)
        failed = [port for one in clients for port in one.failed]
        assert set(failed) <= theirs, "a connection of the other worker failed"
        assert len(failed) == len(set(failed)) <= len(theirs), "a client failed on its new connection too"
        with capsys.disabled():
            print(
                f"\nworker killed under load: {len(failed)} exchanges failed of {len(theirs)} connections of its own, "
                f"0 of {12 - len(theirs)} others, {sum(one.answered for one in clients)} answered; "
                f"successor after {born * 1000:.0f} ms, all 12 clients answered {again * 1000:.0f} ms after the kill"
            )


def test_a_supervisor_that_is_gone_lets_workers_finish_and_then_nobody_has_the_address(config, capsys):
    release = threading.Event()

    def slow(connection):
        connection.read_request()
        connection.wait(release)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    config["upstream"].script(slow, slow)
    gateway = start(config).start()
    try:
        everybody = gateway.processes()
        with gateway.client(DEADLINE) as first, gateway.client(DEADLINE) as second:
            for client in (first, second):
                client.send(GET)
            config["upstream"].wait_requests(2)
            os.kill(gateway.pid, signal.SIGKILL)
            gateway.wait()
            begun = time.monotonic()
            # nobody accepts any more, and what is under way is
            until(lambda: refused(gateway.address), "new connections are refused")
            closed = time.monotonic() - begun
            assert any(map(alive, everybody))
            release.set()
            answers = [client.response() for client in (first, second)]
            assert [(one.status, one.body) for one in answers] == [(200, b"late")] * 2
        until(lambda: not any(map(alive, everybody)), "all have ended")
        with capsys.disabled():
            print(f"\nsupervisor killed: refused after {closed * 1000:.0f} ms, 2 of 2 exchanges under way answered")
        with socket.socket() as sock:                # the address is free
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(gateway.address)
            sock.listen()
    finally:
        gateway.kill()


def refused(address):
    try:
        socket.create_connection(address, DEADLINE).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False
    return False


def test_what_does_not_end_is_cut_at_the_end_of_the_drain(config):
    """Nobody is there to kill a worker then: it does so itself."""
    stuck = threading.Event()

    def hang(connection):
        connection.read_request()
        connection.wait(stuck)

    config["upstream"].script(hang)
    config["server"]["timeouts"]["drain"] = "500ms"
    gateway = start(config).start()
    try:
        everybody = gateway.processes()
        with gateway.client(DEADLINE) as client:
            client.send(GET)
            config["upstream"].wait_requests(1)
            os.kill(gateway.pid, signal.SIGKILL)
            gateway.wait()
            until(lambda: not any(map(alive, everybody)), "all have ended")
            assert client.ended() in ("eof", "reset")
    finally:
        stuck.set()
        gateway.kill()
