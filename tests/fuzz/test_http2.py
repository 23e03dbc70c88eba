"""Frames of HTTP/2 that are wrong, nearly right, or in the wrong order, from a client and from a service: whole frames
come back, or the connection ends, and everybody else is served as before."""

import contextlib
import socket
import threading

import hpack
import pytest
from hypothesis import example, given, note
from hypothesis import strategies as st

from fastgw.testing import FakeUpstream, GatewayProcess
from tests.fuzz.conftest import leave, run

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def frame(kind, flags=0, stream=0, payload=b"", length=None):
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def block(*fields):
    return hpack.Encoder().encode(fields)


REQUEST = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
BLOCKS = [
    block(*REQUEST),
    block((":method", "POST"), *REQUEST[1:]),
    block((":method", "CONNECT"), (":protocol", "websocket"), *REQUEST[1:], ("sec-websocket-version", "13")),
    block((":status", "200")),
    block((":status", "103"), ("link", "</a>")),
    block((":status", "200"), ("content-length", "5"), ("set-cookie", "a=1")),
    block(("grpc-status", "0")),
    block(*REQUEST, ("Upper", "1"), ("te", "gzip"), ("connection", "close")),
    block((":status", "204"), (":status", "200")),
    b"\x3f\xe1\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\xff\xff",
    b"",
]
INTEGERS = [0, 1, 2, 0xFF, 0x4000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
STREAMS = [0, 1, 1, 1, 2, 3, 5, 0x7FFFFFFF]


@st.composite
def frames(draw):
    kind = draw(st.sampled_from([*range(10), HEADERS, HEADERS, DATA, 11, 255]))
    flags = draw(st.sampled_from([0, 1, 4, 5, 5, 8, 0x20, 0x2D, 0xFF]))
    stream = draw(st.sampled_from(STREAMS))
    integers = st.sampled_from(INTEGERS)
    if kind in (HEADERS, CONTINUATION, PUSH_PROMISE):
        payload = draw(st.sampled_from(BLOCKS))
        if kind == PUSH_PROMISE:
            payload = draw(integers).to_bytes(4, "big") + payload
    elif kind == SETTINGS:
        pairs = draw(st.lists(st.tuples(st.integers(0, 9), integers), max_size=3))
        payload = b"".join(name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in pairs)
        flags &= 1 if not payload else 0
    elif kind in (RST_STREAM, WINDOW_UPDATE):
        payload = draw(integers).to_bytes(4, "big")
    elif kind == GOAWAY:
        payload = draw(integers).to_bytes(4, "big") + draw(integers).to_bytes(4, "big")
    elif kind == PING:
        payload = b"12345678"
    else:
        payload = draw(st.binary(max_size=40))
    if draw(st.integers(0, 9)) == 0:
        payload = payload[: draw(st.integers(0, 8))]
    length = draw(st.sampled_from([None] * 12 + [0, len(payload) + 1, 16385, 0xFFFFFF]))
    return frame(kind, flags, stream, payload, length)


@st.composite
def streams(draw):
    """Some frames, now and then with a bit changed."""
    data = bytearray(b"".join(draw(st.lists(frames(), min_size=1, max_size=8))))
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


def until_the_end(sock):
    data = b""
    with contextlib.suppress(ConnectionError):
        while more := sock.recv(65536):
            data += more
    return data


def check_frames(data):
    while data:
        assert len(data) >= 9, f"no whole frame: {data[:20]!r}"
        size = int.from_bytes(data[:3], "big")
        assert size <= 16384 and data[3] <= 9 and len(data) >= 9 + size, f"no whole frame: {data[:20]!r}"
        data = data[9 + size :]


@pytest.fixture(scope="module")
def running():
    said = {"bytes": b"", "leaves": False}

    def play(connection):
        connection.read_more()
        with contextlib.suppress(OSError):
            connection.send(frame(SETTINGS) + said["bytes"])
        if said["leaves"]:
            return
        while True:
            connection.read_more()

    def plain(connection):
        while True:
            connection.read_request()
            connection.send(OK)

    with FakeUpstream(plain) as upstream, FakeUpstream(play) as strange:
        short = {"timeouts": {"connect": "1s", "response": "300ms", "idle": "300ms"}}
        config = {
            "server": {"timeouts": {"header": "300ms", "body": "300ms", "idle": "300ms"}},
            "observability": {"access_log": {"enabled": False}},
            "services": {
                "up": upstream.url,
                "strange": {"endpoints": [strange.url], "protocol": "h2c", **short},
            },
            "routes": [
                {"path": "/strange", "service": "strange", "websocket": True},
                {"path": "/*", "service": "up", "websocket": True},
            ],
        }
        with GatewayProcess(config) as gateway:
            yield gateway, strange, said


def still_there(gateway, workers):
    with gateway.client(timeout=30) as client:
        assert client.request(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n").body == b"ok"
    assert gateway.processes() == workers, "a process died"


def test_clients(running):
    gateway, _, _ = running
    workers = gateway.processes()

    @given(streams(), st.lists(st.integers(0, 300), max_size=3), st.booleans())
    @example(frame(HEADERS, 5, 1, BLOCKS[0]) * 3, [], False)
    @example(frame(HEADERS, 4, 1, BLOCKS[2]) + frame(DATA, 1, 1, b"x"), [], False)
    @example(frame(HEADERS, 0, 1, BLOCKS[0]) + frame(CONTINUATION, 0, 1, b"") * 50, [], False)
    def compare(data, cuts, leaves):
        data = PREFACE + frame(SETTINGS) + data
        with socket.create_connection(gateway.address, timeout=30) as sock:
            with contextlib.suppress(ConnectionError):
                at = 0
                for cut in sorted(cuts):
                    sock.sendall(data[at:cut])
                    at = max(at, cut)
                sock.sendall(data[at:])
                if leaves:
                    leave(sock)
            answered = until_the_end(sock)        # a TimeoutError: it neither answered nor closed
        note(f"answered {answered!r}")
        check_frames(answered)

    run(compare, short=150)
    still_there(gateway, workers)


def test_services(running):
    gateway, strange, said = running
    workers = gateway.processes()
    socket_asked = (
        b"GET /strange HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    asked = (
        b"GET /strange HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /strange HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
        b"HEAD /strange HTTP/1.1\r\nHost: h\r\n\r\n",
        socket_asked,
    )

    @given(streams(), st.sampled_from(asked), st.booleans())
    @example(frame(HEADERS, 5, 1, BLOCKS[3]), asked[0], False)
    @example(frame(HEADERS, 4, 1, BLOCKS[5]) + frame(DATA, 1, 1, b"12345"), asked[1], True)
    @example(frame(SETTINGS, 0, 0, b"\0\x08\0\0\0\x01") + frame(HEADERS, 4, 1, BLOCKS[3]), asked[3], False)
    @example(frame(GOAWAY, 0, 0, b"\0" * 8), asked[0], False)
    @example(frame(RST_STREAM, 0, 1, b"\0\0\0\x07"), asked[0], False)
    def compare(data, request, leaves):
        said["bytes"], said["leaves"] = data, leaves
        with socket.create_connection(gateway.address, timeout=30) as sock:
            sock.sendall(request)
            leave(sock) if request is socket_asked else None
            head = sock.recv(65536)
            note(f"answered {head!r}")
            assert head == b"" or head.startswith(b"HTTP/1.1 ")
        strange.kill_connections()

    run(compare, short=150)
    still_there(gateway, workers)


def test_many_at_once(running):
    """Streams of good and strange clients in one worker do not get mixed up."""
    gateway, _, _ = running
    workers = gateway.processes()
    wrong = []

    def good():
        with gateway.client(timeout=30) as client:
            for n in range(50):
                if client.request(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n).body != b"ok":
                    wrong.append(n)

    def strange_one():
        for block_ in BLOCKS * 4:
            with socket.create_connection(gateway.address, timeout=30) as sock, contextlib.suppress(ConnectionError):
                sock.sendall(PREFACE + frame(SETTINGS) + frame(HEADERS, 5, 1, block_) + frame(DATA, 1, 1, b"x"))
                leave(sock)
                until_the_end(sock)

    threads = [threading.Thread(target=work) for work in (good, strange_one, good, strange_one)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    still_there(gateway, workers)
