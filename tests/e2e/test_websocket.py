"""WebSockets through the gateway: the handshake by policies and RFC 6455, then bytes both ways."""

import asyncio
import base64
import hashlib
import json
import os
import socket
import ssl
import struct
import threading

import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from fastgw.testing import FakeUpstream, GatewayProcess, Incomplete, free_port
from fastgw.testing.certificates import Authority

KEY = base64.b64encode(b"0123456789abcdef")
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
ACCEPT = base64.b64encode(hashlib.sha1(KEY + GUID).digest())
HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\n%s\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"
)


class Echo:
    """A server by the `websockets` package in a thread of its own."""

    def __enter__(self):
        self.started = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self.run(),))
        self.thread.start()
        assert self.started.wait(60)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stop.set_result, None)
        self.thread.join()
        self.loop.close()

    async def run(self):
        self.stop = self.loop.create_future()
        async with serve(self.talk, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
            self.port = server.sockets[0].getsockname()[1]
            self.started.set()
            await self.stop

    async def talk(self, ws):
        headers = {name.lower(): value for name, value in ws.request.headers.raw_items()}
        if ws.request.path.endswith("/headers"):
            await ws.send(json.dumps(headers))
        if ws.request.path.endswith("/bye"):
            await ws.close(4001, "enough")
        try:
            async for message in ws:
                await ws.send(message)
        except ConnectionClosed:
            pass


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    scripts = {}

    def play(connection):
        request = connection.read_head()
        scripts[request.target](connection)

    with Echo() as echo, FakeUpstream(play) as raw:
        pki = Authority(tmp_path_factory.mktemp("pki"))
        pair = pki.leaf("localhost")
        tls = free_port()
        config = {
            "server": {
                "listeners": [
                    "127.0.0.1:${FASTGW_PORT}",
                    {"bind": f"127.0.0.1:{tls}", "tls": {"certificates": [{"cert": pair.cert, "key": pair.key}]}},
                ],
                "timeouts": {"drain": "1s", "body": "1s"},
            },
            "consumers": [{"name": "app", "keys": ["sha256:" + hashlib.sha256(b"secret").hexdigest()]}],
            "services": {"echo": f"http://127.0.0.1:{echo.port}", "raw": raw.url},
            "routes": [
                {"path": "/ws/*", "service": "echo", "websocket": True, "strip_prefix": "/ws"},
                {"path": "/key/*", "service": "echo", "websocket": True, "policies": ["key_auth"]},
                {"path": "/quiet/*", "service": "raw", "websocket": {"idle_timeout": "1s"}},
                {"path": "/raw/*", "service": "raw", "websocket": True, "timeouts": {"total": "1500ms"},
                 "policies": [{"headers": {"response": {"set": {"X-Edited": "yes"}}}}]},
                {"path": "/none/*", "service": "raw"},
                {"path": "/off/*", "service": "raw", "websocket": False},
            ],
        }  # fmt: skip
        with GatewayProcess(config) as gateway:
            gateway.pki, gateway.tls, gateway.scripts, gateway.raw = pki, tls, scripts, raw
            yield gateway


def url(world, path):
    return f"ws://127.0.0.1:{world.port}{path}"


def test_messages_go_both_ways(world):
    async def talk():
        async with connect(url(world, "/ws/x"), max_size=None, ping_interval=None) as ws:
            for message in ("hello", b"\x00\xff" * 500, "x" * 200_000, os.urandom(3_000_000)):
                await ws.send(message)
                assert await ws.recv() == message
            for number in range(200):
                await ws.send(str(number))
            assert [await ws.recv() for _ in range(200)] == [str(number) for number in range(200)]
            pong = await ws.ping()
            await pong

    asyncio.run(talk())


def test_compression_is_the_ends_business(world):
    async def talk():
        async with connect(url(world, "/ws/x"), compression="deflate") as ws:
            assert "permessage-deflate" in ws.response.headers["Sec-WebSocket-Extensions"]
            await ws.send("a" * 100_000)
            assert await ws.recv() == "a" * 100_000

    asyncio.run(talk())


def test_over_tls(world):
    async def talk():
        context = ssl.create_default_context(cafile=world.pki.cert)
        async with connect(f"wss://localhost:{world.tls}/ws/headers", ssl=context, max_size=None) as ws:
            assert json.loads(await ws.recv())["x-forwarded-proto"] == "https"
            await ws.send("y" * 500_000)
            assert await ws.recv() == "y" * 500_000

    asyncio.run(talk())


def test_close_codes_pass(world):
    async def talk():
        async with connect(url(world, "/ws/bye")) as ws:
            with pytest.raises(ConnectionClosed) as closed:
                await ws.recv()
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "enough")

    asyncio.run(talk())


def test_policies_run_on_the_handshake(world):
    async def talk():
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url(world, "/key/x")):
                pass
        assert refused.value.response.status_code == 401
        async with connect(url(world, "/key/headers"), additional_headers={"X-API-Key": "secret"}) as ws:
            headers = json.loads(await ws.recv())
            assert "x-forwarded-for" in headers and headers["connection"].lower() == "upgrade"

    asyncio.run(talk())


@pytest.mark.parametrize("path", ["/none/x", "/off/x"])
def test_where_there_are_none_the_upgrade_is_not_seen(world, path):
    seen = []

    def plain(connection):
        seen.append(connection.requests[-1])
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    world.scripts[path] = plain
    with world.client() as client:
        client.send(HANDSHAKE % (path.encode(), b""))
        assert client.response().status == 200
    assert "upgrade" not in {name.lower() for name, _ in seen[0].headers}


@pytest.mark.parametrize(("sent", "status"), [
    (b"POST /raw/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
     b"Sec-WebSocket-Key: a\r\n\r\n", 400),
    (b"GET /raw/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
     b"Sec-WebSocket-Version: 13\r\n\r\n", 400),
    (b"GET /raw/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n"
     b"Sec-WebSocket-Key: a\r\n\r\n", 426),
    (b"GET /raw/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
     b"Sec-WebSocket-Key: a\r\nSec-WebSocket-Key: b\r\n\r\n", 400),
    (b"GET /raw/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
     b"Sec-WebSocket-Key: a\r\nContent-Length: 3\r\n\r\nabc", 400),
])  # fmt: skip
def test_handshakes_that_are_none(world, sent, status):
    with world.client() as client:
        client.send(sent)
        found = client.response()
        assert found.status == status
        if status == 426:
            assert ("Sec-WebSocket-Version", "13") in found.headers


def raw_socket(world, path, script, more=b""):
    world.scripts[path] = script
    client = world.client()
    client.send(HANDSHAKE % (path.encode(), b"") + more)
    return client


def head_of(client):
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.sock.recv(1)
    return data


def test_bytes_that_come_with_the_handshake(world):
    """From both sides: they are the first of the socket."""

    def script(connection):
        connection.send(SWITCH % ACCEPT + b"first")
        got = connection.reader
        while len(got.buffer) < 5:
            connection.read_more()
        connection.send(bytes(got.buffer))

    with raw_socket(world, "/raw/together", script, b"ahead") as client:
        head = head_of(client)
        assert head.startswith(b"HTTP/1.1 101 ") and b"X-Edited: yes" in head and ACCEPT in head
        assert b"\r\nConnection: Upgrade\r\n" in head and b"\r\nUpgrade: websocket\r\n" in head
        data = b""
        while len(data) < 10:
            data += client.sock.recv(100)
        assert data == b"firstahead"


def test_no_time_is_set_to_a_socket_that_is_used(world):
    """The route's total timeout is for requests."""

    def script(connection):
        connection.send(SWITCH % ACCEPT)
        for _ in range(8):
            connection.ended.wait(0.25)
            connection.send(b".")

    with raw_socket(world, "/raw/long", script) as client:
        head_of(client)
        data = b""
        while len(data) < 8:
            more = client.sock.recv(10)
            assert more
            data += more


def test_a_quiet_socket_is_closed(world):
    with raw_socket(world, "/quiet/x", lambda c: (c.send(SWITCH % ACCEPT), c.ended.wait(60))) as client:
        head_of(client)
        client.sock.settimeout(60)
        data = b""
        while more := client.sock.recv(100):
            data += more
        assert data == b"\x88\x14\x03\xe9quiet for too long"


@pytest.mark.parametrize("answer", [
    SWITCH % b"wrong",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    SWITCH[:-4] % ACCEPT + b"\r\nContent-Length: 5\r\n\r\nhello",
])  # fmt: skip
def test_an_upstream_that_does_not_know_what_it_does(world, answer):
    with raw_socket(world, "/raw/wrong", lambda c: c.send(answer)) as client:
        assert client.response().status == 502


def test_a_switch_nobody_asked_for(world):
    world.scripts["/raw/unasked"] = lambda c: c.send(SWITCH % ACCEPT)
    with world.client() as client:
        client.send(b"GET /raw/unasked HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.response().status == 502


def test_a_refusal_passes(world):
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
    with raw_socket(world, "/raw/refused", lambda c: c.send(refusal)) as client:
        found = client.response()
        assert (found.status, bytes(found.body)) == (403, b"no")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_an_end_on_one_side_ends_the_other(world, how):
    seen = threading.Event()

    def script(connection):
        connection.send(SWITCH % ACCEPT + b"x")
        try:
            while True:
                connection.read_more()
        except Incomplete:
            seen.set()

    with raw_socket(world, "/raw/end", script) as client:
        head_of(client)
        if how == "reset":
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sock.close()
        assert seen.wait(60)
    with raw_socket(world, "/raw/end2", lambda c: c.send(SWITCH % ACCEPT + b"last")) as client:
        head_of(client)
        data = b""
        while more := client.sock.recv(10):
            data += more
        assert data == b"last"


def test_a_reader_that_is_slow_holds_the_writer_back(world):
    size = 8_000_000

    def script(connection):
        connection.send(SWITCH % ACCEPT)
        connection.send(b"z" * size)

    with raw_socket(world, "/raw/slow", script) as client:
        head_of(client)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        got = 0
        while got < size:
            more = client.sock.recv(100_000)
            assert more
            got += len(more)


def test_the_versions_of_the_package():
    assert int(websockets.__version__.split(".")[0]) >= 13
