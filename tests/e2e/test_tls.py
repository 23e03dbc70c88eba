"""TLS to clients and to upstreams, by programs that know nothing of us: Python's ssl, curl, openssl."""

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fastgw.testing import GatewayProcess, free_port
from fastgw.testing.certificates import Authority
from tests.patience import until

BIG = 3_000_000


class Seen(BaseHTTPRequestHandler):
    """Answers with what it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/cut":
            # ends without close_notify in the middle of a body that only the end of the connection ends
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\npart")
            raw = self.connection.detach() if hasattr(self.connection, "detach") else -1
            sock = socket.socket(fileno=raw)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
            sock.close()
            self.close_connection = True
            return
        if self.path == "/to-the-end":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\nwhole")
            self.connection.unwrap()
            self.close_connection = True
            return
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        peer = self.connection.getpeercert() or {}
        told = json.dumps({
            "headers": self.headers.items(),
            "read": len(body),
            "resumed": self.connection.session_reused,
            "client": str(peer.get("subject")),
            "port": self.client_address[1],
        }).encode()
        told += b" " * (BIG if self.path == "/big" else 0)
        self.send_response(200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_POST = do_GET

    def log_message(self, *_):
        pass


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass


@contextlib.contextmanager
def https_server(pair, client_ca=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    server = QuietServer(("127.0.0.1", 0), Seen)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class World:
    gateway: GatewayProcess
    pki: Authority
    other: Authority
    ports: dict
    client: object
    revoked: object

    def connect(self, listener="main", name="a.example", context=None, **options):
        """A connected SSLSocket."""
        context = context or self.context(**options)
        sock = socket.create_connection(("127.0.0.1", self.ports[listener]), timeout=60)
        try:
            return context.wrap_socket(sock, server_hostname=name)
        except BaseException:
            sock.close()
            raise

    def context(self, pair=None, version=None, ciphers=None, alpn=None):
        context = ssl.create_default_context(cafile=self.pki.cert)
        if pair:
            context.load_cert_chain(pair.cert, pair.key)
        if version:
            context.minimum_version = context.maximum_version = version
        if ciphers:
            context.set_ciphers(ciphers)
        if alpn:
            context.set_alpn_protocols(alpn)
        return context

    def metric(self, name, **labels):
        text = self.gateway.admin("/metrics")[1]
        want = ",".join(f'{key}="{value}"' for key, value in labels.items())
        return float(re.search(rf"^{name}_total\{{{want}\}} (\S+)$", text, re.MULTILINE)[1])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    pki, other = Authority(folder / "pki"), Authority(folder / "other", "another CA")
    a, rsa = pki.leaf("a.example"), pki.leaf("a.example", kind="rsa", file="a-rsa")
    b, c = pki.leaf("*.b.example", file="b"), pki.intermediate().leaf("c.example")
    client, revoked = pki.client("mobile-app"), pki.client("stolen")
    names = ["main", "strict", "mtls", "request", "plain", "tickets"]
    ports = {name: free_port() for name in names}
    certificates = [
        {"cert": a.cert, "key": a.key, "ocsp": pki.ocsp(a)},
        {"cert": rsa.cert, "key": rsa.key},
        {"cert": b.cert, "key": b.key},
        {"cert": c.cert, "key": c.key},
    ]
    one = [{"cert": a.cert, "key": a.key}]
    clients = {"certificates": one, "client_ca": pki.cert}
    with contextlib.ExitStack() as stack:
        up = stack.enter_context(https_server(pki.leaf("up.internal"), client_ca=pki.cert))
        anyone = stack.enter_context(https_server(pki.leaf("up.internal", "127.0.0.1", file="anyone")))
        stranger = stack.enter_context(https_server(other.leaf("up.internal")))
        shown = pki.client("gateway")
        config = {
            "server": {
                "workers": 2,
                "listeners": [
                    {"bind": f"127.0.0.1:{ports['main']}", "tls": {
                        "certificates": certificates, "hsts": {"max_age": "2d", "include_subdomains": True},
                        "redirect_http": {"bind": f"127.0.0.1:{ports['plain']}"},
                    }},
                    {"bind": f"127.0.0.1:{ports['strict']}", "tls": {
                        "certificates": one, "unknown_sni": "refuse", "profile": "modern",
                        "handshake": {"timeout": "1s", "per_address": 2},
                    }},
                    {"bind": f"127.0.0.1:{ports['mtls']}", "tls": {
                        **clients, "client_auth": "require", "crl": pki.crl(revoked)}},
                    {"bind": f"127.0.0.1:{ports['request']}", "tls": {**clients, "client_auth": "request"}},
                    {"bind": f"127.0.0.1:{ports['tickets']}", "tls": {
                        "certificates": one, "tickets": {"enabled": False}, "max_version": "1.2"}},
                ],
            },
            "services": {
                "up": {"endpoints": [f"https://127.0.0.1:{up}"], "tls": {
                    "server_name": "up.internal", "ca": pki.cert, "cert": shown.cert, "key": shown.key}},
                "by-address": {"endpoints": [f"https://127.0.0.1:{anyone}"], "tls": {"ca": pki.cert}},
                "wrong-name": {"endpoints": [f"https://127.0.0.1:{anyone}"], "tls": {
                    "server_name": "other.internal", "ca": pki.cert}},
                "stranger": {"endpoints": [f"https://127.0.0.1:{stranger}"], "tls": {
                    "server_name": "up.internal", "ca": pki.cert}},
                "system": {"endpoints": [f"https://127.0.0.1:{anyone}"]},
                "unchecked": {"endpoints": [f"https://127.0.0.1:{stranger}"], "tls": {"verify": False}},
                "unshown": {"endpoints": [f"https://127.0.0.1:{up}"], "tls": {
                    "server_name": "up.internal", "ca": pki.cert}},
                "plain-there": f"https://127.0.0.1:{ports['plain']}",
            },
            "routes": [
                {"path": "/local", "policies": [{"respond": {"body": "here\n"}}]},
                *({"path": f"/{name}/*", "service": name, "strip_prefix": f"/{name}"} for name in (
                    "up", "by-address", "wrong-name", "stranger", "system", "unchecked", "unshown", "plain-there")),
            ],
        }  # fmt: skip
        config["server"]["limits"] = {"body_size": "100MiB"}
        gateway = stack.enter_context(GatewayProcess(config))
        yield World(gateway, pki, other, ports, client, revoked)


def ask(sock, path="/local", headers="", method="GET", body=b""):
    """Status, head and body of one answer with a length."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: a.example\r\n{headers}{length}\r\n".encode() + body)
    return answer(sock)


def answer(sock):
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        assert more, f"ended after {data!r}"
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
    while len(rest) < length:
        more = sock.recv(262144)
        assert more, "ended in the body"
        rest += more
    return int(head.split()[1]), head.decode("latin-1"), rest


def names_of(sock):
    return [value for _, value in sock.getpeercert()["subjectAltName"]]


# ------------------------------------------------------------------------------------------------- versions, names


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(world, version):
    with world.connect(version=version) as sock:
        for _ in range(3):
            status, head, body = ask(sock)
            assert (status, body) == (200, b"here\n")
            assert "Strict-Transport-Security: max-age=172800; includeSubDomains" in head


@pytest.mark.parametrize(("name", "served"), [
    ("a.example", ["a.example"]),
    ("A.EXAMPLE", ["a.example"]),
    ("x.b.example", ["*.b.example"]),
    ("c.example", ["c.example"]),
    (None, ["a.example"]),
    ("nobody.example", ["a.example"]),
    ("x.y.b.example", ["a.example"]),
])  # fmt: skip
def test_the_certificate_of_a_name(world, name, served):
    context = world.context()
    context.check_hostname = name not in (None, "nobody.example", "x.y.b.example") and name.islower()
    with world.connect(name=name, context=context) as sock:
        assert names_of(sock) == served
        assert ask(sock)[0] == 200


@pytest.mark.parametrize(("ciphers", "kind"), [("ECDHE+aECDSA", "ecdsa"), ("ECDHE+aRSA", "rsa")])
def test_two_kinds_of_keys_side_by_side(world, ciphers, kind):
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    with world.connect(version=ssl.TLSVersion.TLSv1_2, ciphers=ciphers) as sock:
        key = x509.load_der_x509_certificate(sock.getpeercert(binary_form=True)).public_key()
        assert isinstance(key, RSAPublicKey) == (kind == "rsa")


def test_an_unknown_name_can_be_refused(world):
    before = world.metric("fastgw_tls_handshake_failures", reason="name")
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        world.connect("strict", name="nobody.example")
    until(lambda: world.metric("fastgw_tls_handshake_failures", reason="name") == before + 1)
    with world.connect("strict") as sock:
        assert sock.version() == "TLSv1.3"
    with pytest.raises(ssl.SSLError):
        world.connect("strict", version=ssl.TLSVersion.TLSv1_2)
    until(lambda: world.metric("fastgw_tls_handshake_failures", reason="version") >= 1)


def test_alpn(world):
    with world.connect(alpn=["h3", "http/1.1"]) as sock:
        assert sock.selected_alpn_protocol() == "http/1.1"
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        world.connect(alpn=["spdy/3"])
    with world.connect() as sock:
        assert sock.selected_alpn_protocol() is None


# ------------------------------------------------------------------------------------------------- sessions


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_go_on_in_any_worker(world, version):
    context = world.context(version=version)
    with world.connect(context=context) as sock:
        ask(sock)
        session = sock.session
    for _ in range(8):                               # over both workers, as the kernel deals them out
        raw = socket.create_connection(("127.0.0.1", world.ports["main"]), timeout=60)
        with context.wrap_socket(raw, server_hostname="a.example", session=session) as sock:
            assert ask(sock)[0] == 200
            assert sock.session_reused
            session = sock.session


def test_without_tickets_every_handshake_is_whole(world):
    context = world.context()
    with world.connect("tickets", context=context) as sock:
        assert sock.version() == "TLSv1.2"
        session = sock.session
        assert not session.has_ticket
    raw = socket.create_connection(("127.0.0.1", world.ports["tickets"]), timeout=60)
    with context.wrap_socket(raw, server_hostname="a.example", session=session) as sock:
        assert not sock.session_reused


# ------------------------------------------------------------------------------------------------- who the client is


def test_a_client_certificate_is_required(world):
    with world.connect("mtls", pair=world.client) as sock:
        claimed = "X-Client-Cert-Subject: CN=root\r\nx-client-cert-foo: a\r\n"
        status, _, body = ask(sock, "/by-address/x", headers=claimed)
        assert status == 200
        told = {k.lower(): v for k, v in json.loads(body)["headers"]}
    assert told["x-client-cert-subject"] == "CN=mobile-app"
    assert told["x-client-cert-san"] == "DNS:mobile-app"
    assert told["x-client-cert-issuer"] == "CN=fastgw test CA"
    assert re.fullmatch("[0-9a-f]{64}", told["x-client-cert-fingerprint"])
    assert "x-client-cert-foo" not in told
    before = world.metric("fastgw_tls_handshake_failures", reason="certificate")
    for pair in (None, world.revoked, world.other.client("mobile-app")):
        # in TLS 1.3 the client hears of it with its first read
        with pytest.raises((ssl.SSLError, ConnectionError)), world.connect("mtls", pair=pair) as sock:
            ask(sock)
    until(lambda: world.metric("fastgw_tls_handshake_failures", reason="certificate") == before + 3)


def test_a_client_certificate_is_asked_for(world):
    for pair in (None, world.client):
        with world.connect("request", pair=pair) as sock:
            headers = json.loads(ask(sock, "/by-address/x", "X-Client-Cert-Subject: CN=root\r\n")[2])["headers"]
            told = [value for name, value in headers if name.lower() == "x-client-cert-subject"]
            assert told == (["CN=mobile-app"] if pair else [])
    stranger = world.other.client("mobile-app")
    with pytest.raises((ssl.SSLError, ConnectionError)), world.connect("request", pair=stranger) as sock:
        ask(sock)


def test_what_clients_say_of_certificates_goes_nowhere_on_other_listeners_either(world):
    with world.connect() as sock:
        told = json.loads(ask(sock, "/by-address/x", "X-Client-Cert-Subject: CN=root\r\n")[2])["headers"]
    assert not [name for name, _ in told if name.lower().startswith("x-client-cert")]


# ------------------------------------------------------------------------------------------------- upstreams


def test_an_upstream_is_checked_and_shown_a_certificate(world):
    with world.connect() as sock:
        first = json.loads(ask(sock, "/up/x")[2])
        assert "gateway" in first["client"]
        told = {k.lower(): v for k, v in first["headers"]}
        assert told["x-forwarded-proto"] == "https"
        # a pooled connection is used again
        assert json.loads(ask(sock, "/up/x")[2])["port"] == first["port"]


@pytest.mark.parametrize(("path", "status"), [
    ("/by-address/x", 200), ("/wrong-name/x", 502), ("/stranger/x", 502), ("/system/x", 502), ("/unchecked/x", 200),
    ("/plain-there/x", 502),
])  # fmt: skip
def test_who_is_trusted(world, path, status):
    with world.connect() as sock:
        got, _, body = ask(sock, path)
    assert got == status
    if status == 502:
        assert json.loads(body)["code"] == "upstream_tls_failed"


def test_an_upstream_that_wants_a_certificate_gets_none(world):
    with world.connect() as sock:
        assert ask(sock, "/unshown/x")[0] == 502


def test_sessions_with_upstreams_go_on(world):
    """A connection that ended is followed by one that resumes its session."""
    with world.connect() as sock:                    # one connection: one worker
        for _ in range(30):                          # first those go that other tests left in the pool
            sock.sendall(b"GET /by-address/to-the-end HTTP/1.1\r\nHost: a.example\r\n\r\n")
            assert b"whole" in read_all(sock)
            if json.loads(ask(sock, "/by-address/x")[2])["resumed"]:
                return
    pytest.fail("no session was resumed")


def read_all(sock):
    data = b""
    sock.settimeout(60)
    with contextlib.suppress(TimeoutError, ssl.SSLError, ConnectionError):
        while not data.endswith(b"0\r\n\r\n"):
            more = sock.recv(65536)
            if not more:
                break
            data += more
    return data


def test_a_cut_is_no_end(world):
    with world.connect() as sock:
        sock.sendall(b"GET /by-address/to-the-end HTTP/1.1\r\nHost: a.example\r\n\r\n")
        assert read_all(sock).endswith(b"5\r\nwhole\r\n0\r\n\r\n")
    with world.connect() as sock:
        sock.sendall(b"GET /by-address/cut HTTP/1.1\r\nHost: a.example\r\n\r\n")
        assert not read_all(sock).endswith(b"0\r\n\r\n")


# ------------------------------------------------------------------------------------------------- bodies


def test_bodies_both_ways(world):
    body = os.urandom(BIG)
    with world.connect() as sock:
        status, _, told = ask(sock, "/by-address/big", method="POST", body=body)
        assert status == 200 and json.loads(told)["read"] == BIG and len(told) > BIG


def test_a_slow_reader_gets_everything(world):
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    raw.settimeout(60)
    raw.connect(("127.0.0.1", world.ports["main"]))
    with world.context().wrap_socket(raw, server_hostname="a.example") as sock:
        sock.sendall(b"GET /by-address/big HTTP/1.1\r\nHost: a.example\r\n\r\n")
        assert len(answer(sock)[2]) > BIG


def test_requests_that_come_together_and_in_pieces(world):
    with world.connect() as sock:
        sock.sendall(b"GET /local HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
        data = b""
        while data.count(b"here\n") < 20:
            data += sock.recv(65536)
        for byte in b"GET /local HTTP/1.1\r\nHost: a\r\n\r\n":
            sock.send(bytes([byte]))
        assert answer(sock)[0] == 200


# ------------------------------------------------------------------------------------------------- what is no TLS


def test_plain_http_is_told(world):
    with socket.create_connection(("127.0.0.1", world.ports["main"]), timeout=60) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"plain_http" in sock.recv(4096)
        assert sock.recv(4096) == b""


@pytest.mark.parametrize("data", [
    b"\x00" * 300, os.urandom(300), b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\xff\xff" + b"a" * 70000,
    b"SSH-2.0-OpenSSH\r\n", b"\x15\x03\x01\x00\x02\x02\x28",
])  # fmt: skip
def test_garbage_is_closed(world, data):
    with socket.create_connection(("127.0.0.1", world.ports["main"]), timeout=60) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
        with contextlib.suppress(ConnectionError):
            while sock.recv(4096):
                pass
    with world.connect() as sock:
        assert ask(sock)[0] == 200


def test_a_slow_handshake_is_closed(world):
    before = world.metric("fastgw_tls_handshake_failures", reason="timeout")
    with socket.create_connection(("127.0.0.1", world.ports["strict"]), timeout=60) as sock:
        sock.sendall(b"\x16\x03\x01")
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            assert sock.recv(100) == b""
        assert time.monotonic() - began > 0.8
    until(lambda: world.metric("fastgw_tls_handshake_failures", reason="timeout") == before + 1)


def test_handshakes_of_one_address_are_bounded(world):
    """Two in each of the two workers may be under way."""
    before = world.metric("fastgw_tls_handshake_failures", reason="busy")
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", world.ports["strict"]), timeout=60))
            sock.sendall(b"\x16")
        deadline = time.monotonic() + 60
        while world.metric("fastgw_tls_handshake_failures", reason="busy") == before:
            assert time.monotonic() < deadline
    deadline = time.monotonic() + 60
    while True:
        try:
            with world.connect("strict") as sock:
                assert ask(sock)[0] == 200
                break
        except (ConnectionError, ssl.SSLError):
            assert time.monotonic() < deadline


def test_a_record_that_was_changed_ends_the_connection(world):
    """Ciphertext is cut and flipped under a connection that works."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = world.context().wrap_bio(incoming, outgoing, server_hostname="a.example")
    with socket.create_connection(("127.0.0.1", world.ports["main"]), timeout=60) as sock:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        sock.sendall(outgoing.read())
        tls.write(b"GET /local HTTP/1.1\r\nHost: a\r\n\r\n")
        record = bytearray(outgoing.read())
        record[-1] ^= 1
        sock.sendall(record)
        data = b""
        with contextlib.suppress(ConnectionError):
            while more := sock.recv(65536):
                data += more
        assert b"here" not in data


def test_http_is_sent_to_https(world):
    with socket.create_connection(("127.0.0.1", world.ports["plain"]), timeout=60) as sock:
        sock.sendall(b"POST /x//y?q=1 HTTP/1.1\r\nHost: a.example:80\r\nContent-Length: 2\r\n\r\nab")
        status, head, _ = answer(sock)
        assert status == 308
        assert f"Location: https://a.example:{world.ports['main']}/x/y?q=1\r\n" in head
        assert "Strict-Transport-Security" not in head


# ------------------------------------------------------------------------------------------------- other programs


PLAIN = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def run(*command, data=b"", timeout=60):
    return subprocess.run(command, input=data, capture_output=True, timeout=timeout, check=False, env=PLAIN)


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
@pytest.mark.parametrize("options", [
    [], ["--tlsv1.3"], ["--tls-max", "1.2"], ["--ciphers", "ECDHE-RSA-AES256-GCM-SHA384", "--tls-max", "1.2"],
])  # fmt: skip
def test_curl(world, options):
    port = world.ports["main"]
    url = f"https://a.example:{port}/local"
    place = f"a.example:{port}:127.0.0.1"
    done = run("curl", "-sS", "--cacert", world.pki.cert, "--resolve", place, *options, url, url)
    assert done.stdout == b"here\nhere\n", done.stderr


@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl")
class TestOpenssl:
    def s_client(self, world, *options, listener="main", data=b"Q\n"):
        address = f"127.0.0.1:{world.ports[listener]}"
        done = run("openssl", "s_client", "-connect", address, "-CAfile", world.pki.cert, *options, data=data)
        return (done.stdout + done.stderr).decode(errors="replace")

    def test_the_staple(self, world):
        assert "OCSP Response Status: successful" in self.s_client(world, "-servername", "a.example", "-status")
        assert "OCSP response: no response sent" in self.s_client(world, "-servername", "x.b.example", "-status")

    def test_the_chain(self, world):
        said = self.s_client(world, "-servername", "c.example", "-showcerts")
        assert said.count("BEGIN CERTIFICATE") == 2 and "Verify return code: 0 (ok)" in said

    def test_renegotiation_is_refused(self, world):
        said = self.s_client(world, "-servername", "a.example", "-tls1_2", data=b"R\n")
        assert "RENEGOTIATING" in said and "no renegotiation" in said.lower()

    def test_a_key_update_changes_nothing(self, world):
        address = f"127.0.0.1:{world.ports['main']}"
        with subprocess.Popen(
            ["openssl", "s_client", "-connect", address, "-crlf", "-servername", "a.example"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=PLAIN,
        ) as process:  # fmt: skip
            for send, wait in ((b"K\n", b"KEYUPDATE"), (b"GET /local HTTP/1.1\nHost: a\n\n", b"here\n")):
                process.stdin.write(send)
                process.stdin.flush()
                out = b""
                while wait not in out:
                    more = process.stdout.read1(65536)
                    assert more, out
                    out += more
            process.stdin.close()

    def test_old_versions_and_weak_ciphers_are_refused(self, world):
        for options in (["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], ["-tls1_2", "-cipher", "AES128-SHA"]):
            assert "Cipher is (NONE)" in self.s_client(world, "-servername", "a.example", *options)
