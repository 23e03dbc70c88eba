"""Bytes that are no handshake, or nearly one, on a port that speaks TLS: it answers in records or not at all, closes,
and goes on for everybody else."""

import contextlib
import socket
import ssl

import pytest
from hypothesis import example, given, note
from hypothesis import strategies as st

from fastgw.testing import GatewayProcess, free_port
from fastgw.testing.certificates import Authority
from tests.fuzz.conftest import leave, run

RECORD_TYPES = (20, 21, 22, 23)               # RFC 8446 5.1: change_cipher_spec, alert, handshake, application_data
LARGEST = 16384 + 2048                        # RFC 5246 6.2.3


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    pki = Authority(tmp_path_factory.mktemp("fuzz-tls"))
    a, rsa = pki.leaf("a.example"), pki.leaf("a.example", kind="rsa", file="rsa")
    port = free_port()
    config = {
        "server": {"listeners": [{"bind": f"127.0.0.1:{port}", "tls": {
            "certificates": [{"cert": pair.cert, "key": pair.key} for pair in (a, rsa)],
            "client_auth": "request", "client_ca": pki.cert,
            "handshake": {"timeout": "200ms"},
        }}], "timeouts": {"header": "200ms", "idle": "200ms"}},
        "observability": {"access_log": {"enabled": False}},
        "services": {},
        "routes": [{"path": "/*", "policies": [{"respond": {"body": "here\n"}}]}],
    }  # fmt: skip
    with GatewayProcess(config) as gateway:
        gateway.port = port
        context = ssl.create_default_context(cafile=pki.cert)
        yield gateway, context


def hello(version, alpn, name):
    """What OpenSSL's client says first."""
    context = ssl.create_default_context()
    context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(alpn)
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


HELLOS = [
    hello(version, alpn, name)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    for alpn, name in ((None, "a.example"), (["h2", "http/1.1"], "b.example"))
]


@st.composite
def record(draw):
    kind = draw(st.sampled_from([*RECORD_TYPES, 24, 0x80, 0]))
    body = draw(st.binary(max_size=80))
    size = draw(st.sampled_from([len(body), len(body) + 1, 0, LARGEST, LARGEST + 1, 65535]))
    return bytes([kind, 3, draw(st.sampled_from([0, 1, 3, 4, 255]))]) + size.to_bytes(2, "big") + body


@st.composite
def mutated(draw):
    """A ClientHello with a few bytes changed, cut, doubled or put in, then records that nobody waits for."""
    data = bytearray(draw(st.sampled_from(HELLOS)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        what = draw(st.sampled_from(["flip", "set", "cut", "drop", "double", "insert"]))
        if what == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "set" and data:
            data[at] = draw(st.sampled_from([0, 1, 0x7F, 0xFF]))
        elif what == "cut":
            del data[at:]
        elif what == "drop":
            del data[at : at + draw(st.integers(1, 40))]
        elif what == "double":
            data[at:at] = data[at : at + 40]
        else:
            data[at:at] = draw(st.binary(max_size=20))
    return bytes(data) + b"".join(draw(st.lists(record(), max_size=3)))


def until_the_end(sock):
    data = b""
    with contextlib.suppress(ConnectionError):
        while more := sock.recv(65536):
            data += more
    return data


def check_records(data):
    """All of it is whole records of TLS, or the one answer to plain HTTP."""
    if data.startswith(b"HTTP/1.1 400 "):
        return
    while data:
        assert data[0] in RECORD_TYPES and data[1] == 3, f"no record: {data[:20]!r}"
        size = int.from_bytes(data[3:5], "big")
        assert size <= LARGEST and len(data) >= 5 + size, f"no whole record: {data[:20]!r}"
        data = data[5 + size :]


def still_there(gateway, context):
    with (
        socket.create_connection(gateway.address, timeout=30) as raw,
        context.wrap_socket(raw, server_hostname="a.example") as sock,
    ):
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
        assert until_the_end(sock).endswith(b"here\n")


def check(gateway, data, cuts, leaves):
    with socket.create_connection(gateway.address, timeout=30) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            at = 0
            for cut in sorted(cuts):
                sock.sendall(data[at:cut])
                at = max(at, cut)
            sock.sendall(data[at:])
            if leaves:
                leave(sock)
        answered = until_the_end(sock)            # a TimeoutError: it neither answered nor closed
    note(f"answered {answered!r}")
    check_records(answered)


def test_handshakes(running):
    gateway, context = running
    workers = gateway.processes()

    @given(mutated(), st.lists(st.integers(0, 600), max_size=3), st.sampled_from([True, True, True, False]))
    @example(b"", [], True)
    @example(b"\x16", [], False)
    @example(HELLOS[0] * 2, [], True)
    @example(HELLOS[3] * 2, [100], True)
    @example(b"\x16\x03\x01\xff\xff" + b"a" * 70_000, [], False)
    @example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", [], False)
    def compare(data, cuts, leaves):
        check(gateway, data, cuts, leaves)

    run(compare, short=500)
    still_there(gateway, context)
    assert gateway.processes() == workers, "a process died"


def test_records_after_the_handshake(running):
    """What follows a good handshake in its own keys is changed on its way, or is followed by something else."""
    gateway, context = running
    workers = gateway.processes()

    @given(st.data(), st.booleans())
    def compare(data, old):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context.maximum_version = ssl.TLSVersion.TLSv1_2 if old else ssl.TLSVersion.TLSv1_3
        tls = context.wrap_bio(incoming, outgoing, server_hostname="a.example")
        with socket.create_connection(gateway.address, timeout=30) as sock:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(65536))
            finished = outgoing.read()            # of TLS 1.3: still to be sent
            for _ in range(data.draw(st.integers(1, 3))):
                tls.write(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
            sealed = bytearray(finished + outgoing.read())
            for _ in range(data.draw(st.integers(0, 2))):
                at = data.draw(st.integers(0, len(sealed) - 1))
                sealed[at] ^= 1 << data.draw(st.integers(0, 7))
            sealed += b"".join(data.draw(st.lists(record(), max_size=2)))
            with contextlib.suppress(ConnectionError):
                sock.sendall(sealed)
                leave(sock)
            check_records(until_the_end(sock))

    run(compare, short=200)
    context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
    still_there(gateway, context)
    assert gateway.processes() == workers, "a process died"
