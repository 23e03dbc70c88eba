"""The cases of Autobahn's fuzzing client that matter to a proxy, anew: framing, pings, reserved bits and opcodes,
fragments, UTF-8, closing, sizes, compression. Each through a tunnel that only passes frames, and through one that reads
them, before the server of the `websockets` package: what the client sees is the same."""

import contextlib
import zlib

import pytest

from fastgw.testing import GatewayProcess
from tests.wire.ws_peer import BINARY, CLOSE, PING, PONG, TEXT, Echo, Ended, Peer, close, frame

DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover\r\n"


@pytest.fixture(scope="module")
def gateway():
    with Echo(compression=None) as echo, Echo(compression="deflate") as deflate:
        config = {
            "server": {"timeouts": {"drain": "1s"}},
            "services": {
                "plain": f"http://127.0.0.1:{echo.port}",
                "deflate": f"http://127.0.0.1:{deflate.port}",
            },
            "routes": [
                {"path": "/passed/*", "service": "plain", "websocket": True},
                {"path": "/read/*", "service": "plain", "websocket": {"max_message": "64MiB"}},
                {"path": "/passed-deflate/*", "service": "deflate", "websocket": True},
                {"path": "/read-deflate/*", "service": "deflate", "websocket": {"max_message": "64MiB"}},
            ],
        }
        with GatewayProcess(config) as process:
            yield process


@pytest.fixture(params=["passed", "read"])
def kind(request):
    return request.param


@pytest.fixture
def peer(gateway, kind):
    with Peer(gateway.address, f"/{kind}/x") as found:
        yield found


def end(peer):
    peer.send(close(1000, b"done"))
    assert peer.closed() == 1000


SIZES = [0, 1, 125, 126, 127, 128, 65535, 65536, 1_000_000]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", SIZES)
def test_1_framing(peer, opcode, size):
    payload = b"*" * size
    peer.send(frame(opcode, payload))
    found = peer.frame()
    assert (found.opcode, found.payload, found.fin, found.rsv) == (opcode, payload, True, 0)
    end(peer)


@pytest.mark.parametrize(("size", "chop"), [(0, 1), (126, 1), (300, 1), (65536, 997)])
def test_1_framing_chopped(peer, size, chop):
    peer.chopped(frame(TEXT, b"*" * size), chop)
    assert peer.message() == b"*" * size
    end(peer)


@pytest.mark.parametrize("payload", [b"", b"hello", bytes(range(0x82, 0xFF)), b"\xfe" * 125])
def test_2_pings_are_answered(peer, payload):
    peer.send(frame(PING, payload))
    found = peer.frame()
    assert (found.opcode, found.payload) == (PONG, payload)
    end(peer)


def test_2_pings_chopped_and_many(peer):
    peer.chopped(frame(PING, b"p" * 125))
    assert peer.frame().payload == b"p" * 125
    peer.send(b"".join(frame(PING, str(n).encode()) for n in range(10)))
    found = [peer.frame() for _ in range(10)]
    assert [one.payload for one in found] == [str(n).encode() for n in range(10)]
    end(peer)


def test_2_pongs_nobody_asked_for_are_taken(peer):
    peer.send(frame(PONG, b"unasked"), frame(PING, b"a"), frame(PONG, b""), frame(TEXT, b"b"))
    assert peer.frame().payload == b"a"
    assert peer.message() == b"b"
    end(peer)


WRONG = {
    "2 a ping that is too long": frame(PING, b"\xfe" * 126),
    **{f"3 reserved bits {rsv}": frame(TEXT, b"x", rsv=rsv) for rsv in range(1, 8)},
    "3 a reserved bit in a ping": frame(PING, b"x", rsv=4),
    "3 a reserved bit in a close frame": close(1000, rsv=1),
    **{f"4 opcode {opcode}": frame(opcode, b"x") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "4 an empty frame of a reserved opcode": frame(3),
    "5 a ping in fragments": frame(PING, b"a", fin=False) + frame(0, b"b"),
    "5 a pong in fragments": frame(PONG, b"a", fin=False) + frame(0, b"b"),
    "5 a continuation of nothing": frame(0, b"x"),
    "5 a continuation of nothing, not the last": frame(0, b"x", fin=False),
    "5 a message within a message": frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
    "5 a continuation after the end": frame(TEXT, b"", fin=False) + frame(0, b"") + frame(0, b"x"),
    "7 a close frame of one byte": frame(CLOSE, b"\x03"),
    "7 a close frame that is too long": frame(CLOSE, b"\x03\xe8" + b"*" * 124),
    **{f"7 close code {code}": close(code) for code in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535)},
    "no mask": frame(TEXT, b"x", masked=False),
}  # fmt: skip


@pytest.mark.parametrize("chop", [0, 1], ids=["whole", "chopped"])
@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_protocol_errors(peer, data, chop):
    if chop:
        with contextlib.suppress(ConnectionError):
            peer.chopped(data)
    else:
        peer.send(data)
    assert peer.closed() == 1002


# The `websockets` package takes these; a gateway that reads frames does not (RFC 6455 5.2).
@pytest.mark.parametrize("data", [
    frame(TEXT, b"x", wide=2), frame(TEXT, b"x", wide=8), frame(TEXT, b"x" * 200, wide=8),
], ids=["1 in 2", "1 in 8", "200 in 8"])  # fmt: skip
def test_lengths_in_more_bytes_than_needed(gateway, data):
    with Peer(gateway.address, "/read/x") as peer:
        peer.send(data)
        assert peer.closed() == 1002


def test_a_length_with_its_highest_bit_set(gateway):
    with Peer(gateway.address, "/read/x") as peer:
        peer.send(frame(BINARY, b"x", size=1 << 63))
        assert peer.closed() == 1002


@pytest.mark.parametrize("chop", [0, 1], ids=["whole", "chopped"])
def test_5_fragments_with_pings_between(peer, chop):
    data = frame(TEXT, b"one ", fin=False) + frame(PING, b"p1") + frame(0, b"", fin=False) + frame(PING, b"p2")
    data += frame(0, b"two")
    if chop:
        peer.chopped(data)
    else:
        peer.send(data)
    assert [peer.frame().payload for _ in range(2)] == [b"p1", b"p2"]
    assert peer.message() == b"one two"
    end(peer)


def test_5_a_message_of_many_fragments(peer):
    peer.send(frame(BINARY, b"", fin=False), *[frame(0, b"ab", fin=False) for _ in range(500)], frame(0))
    assert peer.message() == b"ab" * 500
    end(peer)


@pytest.mark.parametrize("payload", ["κόσμε".encode(), "\U0001f680".encode() * 1000])
def test_6_text(peer, payload):
    """Cut anywhere, also within a character."""
    at = len(payload) // 2 + 1
    peer.send(frame(TEXT, payload[:at], fin=False), frame(0, payload[at:]))
    assert peer.message() == payload
    end(peer)


@pytest.mark.parametrize("payload", [b"\xce\xba\xed\xa0\x80", b"\xff", b"\xf4\x90\x80\x80"])
def test_6_text_that_is_no_utf_8(peer, payload):
    peer.send(frame(TEXT, payload))
    assert peer.closed() == 1007


def test_7_a_close_reason_that_is_no_utf_8(peer):
    peer.send(close(1000, b"\xce\xba\xed\xa0\x80"))
    assert peer.closed() in (1002, 1007)


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
def test_7_close_codes(peer, code):
    peer.send(close(code, b"r" * 123))
    assert peer.closed() == code


def test_7_a_close_frame_without_a_code(peer):
    peer.send(close())
    assert peer.closed() in (1005, 1000)


def test_7_nothing_after_a_close_frame(peer):
    peer.send(frame(TEXT, b"a"))
    assert peer.message() == b"a"
    peer.send(close(1000) + frame(TEXT, b"b") + frame(PING, b"c"))
    found = peer.frame()
    assert (found.opcode, found.code) == (CLOSE, 1000)
    assert peer.closed() is None


def test_7_the_service_closes(gateway, kind):
    with Peer(gateway.address, f"/{kind}/bye") as peer:
        found = peer.frame()
        assert (found.opcode, found.code, found.payload[2:]) == (CLOSE, 4001, b"enough")
        peer.send(close(4001))
        with pytest.raises(Ended):
            peer.frame()


@pytest.mark.parametrize(("size", "parts"), [(4_000_000, 1), (4_000_000, 64), (1_000_000, 2000)])
def test_9_large_messages(peer, size, parts):
    payload = bytes(range(256)) * (size // 256)
    step = len(payload) // parts
    pieces = [payload[at : at + step] for at in range(0, len(payload), step)]
    for number, piece in enumerate(pieces):
        peer.send(frame(BINARY if number == 0 else 0, piece, fin=number == len(pieces) - 1))
    assert peer.message() == payload
    end(peer)


def test_10_many_small_messages(peer):
    peer.send(b"".join(frame(TEXT, b"%d" % number) for number in range(2000)))
    assert [peer.message() for _ in range(2000)] == [b"%d" % number for number in range(2000)]
    end(peer)


def deflated(payload):
    packer = zlib.compressobj(wbits=-15)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(payload):
    return zlib.decompressobj(wbits=-15).decompress(payload + b"\x00\x00\xff\xff")


@pytest.mark.parametrize("size", [10, 1000, 200_000])
def test_12_compression(gateway, kind, size):
    with Peer(gateway.address, f"/{kind}-deflate/x", DEFLATE) as peer:
        assert b"permessage-deflate" in peer.head
        packed = deflated(b"ab" * size)
        peer.send(frame(TEXT, packed, rsv=4))
        found = peer.frame()
        assert found.rsv == 4 and inflated(found.payload) == b"ab" * size
        at = len(packed) // 2
        peer.send(frame(TEXT, packed[:at], rsv=4, fin=False), frame(PING, b"p"), frame(0, packed[at:]))
        assert peer.frame().payload == b"p"
        assert inflated(peer.frame().payload) == b"ab" * size
        peer.send(frame(TEXT, b"not compressed"))
        assert peer.frame().opcode == TEXT
        end(peer)


@pytest.mark.parametrize("data", [
    frame(TEXT, b"x", rsv=2), frame(TEXT, b"x", rsv=1), frame(PING, b"x", rsv=4),
    frame(TEXT, deflated(b"xy"), rsv=4, fin=False) + frame(0, b"", rsv=4),
], ids=["rsv2", "rsv1", "on a ping", "on a continuation"])  # fmt: skip
def test_12_reserved_bits_that_compression_does_not_use(gateway, kind, data):
    with Peer(gateway.address, f"/{kind}-deflate/x", DEFLATE) as peer:
        peer.send(data)
        assert peer.closed() == 1002
