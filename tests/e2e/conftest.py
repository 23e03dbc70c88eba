"""One gateway for the folder, with a service and an upstream of its own for each thing configured."""

import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from fastgw.testing import FakeUpstream, GatewayProcess, free_port

POOL = {"max_connections": 1, "queue_size": 1, "queue_timeout": "1500ms"}


@dataclass
class World:
    gateway: GatewayProcess
    up: FakeUpstream
    """Behind `/*`."""
    pool: FakeUpstream
    """Behind `/pool/*`: one connection, one waiting request, 1.5 s."""
    times: FakeUpstream
    """Behind `/times/*`: a second to connect, answer, and between pieces. `/total/*`: 500 ms for all."""
    unix: FakeUpstream
    """Behind `/unix/*`."""
    ipv6: FakeUpstream
    """Behind `/ipv6/*`."""
    a: FakeUpstream
    b: FakeUpstream
    """Behind `/turns/*`, by turns."""
    ipv6_address: tuple[str, int]
    unix_address: str

    def client(self, timeout=60, **options):
        return self.gateway.client(timeout, **options)

    def upstreams(self):
        return (self.up, self.pool, self.times, self.unix, self.ipv6, self.a, self.b)


def full_backlog(stack):
    """An address that accepts no connection: the listener's queue is full."""
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(4):
        waiting = stack.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(listener.getsockname())
    time.sleep(0.05)  # the handshakes that fill the queue; nothing tells when they are done
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def configuration(world, stack, folder):
    times = {"connect": "1s", "response": "1s", "idle": "1s"}
    return {
        "server": {
            "listeners": [
                "127.0.0.1:${FASTGW_PORT}",
                f"[::1]:{world['ipv6_address'][1]}",
                f"unix:{world['unix_address']}",
            ],
            "limits": {"body_size": "1GiB"},
            "timeouts": {"idle": "20s", "body": "5s"},
        },
        "observability": {"access_log": {"enabled": False}},
        "services": {
            "up": world["up"].url,
            "pool": {"endpoints": [world["pool"].url], "pool": POOL},
            "times": {"endpoints": [world["times"].url], "timeouts": times},
            "unix": world["unix"].url,
            "ipv6": world["ipv6"].url,
            "turns": {"endpoints": [world["a"].url, world["b"].url]},
            "refused": f"http://127.0.0.1:{free_port()}",
            "full": {"endpoints": [full_backlog(stack)], "timeouts": times},
            "no-socket": f"unix:{folder}/nobody.sock",
        },
        "routes": [
            {"path": "/pool/*", "service": "pool"},
            {"path": "/times/*", "service": "times"},
            {"path": "/total/*", "service": "up", "timeouts": {"total": "500ms"}},
            {"path": "/unix/*", "service": "unix"},
            {"path": "/ipv6/*", "service": "ipv6"},
            {"path": "/turns/*", "service": "turns"},
            {"path": "/refused", "service": "refused"},
            {"path": "/full", "service": "full"},
            {"path": "/no-socket", "service": "no-socket"},
            {"path": "/read-only/*", "service": "up", "methods": ["GET"]},
            {"path": "/small/*", "service": "up", "limits": {"body_size": "10B"}},
            {"path": "/up/*", "service": "up"},
        ],
    }


@pytest.fixture(scope="session")
def one_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("e2e")
    with ExitStack() as stack:
        enter = stack.enter_context
        parts = {
            "up": enter(FakeUpstream()),
            "pool": enter(FakeUpstream()),
            "times": enter(FakeUpstream()),
            "unix": enter(FakeUpstream(path=folder / "upstream.sock")),
            "ipv6": enter(FakeUpstream(host="::1")),
            "a": enter(FakeUpstream()),
            "b": enter(FakeUpstream()),
            "ipv6_address": ("::1", free_port("::1")),
            "unix_address": str(folder / "gateway.sock"),
        }
        yield World(gateway=enter(GatewayProcess(configuration(parts, stack, folder))), **parts)


@pytest.fixture
def world(one_world):
    """The gateway, with upstreams that have no connection left from the test before."""
    for upstream in one_world.upstreams():
        upstream.kill_connections(with_reset=False)
        upstream.wait_for(lambda upstream=upstream: upstream.open_connections() == 0, "its connections to end")
        upstream.script(answer_ok)
    return one_world


def answer_ok(connection):
    while True:
        request = connection.read_request()
        body = b"" if request.method == "HEAD" else b"ok"
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body)
