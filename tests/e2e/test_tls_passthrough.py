"""TLS that passes through by the name it asks for, to services with certificates of their own."""

import contextlib
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER
from fastgw.testing import GatewayProcess, free_port
from fastgw.testing.certificates import Authority
from tests.e2e.test_tcp import PATIENCE, Far, config_of, connect, exactly, lines_of, metric, to_end, until

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"


class Secure(Far):
    """A server of one certificate. It answers every request with its own name and the one that was asked for."""

    def __init__(self, name, leaf):
        self.name = name
        self.asked = None
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(leaf.cert, leaf.key)
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.sni_callback = self.asked_for
        super().__init__()

    def asked_for(self, tls, name, context):
        tls.asked = name

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock = self.sock.accept()[0]
                sock.settimeout(PATIENCE)
                threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        with sock, contextlib.suppress(OSError), self.context.wrap_socket(sock, server_side=True) as tls:
            if tls.recv(65536):
                text = f"{self.name} {getattr(tls, 'asked', None)}\n".encode()
                tls.sendall(ANSWER % (len(text), text))
                tls.unwrap()


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("passthrough"))


@pytest.fixture(scope="module")
def servers(pki):
    names = {
        "a": ["a.example", "a2.example"],
        "b": ["*.b.example", "x.y.b.example"],
        "deep": ["*.deep.b.example"],
        "rest": ["rest.example"],
    }
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(Secure(name, pki.leaf(*given, file=name))) for name, given in names.items()
        }


ROUTES = [
    {"names": ["a.example", "A2.example"], "service": "a"},
    {"names": ["*.b.example"], "service": "b"},
    {"names": ["*.deep.b.example"], "service": "deep"},
]


@pytest.fixture(scope="module")
def gateway(servers):
    ports = {name: free_port() for name in ("strict", "open", "hurried", "told")}

    def listener(name, **tcp):
        listens = {"bind": f"127.0.0.1:{ports[name]}", "protocol": "tcp", "tls": "passthrough"}
        return {**listens, "tcp": {"sni": ROUTES, **tcp}}

    listeners = [
        listener("strict"),
        listener("open", service="rest"),
        listener("hurried", hello_timeout="400ms"),
        {**listener("told"), "proxy_protocol": {"trusted_proxies": ["127.0.0.0/8"]}},
    ]
    services = {name: server.url for name, server in servers.items()}
    with GatewayProcess(config_of(listeners, services, timeouts={"drain": "1s"})) as process:
        process.ports = ports
        yield process


def talk(sock, context, name):
    """Who answers, and the name the server was asked for."""
    with context.wrap_socket(sock, server_hostname=name) as tls:
        tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        data = b""
        while piece := tls.recv(65536):
            data += piece
        return data.partition(b"\r\n\r\n")[2].decode().split()


def trusting(pki):
    return ssl.create_default_context(cafile=pki.cert)


@pytest.mark.parametrize(
    ("name", "server"),
    [
        ("a.example", "a"),
        ("a2.example", "a"),
        ("A.Example", "a"),
        ("one.b.example", "b"),
        ("x.y.b.example", "b"),
        ("one.deep.b.example", "deep"),
    ],
)
def test_by_name(gateway, pki, name, server):
    """The certificate is checked: it is the service's own."""
    assert talk(connect(gateway.ports["strict"]), trusting(pki), name)[0] == server
    assert talk(connect(gateway.ports["open"]), trusting(pki), name)[0] == server


@pytest.mark.parametrize("name", ["other.example", "b.example", "example", None])
def test_names_nobody_has(gateway, name):
    context = ssl._create_unverified_context()
    before = metric(gateway, "fastgw_errors_total", code="unknown_server_name")
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        talk(connect(gateway.ports["strict"]), context, name)
    until(lambda: metric(gateway, "fastgw_errors_total", code="unknown_server_name") == before + 1)
    assert talk(connect(gateway.ports["open"]), context, name) == ["rest", str(name)]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(("size", "pause"), [(1, 1), (7, 3), (100, 1000), (4000, 1)])
def test_cut_into_records_and_segments(gateway, pki, version, size, pause):
    """`size` bytes of the message in a record, `pause` bytes on the wire at a time. The handshake is a real one."""
    context = trusting(pki)
    context.minimum_version = context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="a.example")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    message = outgoing.read()[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    data = b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)
    with connect(gateway.ports["strict"]) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(data), pause):
            sock.send(data[at : at + pause])
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
            sock.sendall(outgoing.read())
            received = sock.recv(65536)
            assert received, "it was closed"
            incoming.write(received)
        assert tls.version() == ("TLSv1.2" if version == ssl.TLSVersion.TLSv1_2 else "TLSv1.3")
        tls.write(b"GET / HTTP/1.1\r\n\r\n")
        sock.sendall(outgoing.read())
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                assert tls.read().endswith(b"a a.example\n")
                break
            incoming.write(sock.recv(65536))


@pytest.mark.parametrize(
    ("data", "answered"),
    [
        (b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", b""),
        (b"\x16\x03\x01\0\x05\x02\0\0\0\0", b"\x15\x03\x03\0\x02\x02\x32"),
        (b"\x16\x03\x01\x40\x00\x01", b"\x15\x03\x03\0\x02\x02\x32"),
        (b"\x16\x03\x01\0\0", b"\x15\x03\x03\0\x02\x02\x32"),
        (b"\x16\x03\x01" * 30_000, b"\x15\x03\x03\0\x02\x02\x32"),
    ],
)
def test_what_is_no_client_hello(gateway, data, answered):
    before = metric(gateway, "fastgw_errors_total", code="bad_client_hello")
    with connect(gateway.ports["strict"]) as sock:
        sock.sendall(data)
        assert to_end(sock)[0] == answered
    until(lambda: metric(gateway, "fastgw_errors_total", code="bad_client_hello") == before + 1)


def test_half_of_it_and_an_end(gateway):
    with connect(gateway.ports["strict"]) as sock:
        sock.sendall(b"\x16\x03\x01\x02\0\x01")
        sock.shutdown(socket.SHUT_WR)
        assert to_end(sock) == (b"", "eof")
    with connect(gateway.ports["strict"]) as sock:  # who looks whether somebody listens
        sock.shutdown(socket.SHUT_WR)
        assert to_end(sock) == (b"", "eof")


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(200)])
def test_a_hello_that_takes_its_time(gateway, data):
    """A drip does not extend the time."""
    before = metric(gateway, "fastgw_errors_total", code="client_hello_timeout")
    begun = time.monotonic()
    with connect(gateway.ports["hurried"]) as sock:
        with contextlib.suppress(ConnectionError):
            for n in range(len(data)):
                sock.sendall(data[n : n + 1])
                time.sleep(0.01)
                if time.monotonic() - begun > 1:
                    break
        assert to_end(sock)[0] == b""
    assert 0.3 < time.monotonic() - begun < 30
    until(lambda: metric(gateway, "fastgw_errors_total", code="client_hello_timeout") == before + 1)


def test_what_the_access_log_says(gateway, pki):
    talk(connect(gateway.ports["strict"]), trusting(pki), "one.b.example")
    until(lambda: lines_of(gateway, None, protocol="tls", host="one.b.example", service="b", status=200))
    with pytest.raises(ssl.SSLError):
        talk(connect(gateway.ports["strict"]), ssl._create_unverified_context(), "log.example")
    until(lambda: lines_of(gateway, "unknown_server_name", host="log.example", status=421, service=None))


def test_after_the_proxy_protocol(gateway, pki):
    sock = connect(gateway.ports["told"])
    sock.sendall(b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 443\r\n")
    assert talk(sock, trusting(pki), "a.example")[0] == "a"
    until(lambda: lines_of(gateway, None, client="192.0.2.7", host="a.example"))


@pytest.mark.parametrize("options", [["-tls1_2"], ["-tls1_3"], ["-tls1_3", "-alpn", "h2,http/1.1"]])
def test_openssl(gateway, pki, options):
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{gateway.ports['strict']}", "-servername", "a.example"]
    command += ["-CAfile", str(pki.cert), "-verify_return_error", "-verify_hostname", "a.example", "-ign_eof", *options]
    done = subprocess.run(command, input=b"GET / HTTP/1.1\r\n\r\n", capture_output=True, timeout=60)
    assert b"a a.example\n" in done.stdout and b"Verification: OK" in done.stdout, done.stderr
    assert (b"ALPN protocol: http/1.1" in done.stdout) == ("-alpn" in options)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(gateway, pki):
    port = gateway.ports["strict"]
    for name, server in (("a.example", "a"), ("one.b.example", "b")):
        where = ["--resolve", f"{name}:{port}:127.0.0.1", "--cacert", str(pki.cert)]
        done = subprocess.run(["curl", "-sS", *where, f"https://{name}:{port}/"], capture_output=True, timeout=60)
        assert done.stdout.decode() == f"{server} {name}\n", done.stderr


def test_a_reload_changes_where_names_go(servers, pki):
    port, admin = free_port(), free_port()

    def text(service):
        routes = [{"names": ["a.example"], "service": service}]
        listener = {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "tls": "passthrough", "tcp": {"sni": routes}}
        config = config_of([listener], {service: servers[service].url}, workers=1)
        return json.dumps({**config, "admin": {"bind": f"127.0.0.1:{admin}"}}) + "\n"

    process = GatewayProcess(text("a"))
    process.admin_port = admin
    context = ssl._create_unverified_context()
    with process as gateway, context.wrap_socket(connect(port), server_hostname="a.example") as goes_on:
        gateway.file.write_text(text("rest"))
        status, answer = gateway.admin("/config/reload", "POST")
        assert status == 200, answer
        assert talk(connect(port), context, "a.example")[0] == "rest"
        goes_on.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert goes_on.recv(65536).endswith(b"a a.example\n")


def test_a_hello_under_way_does_not_hold_a_drain(servers):
    port = free_port()
    tcp = {"service": "a", "hello_timeout": "30s"}
    listener = {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "tls": "passthrough", "tcp": tcp}
    with GatewayProcess(config_of([listener], {"a": servers["a"].url})) as gateway, connect(port) as sock:
        sock.sendall(b"\x16\x03\x01\x02\0\x01")
        talk(connect(port), ssl._create_unverified_context(), "a.example")  # it was accepted after the first one
        gateway.signal(15)
        assert to_end(sock)[0] == b""
        assert gateway.wait(60) == 0


def test_a_slow_server_stops_the_client_and_nothing_is_lost(pki):
    """Bytes that came in one piece with the ClientHello go on with it."""
    port = free_port()
    with Far() as far:
        listener = {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "tls": "passthrough", "tcp": "far"}
        with GatewayProcess(config_of([listener], {"far": far.url})), connect(port) as client:
            context, outgoing = ssl._create_unverified_context(), ssl.MemoryBIO()
            with contextlib.suppress(ssl.SSLWantReadError):
                context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="a.example").do_handshake()
            data = outgoing.read() + bytes(range(256)) * 20_000
            sender = threading.Thread(target=client.sendall, args=(data,))
            sender.start()
            with far.next() as there:
                assert exactly(there, len(data)) == data
            sender.join(PATIENCE)


A = {"names": ["a.example"], "service": "a"}


@pytest.mark.parametrize(
    ("listener", "word"),
    [
        ({"tls": "passthrough"}, "TLS that passes through is not HTTP"),
        ({"protocol": "tcp", "tls": "passthru", "tcp": "a"}, "'passthru' is not one of the choices"),
        ({"protocol": "tcp", "tls": "passthrough"}, "nobody says where connections go"),
        ({"protocol": "tcp", "tls": "passthrough", "tcp": {}}, "nobody says where connections go"),
        ({"protocol": "tcp", "tcp": {"service": "a", "sni": [A]}}, "`sni` is for TLS that passes through"),
        ({"protocol": "tcp", "tcp": {"service": "a", "hello_timeout": "1s"}}, "`hello_timeout` is for TLS"),
        ({"protocol": "tcp", "tls": "passthrough", "tcp": {"sni": [A, A]}}, "'a.example' is already at sni[0]"),
        ({"protocol": "tcp", "tls": "passthrough", "tcp": {"sni": [{**A, "service": "b"}]}}, "no service 'b'"),
        ({"protocol": "tcp", "tls": "passthrough", "tcp": {"sni": [{**A, "names": ["a.*"]}]}}, "is not a host name"),
        ({"protocol": "tcp", "tls": "passthrough", "tcp": {"sni": [{**A, "names": []}]}}, "sni[0].names"),
    ],
)
def test_what_does_not_go_together(listener, word):
    text = json.dumps({"server": {"listeners": [{"bind": ":9000", **listener}]}, "services": {"a": "tcp://h:1"}}) + "\n"
    config, problems = check(text, resolver=RESOLVER, env={}, file="gateway.yaml")
    assert config is None and any(word in str(problem) for problem in problems), problems


def test_the_page_tells_all_codes():
    page = (Path(__file__).parents[2] / "docs" / "tcp.md").read_text()
    for code in ("bad_client_hello", "client_hello_timeout", "unknown_server_name"):
        assert re.search(rf"^\| `{code}`", page, re.MULTILINE)
