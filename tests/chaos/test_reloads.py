"""Reloads under load, with routes that come and go: no request fails, long connections stay, nothing is left behind.

A short form runs with the suite; FASTGW_SOAK_RELOADS=1000 is a part of `make soak`.
"""

import http.client
import os
import time

import pytest
import yaml

from fastgw.testing import FakeUpstream, GatewayProcess
from fastgw.testing.process import descriptors, private_bytes
from tests.chaos.world import Load

RELOADS = int(os.environ.get("FASTGW_SOAK_RELOADS", "16"))
MEMORY_GROWTH = 4 * 1024 * 1024
"""Bytes by which all processes together may be larger at the end than after the first reloads, however many follow."""
HANDSHAKE = (
    b"GET /socket HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
FRAME = b"\x81\x85\0\0\0\0hello"
ECHO = b"\x81\x05hello"


def play(connection):
    while True:
        request = connection.read_request()
        if request.target == "/socket":
            connection.send(SWITCHED)
            while True:
                connection.sock.settimeout(600)
                data = connection.sock.recv(100)
                if not data:
                    return
                connection.send(ECHO * (len(data) // len(FRAME)))
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")


def reload(gateway):
    connection = http.client.HTTPConnection(gateway.host, gateway.admin_port, timeout=120)
    connection.request("POST", "/config/reload")
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()


def ask(gateway, path):
    with gateway.client(30) as client:
        return client.request(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()).status


def plans_alive(gateway):
    lines = gateway.admin("/metrics")[1].splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("fastgw_plans_alive "))


def figures(gateway):
    """(memory, descriptors) of all processes, when nothing changes any more."""
    last, since, end = None, time.monotonic(), time.monotonic() + 20
    while time.monotonic() < end and time.monotonic() - since < 1:
        now = sum(map(descriptors, gateway.processes()))
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.05)
    return sum(map(private_bytes, gateway.processes())), last


@pytest.mark.timeout(RELOADS * 3 + 120)
def test_reloads_under_load(capsys):
    with FakeUpstream(play) as up, FakeUpstream(play) as other:
        config = {
            "server": {"workers": 2},
            "observability": {"access_log": {"enabled": False}},
            "services": {"s": {"endpoints": [up.url]}},
            "routes": [{"path": "/socket", "service": "s", "websocket": True}, {"path": "/x", "service": "s"}],
        }
        with GatewayProcess(config) as gateway, gateway.client(60) as socket, gateway.client(60) as kept:
            tree = yaml.safe_load(gateway.file.read_text())
            socket.send(HANDSHAKE)
            assert socket.response().status == 101
            assert ask(gateway, "/x") == 200
            with Load(gateway) as load:
                for number in range(RELOADS):
                    if number == max(4, RELOADS // 5):
                        first = figures(gateway)
                    # routes and a service that come with one reload and go with the next ones
                    more = [{"name": f"r{n}", "path": f"/r{n}", "service": "t"} for n in range(number, number + 20)]
                    services = {**tree["services"], "t": {"endpoints": [other.url]}} if number % 3 else tree["services"]
                    routes = tree["routes"] + (more if number % 3 else [])
                    gateway.file.write_text(yaml.safe_dump({**tree, "services": services, "routes": routes}))
                    reload(gateway)
                    assert ask(gateway, f"/r{number}") == (200 if number % 3 else 404)
                    assert kept.request(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n").status == 200
                    socket.send(FRAME)
                    for one in (up, other):
                        one.forget()
                assert not load.failures(), load.failures()[:5]
                last = figures(gateway)
            gateway.file.write_text(yaml.safe_dump(tree))
            reload(gateway)
            end = time.monotonic() + 60
            # the socket still is on the configuration that it began with
            while plans_alive(gateway) != 2:
                assert time.monotonic() < end, "the socket's configuration and the one in force"
                time.sleep(0.05)
            while len(socket.rest()) < len(ECHO) * RELOADS:
                socket.reader.fill(time.monotonic() + 30)
            assert socket.rest() == ECHO * RELOADS
            socket.close()
            while plans_alive(gateway) != 1:
                assert time.monotonic() < end, "a configuration of before is left behind"
                time.sleep(0.05)
            with capsys.disabled():
                print(f"\n{RELOADS} reloads, {len(load.answers)} requests: {first} → {last} (bytes, descriptors)")
            assert last[1] <= first[1] + 4, "descriptors are left behind"
            assert last[0] - first[0] < MEMORY_GROWTH, "memory grows"
