"""Clients that keep TLS itself busy: what it answers on its own must not pile up for those who do not read."""

import ctypes
import ctypes.util
import hmac
import os
import socket
import ssl
import struct
import time

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fastgw.testing import GatewayProcess, free_port
from fastgw.testing.certificates import Authority
from fastgw.testing.process import private_bytes

LIBSSL = ctypes.util.find_library("ssl")
# Bytes of memory; without a bound it was a multiple of that. The sanitizers keep what was freed.
GROWN = float("inf") if os.environ.get("FASTGW_SANITIZE") == "1" else 3_000_000


def prf(secret, label, seed, size):
    """RFC 5246 5, with SHA-256."""
    a, out = label + seed, b""
    while len(out) < size:
        a = hmac.digest(secret, a, "sha256")
        out += hmac.digest(secret, a + label + seed, "sha256")
    return out[:size]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    pki = Authority(tmp_path_factory.mktemp("floods"))
    leaf = pki.leaf("a.example")
    port = free_port()
    config = {
        "server": {"listeners": [{"bind": f"127.0.0.1:{port}", "tls": {
            "certificates": [{"cert": leaf.cert, "key": leaf.key}]}}]},
        "observability": {"access_log": {"enabled": False}},
        "services": {},
        "routes": [{"path": "/*", "policies": [{"respond": {"body": "here\n"}}]}],
    }  # fmt: skip
    with GatewayProcess(config) as gateway:
        gateway.port = port
        yield gateway, pki


def memory(gateway):
    return sum(map(private_bytes, gateway.processes()))


class Libssl:
    """A TLS 1.3 client by OpenSSL's own functions: Python's ssl knows no key update."""

    def __init__(self, address):
        self.lib = lib = ctypes.CDLL(LIBSSL)
        for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
            getattr(lib, name).restype = ctypes.c_void_p
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect(address)
        self.context = ctypes.c_void_p(lib.SSL_CTX_new(ctypes.c_void_p(lib.TLS_client_method())))
        self.ssl = ctypes.c_void_p(lib.SSL_new(self.context))
        assert lib.SSL_set_fd(self.ssl, self.sock.fileno()) == 1
        assert lib.SSL_connect(self.ssl) == 1

    def update(self):
        """Asks for a key update without reading the answer; whether it could be sent."""
        return self.lib.SSL_key_update(self.ssl, 1) == 1 and self.lib.SSL_do_handshake(self.ssl) == 1

    def read(self, size):
        buffer = ctypes.create_string_buffer(size)
        n = self.lib.SSL_read(self.ssl, buffer, size)
        return buffer.raw[: max(n, 0)]

    def write(self, data):
        assert self.lib.SSL_write(self.ssl, data, len(data)) == len(data)

    def close(self):
        self.sock.close()
        self.lib.SSL_free(self.ssl)
        self.lib.SSL_CTX_free(self.context)


@pytest.fixture
def client(world):
    client = Libssl(world[0].address)
    yield client
    client.close()


@pytest.mark.skipif(LIBSSL is None, reason="libssl is not found by its name")
class TestKeyUpdates:
    def test_those_of_a_client_that_does_not_read(self, world, client):
        """RFC 8446 4.6.3: each asks for one in return."""
        gateway, _ = world
        before = memory(gateway)
        for _ in range(200_000):
            if not client.update():
                break
        assert memory(gateway) - before < GROWN

    def test_whoever_reads_may_have_many(self, client):
        for _ in range(300):
            assert client.update()
            client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read(4096).endswith(b"here\n")


def test_refusals_that_are_not_read(world, tmp_path):
    """RFC 5246 7.2.2: whoever asks for a renegotiation is told no, each time; who does not read that is closed."""
    gateway, pki = world
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=pki.cert)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    context.keylog_filename = str(tmp_path / "keys")
    tls = context.wrap_bio(incoming, outgoing, server_hostname="a.example")
    received = b""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(60)
        sock.connect(gateway.address)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                data = sock.recv(65536)
                received += data
                incoming.write(data)
        # from here on we write the records: handshake messages (22) that begin like a ClientHello (1)
        client_random, secret = (tmp_path / "keys").read_text().split("CLIENT_RANDOM ")[1].split()[:2]
        server_random = received[11:43]
        block = prf(bytes.fromhex(secret), b"key expansion", server_random + bytes.fromhex(client_random), 40)
        cipher, salt = AESGCM(block[:16]), block[32:36]
        before, asked = memory(gateway), 1
        with pytest.raises(ConnectionError):
            while True:
                flood = b""
                for _ in range(2000):
                    number = struct.pack("!Q", asked)
                    sealed = cipher.encrypt(salt + number, b"\1\0\0\0", number + b"\x16\3\3\0\4")
                    flood += b"\x16\3\3" + struct.pack("!H", len(sealed) + 8) + number + sealed
                    asked += 1
                sock.sendall(flood)
                assert memory(gateway) - before < GROWN, f"refusals pile up: {asked}"
        assert asked > 2000


def test_a_client_that_leaves_after_its_last_request_is_closed_at_once(world):
    """Its close_notify comes together with the request; nothing is waited for then."""
    gateway, pki = world
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=pki.cert)
    tls = context.wrap_bio(incoming, outgoing, server_hostname="a.example")
    with socket.create_connection(gateway.address, timeout=60) as sock:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        tls.write(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()
        sock.sendall(outgoing.read())
        while data := sock.recv(65536):
            incoming.write(data)
        assert tls.read(4096).endswith(b"here\n")
        # both sides said close_notify: our own end of TCP is not waited for
        deadline = time.monotonic() + 60
        with pytest.raises(ConnectionError):
            while time.monotonic() < deadline:
                sock.send(b"x")
