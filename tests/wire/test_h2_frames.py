"""HTTP/2 frame by frame: what RFC 9113 forbids is refused with the right code, what floods is ended, and no
malformed request ever reaches an upstream. The cases follow the sections of the RFC, as h2spec does."""

import contextlib
import random
import re
import socket
import struct
import time

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.testing import FakeUpstream, GatewayProcess, answer
from tests.fuzz.conftest import leave, run

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK, PADDED = 1, 4, 1, 8
PROTOCOL, FLOW, STREAM_CLOSED, FRAME_SIZE, REFUSED, CANCEL, COMPRESSION, CALM = 1, 3, 5, 6, 7, 8, 9, 11


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def block(*fields, encoder=None):
    return (encoder or hpack.Encoder()).encode([(name, value) for name, value in fields], huffman=False)


def literal(name, value):
    """One field as HPACK sends it without its tables: any bytes at all."""
    return b"\x00" + string(name) + string(value)


def string(value):
    n = len(value)
    if n < 127:
        return bytes([n]) + value
    out, n = b"\x7f", n - 127
    while n >= 128:
        out += bytes([n % 128 + 128])
        n //= 128
    return out + bytes([n]) + value


GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", b"/x")]
POST = [(b":method", b"POST"), *GET[1:]]


def fields(*pairs):
    return b"".join(literal(name, value) for name, value in pairs)


def request(stream=1, pairs=GET, end=True):
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, fields(*pairs))


class Wire:
    def __init__(self, port, settings=b"", preface=PREFACE):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""
        self.frames = []
        self.decoder = hpack.Decoder()
        self.ended = False
        if preface:
            self.send(preface + frame(SETTINGS, 0, 0, settings))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, *parts):
        with contextlib.suppress(ConnectionError):
            self.sock.sendall(b"".join(parts))

    def next(self):
        """The next frame: (kind, flags, stream, payload); None at the end."""
        while True:
            if len(self.data) >= 9:
                length = int.from_bytes(self.data[:3], "big")
                if len(self.data) >= 9 + length:
                    found = self.data[3], self.data[4], int.from_bytes(self.data[5:9], "big"), self.data[9 : 9 + length]
                    self.data = self.data[9 + length :]
                    self.frames.append(found)
                    return found
            try:
                more = self.sock.recv(65536)
            except ConnectionError:
                more = b""
            if not more:
                self.ended = True
                return None
            self.data += more

    def until(self, *kinds, stream=None):
        while (found := self.next()) is not None:
            if found[0] in kinds and (stream is None or found[2] == stream):
                return found
        return None

    def goaway(self):
        """The code of the GOAWAY that ends the connection; None when it just ends."""
        code = None
        while (found := self.next()) is not None:
            if found[0] == GOAWAY:
                code = int.from_bytes(found[3][4:8], "big")
        return code

    def fate(self, stream=1):
        """("status", n), ("reset", code) or ("end", code of the GOAWAY): what became of a request."""
        code = None
        while (found := self.next()) is not None:
            kind, _, of, payload = found
            if kind == HEADERS and of == stream:
                status = int(dict(self.decoder.decode(payload))[":status"])
                if status >= 200:
                    return "status", status
            elif kind == RST_STREAM and of == stream:
                return "reset", int.from_bytes(payload, "big")
            elif kind == GOAWAY:
                code = int.from_bytes(payload[4:8], "big")
        return "end", code


@pytest.fixture(scope="module")
def running():
    with FakeUpstream(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) as upstream:
        config = {
            "server": {
                "listeners": [{"bind": "127.0.0.1:${FASTGW_PORT}", "http2": {
                    "max_concurrent_streams": 20, "resets": 50, "spare_frames": 200}}],
                "timeouts": {"header": "700ms", "body": "700ms", "idle": "3s"},
            },
            "observability": {"access_log": {"enabled": False}},
            "services": {"up": upstream.url},
            "routes": [
                {"path": "/big", "policies": [{"respond": {"body": "y" * 1_000_000}}]},
                {"path": "/*", "service": "up"},
            ],
        }  # fmt: skip
        with GatewayProcess(config) as gateway:
            gateway.upstream = upstream
            yield gateway


@pytest.fixture
def wire(running):
    running.upstream.forget()
    with Wire(running.port) as one:
        yield one


def ended(gateway, reason):
    text = gateway.admin("/metrics")[1]
    return float(re.search(rf'^fastgw_http2_ended_total\{{reason="{reason}"\}} (\S+)$', text, re.MULTILINE)[1])


def serves(gateway):
    with Wire(gateway.port) as wire:
        wire.send(request())
        assert wire.fate() == ("status", 200)


def test_a_request(wire):
    wire.send(request())
    assert wire.fate() == ("status", 200)


# ------------------------------------------------------------------------------------------------- 8: messages

MALFORMED = {
    "upper case": [*GET, (b"X-Upper", b"1")],
    "connection": [*GET, (b"connection", b"close")],
    "keep-alive": [*GET, (b"keep-alive", b"timeout=5")],
    "proxy-connection": [*GET, (b"proxy-connection", b"keep-alive")],
    "upgrade": [*GET, (b"upgrade", b"websocket")],
    "transfer-encoding": [*POST, (b"transfer-encoding", b"chunked")],
    "te other than trailers": [*GET, (b"te", b"gzip")],
    "no method": GET[1:],
    "no scheme": [GET[0], *GET[2:]],
    "no path": GET[:3],
    "no authority and no host": [GET[0], GET[1], GET[3]],
    "empty path": [*GET[:3], (b":path", b"")],
    "two methods": [GET[0], *GET],
    "two paths": [*GET, GET[3]],
    "two authorities": [*GET, GET[2]],
    "two hosts": [*GET, (b"host", b"h"), (b"host", b"h")],
    "an unknown pseudo-header": [*GET, (b":what", b"1")],
    "one of answers": [*GET, (b":status", b"200")],
    "a pseudo-header after a field": [*GET[:3], (b"x-a", b"1"), GET[3]],
    "authority and host disagree": [*GET, (b"host", b"other")],
    "CR in a value": [*GET, (b"x-a", b"1\r2")],
    "LF in a value": [*GET, (b"x-a", b"1\nx-b: 2")],
    "CRLF in a value": [*GET, (b"x-a", b"1\r\nx-b: 2")],
    "NUL in a value": [*GET, (b"x-a", b"1\x002")],
    "a space before a value": [*GET, (b"x-a", b" 1")],
    "a colon in a name": [*GET, (b"x:a", b"1")],
    "a space in a name": [*GET, (b"x a", b"1")],
    "CRLF in a name": [*GET, (b"x-a\r\nx-b", b"1")],
    "an empty name": [*GET, (b"", b"1")],
    "CRLF in the path": [*GET[:3], (b":path", b"/ HTTP/1.1\r\nx-b: 1\r\nx: ")],
    "a space in the path": [*GET[:3], (b":path", b"/a b")],
    "a path without a slash": [*GET[:3], (b":path", b"a")],
    "CRLF in the authority": [GET[0], GET[1], (b":authority", b"h\r\nx-b: 1"), GET[3]],
    "a space in the method": [(b":method", b"GET /y"), *GET[1:]],
    "CRLF in the method": [(b":method", b"GET /y HTTP/1.1\r\nx: "), *GET[1:]],
    "a user in the authority": [GET[0], GET[1], (b":authority", b"u@h"), GET[3]],
    "CONNECT": [(b":method", b"CONNECT"), (b":authority", b"h:443")],
    "CONNECT with a protocol": [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]],
    "two lengths": [*POST, (b"content-length", b"0"), (b"content-length", b"0")],
    "a length that is none": [*POST, (b"content-length", b"+1")],
    "a length without a body": [*POST, (b"content-length", b"5")],
    "an unknown method": [(b":method", b"BREW"), *GET[1:]],
}


@pytest.mark.parametrize("pairs", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request_goes_nowhere(running, wire, pairs):
    wire.send(request(1, pairs))
    what, code = wire.fate()
    assert (what, code) in [("reset", PROTOCOL), ("status", 400), ("status", 501), ("end", PROTOCOL)], (what, code)
    if what != "end":
        # the connection is none the worse for it
        wire.send(request(3))
        assert wire.fate(3) == ("status", 200)
    assert len(running.upstream.requests) == (0 if what == "end" else 1)


def test_no_place_of_a_value_hides_a_control_character(running):
    taken = len(running.upstream.requests)
    for size in (1, 8, 9, 23):
        # each costs as a reset does: a connection has a budget of 50
        with Wire(running.port) as wire:
            hidden = [b"\xff" * at + byte + b"~" * (size - at - 1)
                      for at in range(size) for byte in (b"\0", b"\n" if at % 2 else b"\x7f")]  # fmt: skip
            for stream, value in zip(range(1, 1000, 2), hidden, strict=False):
                wire.send(request(stream, [*GET, (b"x-a", value)]))
                assert wire.fate(stream) == ("reset", PROTOCOL), value
    assert len(running.upstream.requests) == taken


def test_what_a_value_may_hold(running, wire):
    value = b"!\t\x80~\xff e\tee"
    wire.send(request(1, [*GET, (b"x-a", value)]))
    assert wire.fate(1) == ("status", 200)
    assert b"x-a: " + value + b"\r\n" in running.upstream.requests[-1].head.replace(b"X-A", b"x-a")


@pytest.mark.parametrize(("length", "body"), [(b"3", b"ab"), (b"3", b"abcd"), (b"0", b"a")])
def test_a_body_of_another_length(running, wire, length, body):
    wire.send(request(1, [*POST, (b"content-length", length)], end=False), frame(DATA, END_STREAM, 1, body))
    assert wire.fate() in [("reset", PROTOCOL)]
    assert not [one for one in running.upstream.requests if one.complete and len(one.body) != 0]


def test_trailers_that_are_pseudo_headers(wire):
    wire.send(request(1, POST, end=False), frame(HEADERS, END_HEADERS | END_STREAM, 1, literal(b":path", b"/y")))
    assert wire.fate()[0] in ("reset", "end")


def test_trailers_without_an_end(wire):
    wire.send(request(1, POST, end=False), frame(HEADERS, END_HEADERS, 1, literal(b"x-t", b"1")))
    assert wire.fate()[0] in ("reset", "end")


def test_trailers_are_taken(wire):
    wire.send(request(1, POST, end=False), frame(DATA, 0, 1, b"abc"),
              frame(HEADERS, END_HEADERS | END_STREAM, 1, literal(b"x-t", b"1")))  # fmt: skip
    assert wire.fate() == ("status", 200)


# ------------------------------------------------------------------------------------------------- 4 to 6: frames

BROKEN = {
    "DATA on stream 0": (frame(DATA, 0, 0, b"a"), PROTOCOL),
    "DATA on an idle stream": (frame(DATA, 0, 1, b"a"), PROTOCOL),
    "HEADERS on stream 0": (frame(HEADERS, 5, 0, fields(*GET)), PROTOCOL),
    "HEADERS on an even stream": (frame(HEADERS, 5, 2, fields(*GET)), PROTOCOL),
    "a stream below the last": (request(5) + request(3), PROTOCOL),
    "padding longer than the frame": (frame(HEADERS, 5 | PADDED, 1, b"\xff" + fields(*GET)), PROTOCOL),
    "a stream that depends on itself": (frame(HEADERS, 5 | 0x20, 1, struct.pack(">IB", 1, 1) + fields(*GET)), None),
    "PRIORITY on stream 0": (frame(PRIORITY, 0, 0, b"\0\0\0\0\1"), PROTOCOL),
    "PRIORITY of a wrong size": (frame(PRIORITY, 0, 1, b"\0\0\0\0"), FRAME_SIZE),
    "RST_STREAM on stream 0": (frame(RST_STREAM, 0, 0, b"\0\0\0\0"), PROTOCOL),
    "RST_STREAM on an idle stream": (frame(RST_STREAM, 0, 1, b"\0\0\0\0"), PROTOCOL),
    "RST_STREAM of a wrong size": (request(1) + frame(RST_STREAM, 0, 1, b"\0\0"), FRAME_SIZE),
    "SETTINGS on a stream": (frame(SETTINGS, 0, 1), PROTOCOL),
    "SETTINGS of a wrong size": (frame(SETTINGS, 0, 0, b"\0\0\0"), FRAME_SIZE),
    "SETTINGS ACK with a payload": (frame(SETTINGS, ACK, 0, b"\0\1\0\0\0\0"), FRAME_SIZE),
    "ENABLE_PUSH of 2": (frame(SETTINGS, 0, 0, struct.pack(">HI", 2, 2)), PROTOCOL),
    "a window above 2**31": (frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31)), FLOW),
    "a frame size below 2**14": (frame(SETTINGS, 0, 0, struct.pack(">HI", 5, 100)), PROTOCOL),
    "PUSH_PROMISE of a client": (frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2" + fields(*GET)), PROTOCOL),
    "PING on a stream": (frame(PING, 0, 1, b"\0" * 8), PROTOCOL),
    "PING of a wrong size": (frame(PING, 0, 0, b"\0" * 6), FRAME_SIZE),
    "GOAWAY on a stream": (frame(GOAWAY, 0, 1, b"\0" * 8), PROTOCOL),
    "WINDOW_UPDATE of 0": (frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"), PROTOCOL),
    "WINDOW_UPDATE of a wrong size": (frame(WINDOW_UPDATE, 0, 0, b"\0\0\0"), FRAME_SIZE),
    "WINDOW_UPDATE on an idle stream": (frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"), PROTOCOL),
    "a window that overflows": (frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), FLOW),
    "CONTINUATION without HEADERS": (frame(CONTINUATION, 4, 1, fields(*GET)), PROTOCOL),
    "CONTINUATION of another stream": (
        frame(HEADERS, 1, 1, fields(*GET)) + frame(CONTINUATION, 4, 3, literal(b"a", b"b")), PROTOCOL),
    "a frame between HEADERS and CONTINUATION": (
        frame(HEADERS, 1, 1, fields(*GET)) + frame(PING, 0, 0, b"\0" * 8), PROTOCOL),
    "a frame that is too large": (request(1, POST, end=False) + frame(DATA, 0, 1, b"x" * 16385), FRAME_SIZE),
    "HPACK: an index that is not there": (frame(HEADERS, 5, 1, b"\xff\xff\x03"), COMPRESSION),
    "HPACK: index 0": (frame(HEADERS, 5, 1, b"\x80"), COMPRESSION),
    "HPACK: a cut string": (frame(HEADERS, 5, 1, b"\x00\x05ab"), COMPRESSION),
    "HPACK: a table that is too large": (frame(HEADERS, 5, 1, b"\x3f\xff\xff\x7f" + fields(*GET)), COMPRESSION),
    "HPACK: wrong Huffman padding": (frame(HEADERS, 5, 1, b"\x00\x82\x00\x00\x01a"), COMPRESSION),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "code"), BROKEN.values(), ids=BROKEN)
def test_a_broken_frame_ends_the_connection(running, wire, sent, code):
    wire.send(sent)
    assert wire.goaway() == code if code is not None else wire.fate()[0] in ("reset", "end", "status")
    serves(running)


def test_what_is_unknown_is_ignored(wire):
    wire.send(frame(0x16, 0xFF, 0, b"what"), frame(0x17, 0, 7, b""), frame(SETTINGS, 0, 0, struct.pack(">HI", 0xFF, 1)),
              frame(PRIORITY, 0, 9, b"\0\0\0\0\1"), frame(PING, 0, 0, b"12345678"), request())  # fmt: skip
    assert wire.fate() == ("status", 200)
    assert (PING, ACK, 0, b"12345678") in wire.frames


def test_a_wrong_preface(running):
    with Wire(running.port, preface=b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + frame(SETTINGS, 0, 0)) as wire:
        assert wire.sock.recv(100)[:9] in (b"HTTP/1.1 ", b"") or wire.goaway() == PROTOCOL


def test_data_after_the_end_of_a_stream(wire):
    wire.send(request(), frame(DATA, END_STREAM, 1, b"more"))
    assert wire.fate()[0] in ("reset", "end", "status")


# ------------------------------------------------------------------------------------------------- 10.5: floods

def flood(wire, part, times, batch=50):
    for _ in range(times // batch):
        wire.send(part * batch)


def test_rapid_reset(running, wire):
    before = ended(running, "resets")
    for stream in range(1, 400, 2):
        wire.send(request(stream), frame(RST_STREAM, 0, stream, b"\0\0\0\x08"))
    assert wire.goaway() == CALM
    assert ended(running, "resets") == before + 1
    serves(running)


@pytest.mark.parametrize("parts", [
    lambda stream: (request(stream, GET[1:]),),
    lambda stream: (request(stream, [*POST, (b"content-length", b"1")], end=False), frame(DATA, 0, stream, b"ab")),
], ids=["heads", "bodies"])  # fmt: skip
def test_resets_that_a_client_brings_about(running, wire, parts):
    """Malformed requests are reset by us: as many are taken as of the client's own resets."""
    before = ended(running, "resets")
    wire.send(request(1))
    fate = wire.fate(1)
    for first in range(3, 4000, 30):
        # no more at a time than there may be streams, or they are refused for that
        wire.send(*(part for stream in range(first, first + 30, 2) for part in parts(stream)))
        fate = wire.fate(first + 28)
        if fate[0] == "end":
            break
        assert fate == ("reset", PROTOCOL)
    assert fate == ("end", CALM)
    assert ended(running, "resets") == before + 1
    serves(running)


FLOODS = {
    "PING": frame(PING, 0, 0, b"\0" * 8),
    "SETTINGS": frame(SETTINGS, 0, 0),
    "PRIORITY": frame(PRIORITY, 0, 3, b"\0\0\0\0\1"),
    "WINDOW_UPDATE": frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"),
}


@pytest.mark.parametrize("part", FLOODS.values(), ids=FLOODS)
def test_floods_of_frames_that_are_no_requests(running, wire, part):
    before = ended(running, "frames")
    flood(wire, part, 5000)
    assert wire.goaway() in (CALM, None)
    assert ended(running, "frames") == before + 1
    serves(running)


def test_a_flood_of_empty_data(running, wire):
    before = ended(running, "frames")
    wire.send(request(1, POST, end=False))
    flood(wire, frame(DATA, 0, 1), 5000)
    assert wire.goaway() in (CALM, None)
    assert ended(running, "frames") == before + 1


def test_a_flood_of_continuations(running, wire):
    wire.send(frame(HEADERS, 1, 1, fields(*GET)))
    flood(wire, frame(CONTINUATION, 0, 1), 5000)
    assert wire.goaway() in (CALM, PROTOCOL, 2, None)
    serves(running)


def test_an_hpack_bomb(running, wire):
    """One large field in the table, then thousands of references of one byte each."""
    before = ended(running, "headers")
    entry = b"\x40" + string(b"x-big") + string(b"b" * 4000)
    wire.send(frame(HEADERS, 1, 1, fields(*GET) + entry))
    wire.send(*(frame(CONTINUATION, 0, 1, b"\xbe" * 16000) for _ in range(3)))
    wire.send(frame(CONTINUATION, END_HEADERS, 1, b"\xbe"))
    assert wire.goaway() in (CALM, None)
    assert ended(running, "headers") == before + 1
    serves(running)


def test_headers_that_are_too_large_are_told(running, wire):
    wire.send(frame(HEADERS, 1, 1, fields(*GET, (b"x-a", b"a" * 15000))),
              frame(CONTINUATION, 0, 1, literal(b"x-b", b"b" * 15000)),
              frame(CONTINUATION, END_HEADERS, 1, literal(b"x-c", b"c" * 15000)))  # fmt: skip
    assert wire.fate() == ("status", 431)
    wire.send(request(3))
    assert wire.fate(3) == ("status", 200)


def test_headers_that_never_end(running, wire):
    before = ended(running, "headers")
    wire.send(frame(HEADERS, 1, 1, fields(*GET)))
    began = time.monotonic()
    assert wire.goaway() == CALM
    assert time.monotonic() - began < 30
    assert ended(running, "headers") == before + 1


def test_a_connection_without_a_request(wire):
    began = time.monotonic()
    assert wire.goaway() == 0
    assert time.monotonic() - began < 30


def test_more_streams_than_allowed(running):
    """Whoever does not acknowledge our SETTINGS may not know: streams are refused, for a while."""
    refused, resets = ended(running, "refused"), ended(running, "resets")
    with Wire(running.port) as wire:
        wire.send(*(request(stream, POST, end=False) for stream in range(1, 51, 2)))
        found = wire.until(RST_STREAM, GOAWAY)
        assert found is not None and found[0] == RST_STREAM and int.from_bytes(found[3], "big") == REFUSED
        wire.send(*(request(stream, POST, end=False) for stream in range(51, 1051, 2)))
        assert wire.goaway() == CALM
    assert ended(running, "refused") >= refused + 50
    assert ended(running, "resets") == resets + 1
    serves(running)


def test_more_streams_than_allowed_by_one_that_knows(running, wire):
    before = ended(running, "protocol")
    assert wire.until(SETTINGS)
    wire.send(frame(SETTINGS, ACK, 0))
    wire.send(*(request(stream, POST, end=False) for stream in range(1, 101, 2)))
    assert wire.goaway() == PROTOCOL
    assert ended(running, "protocol") == before + 1
    serves(running)


def test_a_reader_without_a_window(running):
    """It asks for a large answer and never lets us send it: the stream ends, not the gateway's patience."""
    before = ended(running, "stalled")
    with Wire(running.port, settings=struct.pack(">HI", 4, 10)) as wire:
        wire.send(request(1, [*GET[:3], (b":path", b"/big")]))
        found = wire.until(RST_STREAM, GOAWAY, stream=1)
        assert found is not None and int.from_bytes(found[3], "big") == CANCEL
    assert ended(running, "stalled") == before + 1


def test_a_reader_that_does_not_read(running):
    """Neither answers nor acknowledgements may pile up for it."""
    before = ended(running, "stalled")
    with Wire(running.port, settings=struct.pack(">HI", 4, 2**31 - 1)) as wire:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.send(frame(WINDOW_UPDATE, 0, 0, b"\x3f\xff\xff\xff"))
        wire.send(*(request(stream, [*GET[:3], (b":path", b"/big")]) for stream in range(1, 39, 2)))
        deadline = time.monotonic() + 60
        while ended(running, "stalled") == before:
            assert time.monotonic() < deadline
    serves(running)


# ------------------------------------------------------------------------------------------------- fuzz

KINDS = st.integers(0, 11)


@st.composite
def session(draw):
    """A few frames, some good, some broken, some cut."""
    parts = []
    for _ in range(draw(st.integers(1, 6))):
        choice = draw(st.integers(0, 3))
        stream = draw(st.sampled_from([0, 1, 3, 5, 2, 2**31 - 1]))
        if choice == 0:
            parts.append(request(stream, draw(st.sampled_from([GET, POST])), draw(st.booleans())))
        elif choice == 1:
            parts.append(frame(draw(KINDS), draw(st.integers(0, 255)), stream, draw(st.binary(max_size=40))))
        elif choice == 2:
            pairs = draw(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=12)), max_size=4))
            parts.append(frame(HEADERS, 5, stream, fields(*GET, *pairs)))
        else:
            parts.append(frame(DATA, draw(st.integers(0, 15)), stream, draw(st.binary(max_size=60))))
    data = bytearray(b"".join(parts))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def test_fuzzed_sessions(running):
    """Whatever comes, the gateway answers or ends it, and what reaches the upstream is one whole request."""
    seed = random.Random(1)

    @given(session())
    def play(data):
        running.upstream.forget()
        with Wire(running.port) as wire:
            cut = seed.randrange(len(data) + 1)
            wire.send(data[:cut])
            wire.send(data[cut:])
            wire.send(frame(GOAWAY, 0, 0, b"\0" * 8))
            leave(wire.sock)
            while wire.next() is not None:
                pass
        for one in running.upstream.requests:
            assert one.start.split(" ")[2] == "HTTP/1.1"
            assert "\r" not in one.start and "\n" not in one.start

    run(play, short=300)
    serves(running)


# ------------------------------------------------------------------------------------------------- 5.1: closed streams


@pytest.mark.parametrize("late", ["data", "headers"])
@pytest.mark.parametrize("end", ["answered", "reset"])
def test_frames_on_a_closed_stream(wire, running, late, end):
    """RFC 9113 5.1: what comes after END_STREAM or RST_STREAM is an error of type STREAM_CLOSED."""
    wire.send(request(1, POST if end == "reset" else GET, end=end == "answered"))
    if end == "reset":
        wire.send(frame(RST_STREAM, 0, 1, struct.pack(">I", CANCEL)))
    else:
        assert wire.fate() == ("status", 200)
    wire.send(frame(DATA, END_STREAM, 1, b"late") if late == "data" else request(1))
    code = None
    while (found := wire.next()) is not None:
        if found[0] == GOAWAY:
            code = int.from_bytes(found[3][4:8], "big")
        elif found[0] == RST_STREAM and found[2] == 1:
            code = int.from_bytes(found[3], "big")
        if code:
            break
    assert code == STREAM_CLOSED
    serves(running)
