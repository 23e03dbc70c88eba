"""The ClientHello against a model of its specification: by OpenSSL, made by hand, cut into records, and damaged."""

import contextlib
import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw._core.sni import read
from tests.oracle.client_hello import look


def hello_of_openssl(name, *, version=ssl.TLSVersion.TLSv1_3, alpn=("h2", "http/1.1")):
    context = ssl._create_unverified_context()
    context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def vector(size, data):
    return len(data).to_bytes(size, "big") + data


def sni(*names, kind=0):
    return 0, vector(2, b"".join(bytes([kind]) + vector(2, name) for name in names))


def body(*extensions, session=b"", ciphers=b"\x13\x01", methods=b"\0", version=b"\x03\x03", none=False):
    head = version + bytes(32) + vector(1, session) + vector(2, ciphers) + vector(1, methods)
    if none:
        return head
    return head + vector(2, b"".join(struct.pack("!H", kind) + vector(2, data) for kind, data in extensions))


def message(data, kind=1):
    return bytes([kind]) + vector(3, data)


def record(data, kind=22, version=b"\x03\x01"):
    return bytes([kind]) + version + vector(2, data)


def hello(*extensions, **more):
    return record(message(body(*extensions, **more)))


def records(data, cuts):
    """One message in several records."""
    ends = [*sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return b"".join(record(data[a:b]) for a, b in zip([0, *ends], ends, strict=False))


REAL = [
    hello_of_openssl(name, version=version, alpn=alpn)
    for name in ("a.example", "Db.Example.COM", "xn--bcher-kva.example", None)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    for alpn in ((), ("h2", "http/1.1"))
]


@pytest.mark.parametrize("name", ["a.example", "DB.Example.com", "a" * 63 + "." + "b" * 63 + ".example"])
def test_by_openssl(name):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        data = hello_of_openssl(name, version=version)
        assert read(data) == name.lower().encode() == look(data)
        assert read(data + b"early data") == name.lower().encode()


def test_no_name():
    assert read(hello_of_openssl(None)) == b""


CASES = [
    (hello(sni(b"a.example")), b"a.example"),
    (hello(), b""),
    (hello(none=True), b""),
    (hello((16, b"\0\x03\x02h2"), sni(b"A.EXAMPLE"), (43, b"\x02\x03\x04")), b"a.example"),
    (hello(sni(b"192.0.2.1")), b"192.0.2.1"),
    (hello(sni(b"a_b.example")), b"a_b.example"),
    (hello(sni(b"a" * 255)), b"a" * 255),
    (hello(sni(b"a" * 256)), "malformed"),
    (hello(sni(b"")), "malformed"),
    (hello(sni(b"a.example.")), "malformed"),
    (hello(sni(b".a.example")), "malformed"),
    (hello(sni(b"a..example")), "malformed"),
    (hello(sni(b"*.example")), "malformed"),
    (hello(sni(b"a.example\0.b.example")), "malformed"),
    (hello(sni(b"a.ex\xc3\xa4mple")), "malformed"),
    (hello(sni(b"a b")), "malformed"),
    (hello(sni(b"::1")), "malformed"),
    (hello(sni(b"a.example", b"b.example")), "malformed"),
    (hello(sni(b"a.example"), sni(b"b.example")), "malformed"),
    (hello(sni(b"a.example", kind=1)), "malformed"),
    (hello((0, b"")), "malformed"),
    (hello((0, vector(2, b""))), "malformed"),
    (hello((0, vector(2, b"\0" + vector(2, b"a")) + b"x")), "malformed"),
    (hello(session=bytes(32)), b""),
    (hello(session=bytes(33)), "malformed"),
    (hello(ciphers=b""), "malformed"),
    (hello(ciphers=b"\x13\x01\x13"), "malformed"),
    (hello(methods=b""), "malformed"),
    (hello(version=b"\x02\x03"), "malformed"),
    (record(message(body(sni(b"a")) + b"x")), "malformed"),
    (record(message(body(sni(b"a")))[:-1] + b""), 0),
    (record(message(body(sni(b"a"))) + b"\x01"), "malformed"),
    (record(message(body(sni(b"a")), kind=2)), "malformed"),
    (record(b""), "malformed"),
    (b"\x16\x03\x01\x00\x05\x02", "malformed"),
    (record(b"\x01\0") + record(b"\0", kind=23), "malformed"),
    (record(b"\x01\0") + record(b""), "malformed"),
    (record(b"\x01\0") + record(b"\0", version=b"\x02\0"), "malformed"),
    (record(b"\x01\xff\xff\xff"), "too_long"),
    (b"\x16\x03\x01\x40\x00", "too_long"),
    (b"\x16\x03\x01\x40\x01", "malformed"),
    (records(message(bytes(20000)), range(0, 20000, 5000)), "too_long"),
    (b"".join(record(b"\x01" if n == 0 else b"\0") for n in range(3))
     + b"".join(record(b"\0") for _ in range(4000)), "malformed"),
    (b"".join(record(bytes([c])) for c in b"\x01\0\x3f\0" + bytes(4000)), "too_long"),
    (b"\x16", 0),
    (b"\x16\x03", 0),
    (b"\x16\x03\x01\x01\x00", 0),
    (b"\x16\x02\x01", "none"),
    (b"\x80\x2e\x01\x03\x01", "none"),
    (b"GET / HTTP/1.1\r\n\r\n", "none"),
    (b"\0", "none"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), CASES, ids=range(len(CASES)))
def test_cases(data, expected):
    found = read(data)
    assert (0 if isinstance(found, int) else found) == expected == look(data)


def test_the_largest():
    """All of it, with the heads of its records, may have 16384 bytes."""
    rest = 16384 - len(hello((21, b"")))
    assert read(hello((21, bytes(rest)))) == b""
    assert read(hello((21, bytes(rest + 1)))) == "too_long"


@pytest.mark.parametrize("data", REAL, ids=range(len(REAL)))
def test_in_pieces(data):
    """Until it is whole more is asked for, never more than there will be, and never less than one byte."""
    whole = read(data)
    for n in range(len(data)):
        needed = read(data[:n])
        assert isinstance(needed, int) and n < needed <= len(data) and look(data[:n]) == 0
    for step in (1, 2, 3, 50):
        cut = records(data[5:], range(step, len(data), step))
        assert read(cut) == whole == look(cut)
        n = looks = 0
        while isinstance(needed := read(cut[:n]), int):
            assert n < needed <= len(cut)
            n, looks = needed, looks + 1
        assert n == len(cut) and needed == whole


EXTENSIONS = st.lists(
    st.one_of(
        st.builds(sni, st.binary(max_size=20)),
        st.builds(sni, st.from_regex(rb"[A-Za-z0-9_-]{1,9}(\.[A-Za-z0-9_-]{1,9}){0,3}", fullmatch=True)),
        st.tuples(st.integers(0, 60), st.binary(max_size=30)),
    ),
    max_size=4,
)
MADE = st.builds(
    lambda extensions, session, ciphers, methods, none: message(
        body(*extensions, session=session, ciphers=ciphers, methods=methods, none=none)
    ),
    EXTENSIONS,
    st.binary(max_size=34),
    st.binary(max_size=8),
    st.binary(max_size=3),
    st.sampled_from([False, False, False, True]),
)
ANY = st.one_of(MADE, st.sampled_from([data[5:] for data in REAL]))


def same(data):
    found = read(data)
    assert (0 if isinstance(found, int) else found) == look(data)
    if isinstance(found, int):
        assert len(data) < found <= 16384


@given(ANY, st.lists(st.integers(0, 600), max_size=6), st.binary(max_size=20))
def test_made(data, cuts, after):
    whole = records(data, cuts)
    same(whole + after)
    same(whole[: len(whole) // 2])


@given(ANY, st.lists(st.integers(0, 600), max_size=3), st.data())
def test_damaged(data, cuts, draw):
    damaged = bytearray(records(data, cuts))
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = draw.draw(st.sampled_from([0, 1, 2, 3, 22, 127, 128, 255, damaged[at] ^ 1, damaged[at] ^ 0x80]))
    same(bytes(damaged))
    same(bytes(damaged[: draw.draw(st.integers(0, len(damaged)))]))


STARTS = (b"", b"\x16", b"\x16\x03\x01", b"\x16\x03\x01\0\x40\x01\0\0\x3c\x03\x03")


@given(st.binary(max_size=300), st.sampled_from(STARTS))
def test_anything(rest, start):
    same(start + rest)
