"""WebSockets over HTTP/2 (RFC 8441): extended CONNECT of clients, and towards services."""

import base64
import hashlib
from contextlib import contextmanager

import h2.errors
import h2.events
import h2.settings
import pytest

from fastgw.testing import FakeUpstream, GatewayProcess
from tests.e2e.test_http2 import Http2Client
from tests.e2e.test_http2_upstream import Http2Server, ask, code
from tests.patience import until

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONNECT = [(":protocol", "websocket"), ("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat")]
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ENABLED = {h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}


@contextmanager
def gateway(url, protocol="http/1.1", **route):
    with GatewayProcess(
        {
            "services": {"up": {"endpoints": [url], "protocol": protocol}},
            "routes": [
                {"path": "/ws", "service": "up", "websocket": True, **route},
                {"path": "/here", "websocket": True, "policies": [{"respond": {"body": "no socket"}}], "service": "up"},
                {"path": "/plain", "service": "up"},
            ],
        }
    ) as process:
        yield process


@contextmanager
def behind(service):
    with service as server, gateway(f"http://127.0.0.1:{server.port}", "h2c") as process:
        yield server, process


def connect(client, path="/ws", headers=CONNECT, end=False):
    # RFC 8441 3: not before the server has said that it takes one
    while client.h2.remote_settings.enable_connect_protocol != 1:
        assert client.read()
    return client.request(path, "CONNECT", headers=headers, end=end)


def head_of(client, stream):
    while not client.of(stream, h2.events.ResponseReceived):
        assert client.read()
    return dict(client.of(stream, h2.events.ResponseReceived)[0].headers)


def received(client, stream, n):
    def so_far():
        return b"".join(event.data for event in client.of(stream, h2.events.DataReceived))

    while len(so_far()) < n:
        assert client.read()
    return so_far()


def echo_socket(connection):
    """A service by HTTP/1.1 that changes the protocol and then gives back every byte."""
    request = connection.read_head()
    if not request.all("upgrade"):
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return
    key = request.all("sec-websocket-key")[0].encode()
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                    b"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    seen = len(connection.received)
    while True:
        connection.read_more()
        connection.send(connection.received[seen:])
        seen = len(connection.received)


# ---------------------------------------------------------------------- of clients


def test_a_socket_over_a_stream():
    with FakeUpstream(echo_socket) as upstream, gateway(upstream.url) as process, Http2Client(process.port) as client:
        stream = connect(client)
        head = head_of(client, stream)
        assert head[":status"] == "200" and head["sec-websocket-protocol"] == "chat"
        assert not {"upgrade", "connection", "sec-websocket-accept"} & set(head)
        (request,) = upstream.requests
        assert request.method == "GET" and request.all("upgrade") == ["websocket"]
        assert len(base64.b64decode(request.all("sec-websocket-key")[0])) == 16
        assert request.all("sec-websocket-version") == ["13"]
        for piece in (b"one", b"two" * 5000):
            before = sum(len(event.data) for event in client.of(stream, h2.events.DataReceived))
            client.h2.send_data(stream, piece)
            client.flush()
            assert received(client, stream, before + len(piece))[before:] == piece
        # beside it, a request over the same connection
        assert ask(client, client.request("/plain")).body == b"ok"


def test_what_is_sent_ahead_is_kept():
    with FakeUpstream(echo_socket) as upstream, gateway(upstream.url) as process, Http2Client(process.port) as client:
        stream = connect(client)
        client.h2.send_data(stream, b"early")
        client.flush()
        assert received(client, stream, 5) == b"early"


def test_the_end_of_the_stream_is_the_end_of_the_socket():
    with FakeUpstream(echo_socket) as upstream, gateway(upstream.url) as process, Http2Client(process.port) as client:
        stream = connect(client)
        head_of(client, stream)
        client.h2.end_stream(stream)
        client.flush()
        upstream.wait_for(lambda: upstream.open_connections() == 0)
        stream = connect(client)
        head_of(client, stream)
        client.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        client.flush()
        upstream.wait_for(lambda: upstream.open_connections() == 0)


def test_a_service_that_hangs_up():
    def play(connection):
        connection.read_head()
        key = connection.received.split(b"ey: ")[1].split(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(bytes(key) + GUID).digest())
        connection.send(b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
                        + accept + b"\r\n\r\nbye")

    with FakeUpstream(play) as upstream, gateway(upstream.url) as process, Http2Client(process.port) as client:
        answer = ask(client, connect(client))
        assert (answer.status, answer.body) == (200, b"bye")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/plain", CONNECT, 501),                                     # a route without sockets
        ("/here", CONNECT, 501),                                      # answered by a policy: no socket
        ("/none", CONNECT, 404),
        ("/ws", [(":protocol", "chat"), ("sec-websocket-version", "13")], 501),
        ("/ws", [(":protocol", "websocket"), ("sec-websocket-version", "8")], 426),
        ("/ws", [(":protocol", "websocket")], 426),
        ("/ws", [*CONNECT, ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")], 400),
    ],
)
def test_what_is_no_socket(path, headers, status):
    with FakeUpstream(echo_socket) as upstream, gateway(upstream.url) as process, Http2Client(process.port) as client:
        stream = connect(client, path, headers)
        assert head_of(client, stream)[":status"] == str(status)
        assert upstream.requests == []


def test_an_answer_is_no_socket():
    """A service that answers 200 to a handshake refuses it; to a client of HTTP/2 a 200 would be a socket."""

    def play(connection):
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")

    with FakeUpstream(play) as upstream, gateway(upstream.url) as process, Http2Client(process.port) as client:
        assert head_of(client, connect(client))[":status"] == "502"


def test_policies_see_the_handshake():
    keyed = {"policies": [{"key_auth": {"header": "X-Key"}}]}
    with FakeUpstream(echo_socket) as upstream, gateway(upstream.url, **keyed) as process:
        with Http2Client(process.port) as client:
            assert head_of(client, connect(client))[":status"] == "401"
        assert upstream.requests == []


# ---------------------------------------------------------------------- towards services


def socket_service(served, event):
    if isinstance(event, h2.events.RequestReceived):
        served.h2.send_headers(event.stream_id, [(":status", "200"), ("sec-websocket-protocol", "chat")])
    if isinstance(event, h2.events.DataReceived):
        served.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        served.h2.send_data(event.stream_id, event.data)
        if event.data.endswith(b"bye"):
            served.h2.end_stream(event.stream_id)


def test_a_client_of_http1_and_a_service_of_http2():
    with behind(Http2Server(socket_service, settings=ENABLED)) as (server, process), process.client() as client:
        client.send(HANDSHAKE)
        head = client.head()
        assert head.status == 101 and head.all("sec-websocket-protocol") == ["chat"]
        assert head.all("sec-websocket-accept") == ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]     # of RFC 6455 1.3
        (asked,) = server.connections[0].heads()
        assert asked[":method"] == "CONNECT" and asked[":protocol"] == "websocket" and asked[":path"] == "/ws"
        assert "sec-websocket-key" not in asked and "upgrade" not in asked
        client.send(b"hello")
        client.send(b" and bye")
        assert client.ended() == "eof" and client.rest() == b"hello and bye"


def test_both_sides_of_http2():
    with behind(Http2Server(socket_service, settings=ENABLED)) as (_, process), Http2Client(process.port) as client:
        stream = connect(client)
        client.h2.send_data(stream, b"hello and bye")
        client.flush()
        answer = ask(client, stream)
        assert (answer.status, answer.body) == (200, b"hello and bye")


def test_a_client_that_leaves_resets_the_stream():
    with behind(Http2Server(socket_service, settings=ENABLED)) as (server, process):
        with process.client() as client:
            client.send(HANDSHAKE)
            assert client.head().status == 101
        server.wait(lambda: server.connections[0].of(h2.events.StreamReset))
        busy = f'fastgw_pool_connections{{endpoint="127.0.0.1:{server.port}",service="up",state="busy"}}'
        assert f"{busy} 0.0" in process.admin("/metrics")[1]


def test_a_service_that_takes_none():
    with behind(Http2Server(socket_service)) as (server, process), process.client() as client:
        for _turn in range(2):
            assert code(client.request(HANDSHAKE)) == (502, "upstream_protocol_error")
        server.wait(lambda: server.connections)
        assert server.connections[0].heads() == []
        until(lambda: "takes no WebSockets over HTTP/2" in process.stderr)


def test_a_service_that_refuses():
    def play(served, event):
        if isinstance(event, h2.events.RequestReceived):
            served.answer(event.stream_id, b"no", status="403")

    with behind(Http2Server(play, settings=ENABLED)) as (_, process), process.client() as client:
        answer = client.request(HANDSHAKE)
        assert (answer.status, answer.body) == (403, b"no")


def test_a_handshake_that_was_refused_is_made_again():
    def play(served, event):
        if isinstance(event, h2.events.RequestReceived) and len(served.heads()) == 1:
            served.h2.reset_stream(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
        else:
            socket_service(served, event)

    with behind(Http2Server(play, settings=ENABLED)) as (_, process), process.client() as client:
        client.send(HANDSHAKE)
        head = client.head()
        assert head.status == 101 and head.all("sec-websocket-accept") == ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]
