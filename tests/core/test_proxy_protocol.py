"""The header of the PROXY protocol against a model of its specification, whole, in pieces, and damaged."""

import ipaddress
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw._core.proxy_protocol import read, write

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LIMIT = 4096


def plain(address):
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def port_of(text):
    return int(text) if re.fullmatch(rb"0|[1-9][0-9]{0,4}", text) and int(text) <= 65535 else None


def address_of(text, kind):
    try:
        return kind(text.decode("ascii")) if b"%" not in text else None
    except ValueError:
        return None


def model_v1(data):
    line, lf, _ = data[:107].partition(b"\n")
    if not lf:
        return 0 if len(data) < 107 else "too_long"
    if not line.endswith(b"\r"):
        return "malformed"
    words = line[:-1].split(b" ")
    if words[1] == b"UNKNOWN":
        return len(line) + 1, 1, None, 0
    kind = {b"TCP4": ipaddress.IPv4Address, b"TCP6": ipaddress.IPv6Address}.get(words[1])
    if kind is None or len(words) != 6:
        return "malformed"
    source, destination = address_of(words[2], kind), address_of(words[3], kind)
    ports = port_of(words[4]), port_of(words[5])
    if None in (source, destination, *ports):
        return "malformed"
    return len(line) + 1, 1, plain(source), ports[0]


def model_v2(data):
    if len(data) < 16:
        return 0 if len(data) < 13 or data[12] in (0x20, 0x21) else "malformed"
    command, family, length = struct.unpack("!BBH", data[12:16])
    if command not in (0x20, 0x21):
        return "malformed"
    if length > LIMIT:
        return "too_long"
    if command == 0x21:
        if family >> 4 > 3 or family & 15 > 2:
            return "malformed"
        if length < (0, 12, 36, 216)[family >> 4]:
            return "malformed"
    if len(data) < 16 + length:
        return 0
    told = (None, 0)
    if command == 0x21 and family == 0x11:
        told = str(ipaddress.IPv4Address(data[16:20])), int.from_bytes(data[24:26], "big")
    if command == 0x21 and family == 0x21:
        told = plain(ipaddress.IPv6Address(data[16:32])), int.from_bytes(data[48:50], "big")
    return 16 + length, 2, *told


def model(data):
    if data == b"":
        return 0
    if data[:12] == SIGNATURE[: len(data)]:
        return model_v2(data)
    if data[:6] == b"PROXY "[: len(data)]:
        return model_v1(data) if len(data) >= 6 else 0
    return "none"


def address(found):
    """With the address as one, not as text: ::1.0.0.0 is ::100:0."""
    return (*found[:2], found[2] and ipaddress.ip_address(found[2]), found[3]) if isinstance(found, tuple) else found


def v1(family, *words):
    return " ".join(["PROXY", family, *map(str, words)]).encode() + b"\r\n"


def v2(source, destination, ports=(1, 2), tlvs=b"", command=0x21, transport=1):
    packed = source.packed + destination.packed + struct.pack("!HH", *ports) + tlvs
    family = (0x10 if source.version == 4 else 0x20) | transport
    return SIGNATURE + struct.pack("!BBH", command, family, len(packed)) + packed


PORTS = st.integers(0, 65535)
PAIRS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6))
)
HEADERS = st.one_of(
    st.builds(lambda p, a, b: v1(f"TCP{p[0].version}", *p, a, b), PAIRS, PORTS, PORTS),
    st.builds(lambda p, a, b, t: v2(*p, (a, b), t), PAIRS, PORTS, PORTS, st.binary(max_size=200)),
    st.builds(lambda rest: b"PROXY UNKNOWN " + rest.replace(b"\n", b"") + b"\r\n", st.binary(max_size=80)),
    st.builds(
        lambda c, f, body: SIGNATURE + struct.pack("!BBH", c, f, len(body)) + body,
        st.sampled_from([0x20, 0x21]),
        st.sampled_from([0, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32]),
        st.binary(max_size=300),
    ),
)  # fmt: skip


@given(HEADERS, st.binary(max_size=20))
def test_whole_and_in_pieces(header, after):
    found = read(header + after)
    assert address(found) == address(model(header + after))
    if isinstance(found, tuple):
        assert found[0] == len(header)
        assert [read(header[:n]) for n in range(len(header))] == [0] * len(header)


CHANGES = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4)
STARTS = (b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ", SIGNATURE, SIGNATURE + b"\x21")


@given(HEADERS, CHANGES, st.integers(0, 60))
def test_damaged(header, changes, cut):
    data = bytearray(header)
    for at, byte in changes:
        data[at % len(data)] = byte
    for given_ in (bytes(data), bytes(data[: len(data) - cut])):
        assert address(read(given_)) == address(model(given_))


@given(st.binary(max_size=200), st.sampled_from(STARTS))
def test_anything(rest, start):
    assert read(start + rest) == model(start + rest)


V4, V6 = ipaddress.IPv4Address("192.0.2.7"), ipaddress.IPv6Address("2001:db8::7")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 56324 443\r\nGET", (42, 1, "192.0.2.7", 56324)),
        (b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n", (32, 1, "2001:db8::7", 1)),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", (37, 1, "192.0.2.7", 1)),
        (b"PROXY UNKNOWN\r\n", (15, 1, None, 0)),
        (b"PROXY UNKNOWN what ever\r\n", (25, 1, None, 0)),
        (b"PROXY UNKNOWNX\r\n", "malformed"),
        (b"PROXY TCP4 192.0.2.07 192.0.2.8 1 2\r\n", "malformed"),
        (b"PROXY TCP4 192.0.2.7\0x 192.0.2.8 1 2\r\n", "malformed"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 01 2\r\n", "malformed"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 65536 2\r\n", "malformed"),
        (b"PROXY TCP4  192.0.2.7 192.0.2.8 1 2\r\n", "malformed"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2 3\r\n", "malformed"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\n", "malformed"),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", "malformed"),
        (b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n", "malformed"),
        (b"PROXY TCP4 " + b"1" * 96, "too_long"),
        (b"proxy tcp4 1.1.1.1 1.1.1.1 1 1\r\n", "none"),
        (b"POST / HTTP/1.1\r\n", "none"),
        (b"\r\n\r\nGET / HTTP/1.1\r\n", "none"),
        (b"\x16\x03\x01", "none"),
        (v2(V4, V4, tlvs=b"\x20" * 4084), (4112, 2, "192.0.2.7", 1)),
        (v2(V4, V4, tlvs=b"\x20" * 4085), "too_long"),
        (v2(V6, V6), (52, 2, "2001:db8::7", 1)),
        (v2(V4, V4, command=0x20), (28, 2, None, 0)),
        (v2(V4, V4, transport=2), (28, 2, None, 0)),
        (v2(V4, V4, transport=3), "malformed"),
        (v2(V4, V4, command=0x22), "malformed"),
        (v2(V4, V4, command=0x11), "malformed"),
        (SIGNATURE + b"\x21\x41\0\0", "malformed"),
        (SIGNATURE + b"\x21\x11\0\x0b" + bytes(11), "malformed"),
        (SIGNATURE + b"\x20\xff\0\0", (16, 2, None, 0)),
    ],
)
def test_cases(data, expected):
    assert read(data) == expected == model(data)


def packed(address, port):
    mapped = address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
    return mapped, port


@given(st.sampled_from([1, 2]), st.ip_addresses(), st.ip_addresses(), PORTS, PORTS)
def test_what_is_written(version, source, target, port, target_port):
    """Another writer's words for the same; IPv4 is told as such when both are, else as IPv6."""
    written = write(version, packed(source, port), packed(target, target_port))
    pair = [getattr(address, "ipv4_mapped", None) or address for address in (source, target)]
    if {address.version for address in pair} != {4}:
        pair = [ipaddress.IPv6Address(packed(address, 0)[0]) for address in pair]
    if version == 2:
        assert written == v2(*pair, (port, target_port))
    else:
        family, *words = written.removesuffix(b"\r\n").decode().split(" ")[1:]
        assert (family, [int(word) for word in words[2:]]) == (f"TCP{pair[0].version}", [port, target_port])
        assert [ipaddress.ip_address(word) for word in words[:2]] == pair and len(written) <= 107
    assert read(written) == model(written) == (len(written), version, plain(source), port)


@pytest.mark.parametrize(("version", "header"), [(1, b"PROXY UNKNOWN\r\n"), (2, SIGNATURE + b"\x21\0\0\0")])
def test_nothing_is_told_of_what_is_not_known(version, header):
    known = packed(V4, 1)
    assert write(version, None, None) == write(version, known, None) == write(version, None, known) == header
    assert read(header) == (len(header), version, None, 0)
