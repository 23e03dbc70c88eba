"""Frames of WebSockets, nearly right ones too, cut anywhere: what the reader passes on, and with which code it ends,
is what a model of RFC 6455 says that sees all bytes at once; and through a gateway both ends see just that."""

import contextlib
import os
import struct

import pytest
from hypothesis import example, given, note
from hypothesis import strategies as st

from fastgw._core.ws_frames import FrameReader
from fastgw.testing import FakeUpstream, GatewayProcess, Incomplete
from tests.fuzz.conftest import run
from tests.wire.ws_peer import ACCEPT, Peer, frame

MAX_FRAME, MAX_MESSAGE = 300, 500


def unmask(data, key):
    return bytes(byte ^ key[n & 3] for n, byte in enumerate(data))


def take(data):
    """(first byte, mask or None, minimal, payload length, head length) of the frame `data` begins with, or None."""
    if len(data) < 2:
        return None
    size, at = data[1] & 127, 2
    for marker, wide, least in ((126, 2, 126), (127, 8, 65536)):
        if size == marker:
            if len(data) < 2 + wide:
                return None
            found = int.from_bytes(data[2 : 2 + wide], "big")
            minimal, size, at = found >= least, found, 2 + wide
            break
    else:
        minimal = True
    mask = None
    if data[1] & 128:
        mask, at = data[at : at + 4], at + 4
    return None if len(data) < at else (data[0], mask, minimal, size, at)


def close_problem(payload):
    if not payload:
        return 0
    if len(payload) == 1:
        return 1002
    (code,) = struct.unpack(">H", payload[:2])
    if code not in {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}:
        return 1002
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        return 1007
    return 0


def model(data, masked, rsv):
    """(bytes that pass, code or 0)."""
    passed, fragmented, message = b"", False, 0
    while True:
        found = take(data)
        if found is None:
            return passed, 0
        first, mask, minimal, size, at = found
        fin, bits, opcode = bool(first & 128), first >> 4 & 7, first & 15
        control = opcode >= 8
        if (mask is not None) != masked or not minimal or size >> 63 or opcode not in (0, 1, 2, 8, 9, 10):
            return passed, 1002
        if bits and (bits & ~rsv or opcode not in (1, 2)):
            return passed, 1002
        if control and (not fin or size > 125):
            return passed, 1002
        if not control:
            if fragmented != (opcode == 0):
                return passed, 1002
            message = size + (message if opcode == 0 else 0)
            if size > MAX_FRAME or message > MAX_MESSAGE:
                return passed, 1009
            fragmented = not fin
        whole, data = data[: at + size], data[at + size :]
        if len(whole) < at + size:
            return passed + (b"" if control else whole), 0
        if opcode == 8:
            payload = whole[at:]
            problem = close_problem(unmask(payload, mask) if mask else payload)
            return (passed, problem) if problem else (passed + whole, 0)
        passed += whole


@st.composite
def frames(draw, masked):
    opcode = draw(st.sampled_from([0, 0, 1, 1, 2, 8, 9, 10, 3, 11]))
    sizes = st.integers(0, 5) | st.sampled_from([100, 125, 126, 127, 200, 299, 300, 301, 500])
    payload = b"x" * draw(sizes)
    if opcode == 8:
        codes = st.sampled_from([1000, 1005, 1011, 3000, 4999, 5000, 0]) | st.integers(0, 65535)
        payload = draw(st.just(b"") | codes.map(lambda code: struct.pack(">H", code)) | st.just(b"\x03"))
        payload += draw(st.sampled_from([b"", b"bye", b"\xff", "é".encode()])) if len(payload) == 2 else b""
    return frame(
        opcode,
        payload,
        fin=draw(st.sampled_from([True, True, False])),
        rsv=draw(st.sampled_from([0, 0, 0, 0, 4, 1])),
        masked=masked if draw(st.integers(0, 20)) else not masked,
        wide=draw(st.sampled_from([0] * 10 + [2, 8])),
        size=draw(st.sampled_from([None] * 10 + [1 << 63, 70_000, 3])),
    )


@st.composite
def streams(draw, masked):
    data = bytearray(b"".join(draw(st.lists(frames(masked), max_size=8))))
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        what = draw(st.sampled_from(["flip", "cut", "drop", "insert"]))
        if what == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del data[at:]
        elif what == "drop":
            del data[at : at + draw(st.integers(1, 9))]
        else:
            data[at:at] = draw(st.binary(max_size=9))
    return bytes(data)


def pieces(data, cuts):
    at = 0
    for cut in sorted(cuts):
        yield data[at:cut]
        at = max(at, cut)
    yield data[at:]


CUTS = st.lists(st.integers(0, 900), max_size=6) | st.just(list(range(900)))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("rsv", [0, 4])
def test_the_reader_and_the_model(masked, rsv):
    @given(streams(masked), CUTS)
    @example(frame(8, b"", masked=masked) + frame(1, b"x", masked=masked), [])
    def compare(data, cuts):
        reader = FrameReader(masked, MAX_FRAME, MAX_MESSAGE, rsv)
        passed, code = b"", 0
        for piece in pieces(data, cuts):
            more, code = reader.feed(piece)
            passed += more
            if code:
                break
        note(f"passed {passed!r}, code {code}")
        assert (passed, code) == model(data, masked, rsv)

    run(compare, short=800)


def test_following_ends_where_frames_end():
    """Whatever the frames hold: only their lengths matter."""

    @given(st.lists(frames(True), max_size=6), st.integers(0, 1000), CUTS)
    def compare(list_, extra, cuts):
        ends, at = [0], 0
        for data in list_:
            found = take(data)
            if found is None or found[3] + found[4] != len(data):
                return                            # its length is a lie: the next one is elsewhere
            at += len(data)
            ends.append(at)
        stream = b"".join(list_)[: max(0, at - extra)]
        reader, seen = FrameReader(), 0
        for piece in pieces(stream, cuts):
            used, border = reader.look(piece)
            seen += used
            assert border == (seen in ends)
        assert seen == len(stream)
        reader = FrameReader()
        if list_ and stream == b"".join(list_):
            assert reader.look(stream, True) == (ends[1], True)

    run(compare, short=400)


@pytest.fixture(scope="module")
def running():
    heard = []

    def play(connection):
        connection.read_head()
        connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
        )
        with contextlib.suppress(Incomplete):
            while True:
                connection.read_more()
        heard.append(bytes(connection.reader.buffer))

    rules = {"max_frame": MAX_FRAME, "max_message": MAX_MESSAGE, "idle_timeout": "1s"}
    with FakeUpstream(play) as upstream:
        config = {
            "observability": {"access_log": {"enabled": False}},
            "services": {"raw": upstream.url},
            "routes": [{"path": "/*", "service": "raw", "websocket": rules}],
        }
        with GatewayProcess(config) as gateway:
            yield gateway, heard


def test_through_a_gateway(running):
    gateway, heard = running
    workers = gateway.processes()

    @given(streams(True), st.lists(st.integers(0, 900), max_size=3))
    def compare(data, cuts):
        passed, code = model(data, True, 0)
        count = len(heard)
        with Peer(gateway.address, "/x") as peer:
            with contextlib.suppress(ConnectionError):
                for piece in pieces(data, cuts):
                    peer.send(piece)
            if code:
                # the service does not answer its close frame: leaving is quicker than to wait for the gateway
                assert peer.frame().code == code
        while len(heard) == count:
            os.sched_yield()
        (got,) = heard[count:]
        note(f"heard {got!r}, code {code}")
        assert got.startswith(passed)
        rest = got[len(passed) :]
        if code:
            # RFC 6455 5.5.1: the one close frame, with the gateway's mask
            assert rest[0] == 0x88 and unmask(rest[6:], rest[2:6])[:2] == struct.pack(">H", 1001)
        else:
            assert rest == b""

    run(compare, short=100)
    assert gateway.processes() == workers, "a process died"
