"""Which Host the admin listener answers to."""

import asyncio
import json
import socket

import pytest

from fastgw.admin.api import AdminServer, Api
from fastgw.admin.loopback import is_loopback
from fastgw.testing import FakeUpstream, GatewayProcess

OURS = ["localhost", "LocalHost:9901", "127.0.0.1", "127.0.0.1:1", "127.8.9.10:80", "[::1]", "[::1]:9901", "localhost:"]
FOREIGN = [
    "", "evil.example", "evil.example:9901", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0",
    "[::]", "[2001:db8::1]", "localhost@evil.example", "evil.example#localhost", "localhost, evil.example", "::1",
    "[127.0.0.1", "127.0.0.1:80:80", "127.0.0.1:x",
]  # fmt: skip


@pytest.mark.parametrize("host", OURS)
def test_hosts_that_are_this_one(host):
    assert is_loopback(host.encode())


@pytest.mark.parametrize("host", FOREIGN)
def test_hosts_that_are_not(host):
    assert not is_loopback(host.encode())


def raw(port, head):
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(head.encode() + b"\r\n\r\n")
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.fixture(scope="module", params=[0, 1], ids=["one process", "one worker"])
def gateway(request):
    with FakeUpstream() as upstream:
        config = {
            "server": {"workers": request.param},
            "observability": {"access_log": {"enabled": False}},
            "services": {"up": upstream.url},
            "routes": [{"path": "/*", "service": "up"}],
        }
        with GatewayProcess(config) as found:
            yield found


def test_a_rebound_name_gets_nothing_from_a_listener_without_a_token(gateway):
    for line in ("GET /config", "POST /config/reload", "POST /drain", "GET /metrics", "GET /health"):
        status, body = raw(gateway.admin_port, f"{line} HTTP/1.1\r\nHost: evil.example:{gateway.admin_port}")
        assert (status, body["code"]) == (421, "wrong_host")
    status, body = raw(gateway.admin_port, "GET /ready HTTP/1.1\r\nHost: localhost")
    assert (status, body["generation"]) == (200, 1)   # and nothing was done


def test_two_hosts_must_both_be_ours(gateway):
    for first, second in (("localhost", "evil.example"), ("evil.example", "localhost")):
        status, _ = raw(gateway.admin_port, f"GET /ready HTTP/1.1\r\nHost: {first}\r\nHost: {second}")
        assert status in (400, 421)


def test_programs_without_a_host_are_no_pages(gateway):
    assert raw(gateway.admin_port, "GET /ready HTTP/1.0")[0] == 200


class Backend:
    async def config(self):
        return {"mine": True}


async def asked(sock, address, head, token=None):
    """Status of one request to an AdminServer on `sock`."""
    server = AdminServer(Api(Backend(), token))
    await server.start(sock)
    open_it = asyncio.open_unix_connection if isinstance(address, str) else asyncio.open_connection
    reader, writer = await (open_it(address) if isinstance(address, str) else open_it(*address))
    writer.write(head.encode() + b"\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await server.close()
    return int(answer.split()[1])


def test_with_a_token_any_name_will_do_and_the_token_decides():
    head = "GET /config HTTP/1.1\r\nHost: gateway.internal.example"

    def ask(more):
        sock = socket.create_server(("127.0.0.1", 0))
        return asyncio.run(asked(sock, sock.getsockname(), head + more, "secret"))

    assert ask("\r\nAuthorization: Bearer secret") == 200
    assert ask("") == 401


def test_a_unix_socket_is_out_of_reach_of_pages(tmp_path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "admin.sock"))
    sock.listen()
    assert asyncio.run(asked(sock, sock.getsockname(), "GET /config HTTP/1.1\r\nHost: whatever")) == 200
