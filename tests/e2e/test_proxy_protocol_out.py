"""The PROXY protocol towards endpoints: what they read before the client's first byte; HAProxy, nginx and the gateway
itself read it too."""

import contextlib
import ipaddress
import json
import shutil
import socket
import ssl
import struct
import subprocess
import threading

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER
from fastgw.testing import FakeUpstream, GatewayProcess, RawClient, free_port
from fastgw.testing.certificates import Authority
from tests.e2e.test_tcp import PATIENCE, Far, can_connect, config_of, connect, exactly, to_end, until

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def told(data):
    """(version, source, port, target, port) of a header at the beginning of `data`, and what follows it."""
    if data.startswith(b"PROXY "):
        line, _, rest = data.partition(b"\r\n")
        words = line.decode().split(" ")
        if words[1] == "UNKNOWN":
            return (1, None), rest
        return (1, words[2], int(words[4]), words[3], int(words[5])), rest
    assert data.startswith(SIGNATURE + b"\x21")
    family, length = struct.unpack("!BH", data[13:16])
    body, rest = data[16 : 16 + length], data[16 + length :]
    if family == 0:
        return (2, None), rest
    size = {0x11: 4, 0x21: 16}[family]
    source, target = (str(ipaddress.ip_address(body[n : n + size])) for n in (0, size))
    ports = struct.unpack("!HH", body[2 * size :])
    return (2, source, ports[0], target, ports[1]), rest


def header_of(port, service="far", **more):
    return {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "tcp": service, **more}


def service_of(far, version):
    return {"endpoints": [far.url], "proxy_protocol": version}


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_who_the_client_is(version, host):
    port = free_port(host)
    bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with Far() as far:
        config = config_of([header_of(0) | {"bind": bind}], {"far": service_of(far, version)})
        with GatewayProcess(config), socket.create_connection((host, port), timeout=PATIENCE) as client:
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            with far.next() as there:
                found, rest = told(to_end(there)[0])
            assert found == (int(version[1]), host, client.getsockname()[1], host, port)
            assert rest == b"hello"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_at_once(version):
    """An endpoint that speaks first gets it without a byte of the client's."""
    port = free_port()
    with Far() as far, GatewayProcess(config_of([header_of(port)], {"far": service_of(far, version)})):
        client = connect(port)
        with client, far.next() as there:
            found, rest = told(there.recv(200))
            assert found[1:3] == client.getsockname() and rest == b""
            there.sendall(b"220 ready\r\n")
            assert exactly(client, 11) == b"220 ready\r\n"


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 8443\r\n", ("192.0.2.7", 5000, "198.51.100.1", 8443)),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 5000 8443\r\n", ("2001:db8::7", 5000, "2001:db8::1", 8443)),
        (
            SIGNATURE + b"\x21\x11\0\x0c" + bytes([192, 0, 2, 9, 198, 51, 100, 2]) + struct.pack("!HH", 7, 8),
            ("192.0.2.9", 7, "198.51.100.2", 8),
        ),
        (b"PROXY UNKNOWN\r\n", None),
    ],
)
def test_what_a_proxy_before_us_said_goes_on(version, header, expected):
    port = free_port()
    with Far() as far:
        listener = header_of(port, proxy_protocol={"trusted_proxies": ["127.0.0.0/8"]})
        with GatewayProcess(config_of([listener], {"far": service_of(far, version)})), connect(port) as client:
            own = (*client.getsockname(), *client.getpeername())
            client.sendall(header + b"hello")
            client.shutdown(socket.SHUT_WR)
            with far.next() as there:
                found, rest = told(to_end(there)[0])
            assert found == (int(version[1]), *(expected or own)) and rest == b"hello"


@pytest.mark.parametrize(("version", "expected"), [("v1", (1, None)), ("v2", (2, None))])
def test_a_client_without_an_address(tmp_path, version, expected):
    with Far() as far:
        listener = header_of(0) | {"bind": f"unix:{tmp_path}/gateway"}
        config = config_of([listener], {"far": service_of(far, version)})
        with GatewayProcess(config), socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/gateway")
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            with far.next() as there:
                assert told(to_end(there)[0]) == (expected, b"hello")


def test_before_tls_that_passes_through_and_after_tls_that_ends_here(tmp_path):
    leaf = Authority(tmp_path).leaf("a.example")
    through, ends = free_port(), free_port()
    with Far() as far:
        listeners = [
            header_of(through, tls="passthrough"),
            header_of(ends, tls={"certificates": [{"cert": leaf.cert, "key": leaf.key}]}),
        ]
        with GatewayProcess(config_of(listeners, {"far": service_of(far, "v2")})):
            context, outgoing = ssl._create_unverified_context(), ssl.MemoryBIO()
            with contextlib.suppress(ssl.SSLWantReadError):
                context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="a.example").do_handshake()
            hello = outgoing.read()
            with connect(through) as client:
                client.sendall(hello)
                client.shutdown(socket.SHUT_WR)
                with far.next() as there:
                    found, rest = told(to_end(there)[0])
                assert found[1:3] == client.getsockname() and rest == hello
            with context.wrap_socket(connect(ends), server_hostname="a.example") as client:
                client.sendall(b"hello")
                with far.next() as there:
                    found, rest = told(there.recv(200))
                    assert found[1:3] == client.getsockname() and found[3:] == client.getpeername()
                    assert (rest or exactly(there, 5)) == b"hello"


def test_the_next_endpoint_gets_it_too():
    port, nobody = free_port(), free_port()
    with Far() as far:
        service = {"endpoints": [f"tcp://127.0.0.1:{nobody}", far.url], "proxy_protocol": "v1"}
        with GatewayProcess(config_of([header_of(port)], {"far": service})):
            for _ in range(3):
                with connect(port) as client, far.next() as there:
                    assert told(there.recv(200)) == ((1, *client.getsockname(), "127.0.0.1", port), b"")


HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend one
  bind 127.0.0.1:{port} accept-proxy
  http-request return status 200 content-type text/plain lf-string "%[src] %[src_port] %[dst] %[dst_port]"
"""
NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{port} proxy_protocol;
    location / {{ return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr \
$proxy_protocol_server_port"; }}
  }}
}}
"""


@contextlib.contextmanager
def server_of(program, folder):
    port, file = free_port(), folder / "server.conf"
    text, options = (HAPROXY, ["-db", "-f", str(file)]) if program == "haproxy" else (NGINX, ["-c", str(file)])
    file.write_text(text.format(port=port, folder=folder))
    with subprocess.Popen([program, *options], stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: process.poll() is not None or can_connect(port))
            yield port
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("program", ["haproxy", "nginx"])
def test_who_nobody_here_wrote_reads_it(tmp_path, program, version):
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    port = free_port()
    with server_of(program, tmp_path) as there:
        service = {"endpoints": [f"tcp://127.0.0.1:{there}"], "proxy_protocol": version}
        listener = header_of(port, proxy_protocol={"trusted_proxies": ["127.0.0.0/8"], "required": False})
        with GatewayProcess(config_of([listener], {"far": service})):
            for header in (b"", b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n", b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n"):
                with connect(port) as client:
                    client.sendall(header + b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    body = to_end(client)[0].partition(b"\r\n\r\n")[2].decode().split()
                    if header:
                        _, _, source, target, *ports = header.decode().split()
                        expected = [source, ports[0], target, ports[1]]
                    else:
                        own, other = client.getsockname(), client.getpeername()
                        expected = [own[0], str(own[1]), other[0], str(other[1])]
                assert body == expected


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_gateway_reads_its_own(version):
    """A tcp listener in front of one of HTTP: the service is told the client."""
    front, back = free_port(), free_port()

    def play(connection):
        headers = {name.lower(): value for name, value in connection.read_request().headers}
        body = headers["x-forwarded-for"].encode()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    trusted = {"trusted_proxies": ["127.0.0.0/8"]}
    with FakeUpstream(play) as upstream:
        config = {
            "server": {
                "listeners": [
                    header_of(front, "back", proxy_protocol={**trusted, "required": False}),
                    {"bind": f"127.0.0.1:{back}", "proxy_protocol": trusted},
                ]
            },
            "services": {
                "back": {"endpoints": [f"tcp://127.0.0.1:{back}"], "proxy_protocol": version},
                "up": upstream.url,
            },
            "routes": [{"path": "/*", "service": "up"}],
        }
        with GatewayProcess(config):
            for header, client in ((b"", b"127.0.0.1"), (b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n", b"192.0.2.7")):
                with connect(front) as sock:
                    sock.sendall(header + b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    assert to_end(sock)[0].endswith(client)


# --------------------------------------------------------------------------------------------- over HTTP/1.1


class Announced(Far):
    """A service of HTTP/1.1 whose connections begin with a header. An answer tells what it said, which connection this
    is and which request of it; to `/slow` when the test lets it go."""

    def __init__(self, **more):
        self.go = threading.Event()
        self.seen = []
        super().__init__(**more)

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock = self.sock.accept()[0]
                sock.settimeout(PATIENCE)
                self.seen.append(sock)  # before the thread can answer
                threading.Thread(target=self.serve, args=(sock, len(self.seen) - 1), daemon=True).start()

    def serve(self, sock, number):
        data, said, count = b"", None, 0
        with sock, contextlib.suppress(OSError):
            while piece := sock.recv(65536):
                data += piece
                if said is None:
                    if not data.startswith(b"PROXY ") and len(data) < 16:
                        continue
                    said, data = told(data)
                while b"\r\n\r\n" in data:
                    head, _, data = data.partition(b"\r\n\r\n")
                    count += 1
                    if head.startswith(b"GET /slow"):
                        self.go.wait(PATIENCE)
                    body = json.dumps({"told": said, "connection": number, "request": count}).encode()
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def http_config(port, far, version, more=None, **listener):
    service = {"endpoints": [far.url.replace("tcp", "http")], "proxy_protocol": version, **(more or {})}
    return {
        "server": {"listeners": [{"bind": f"127.0.0.1:{port}", **listener}], "trusted_proxies": ["127.0.0.0/8"]},
        "services": {"far": service},
        "routes": [{"path": "/*", "service": "far"}],
    }


def get(client, path="/", header=""):
    response = client.request(f"GET {path} HTTP/1.1\r\nHost: a\r\n{header}\r\n".encode(), "GET")
    assert response.status == 200, response
    return json.loads(response.body)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_http_connections_belong_to_one_client(version):
    """Many requests of two clients, in turns: two connections, each begun with the right header, once."""
    port = free_port()
    with Announced() as far, GatewayProcess(http_config(port, far, version)):
        one, two = RawClient(("127.0.0.1", port)), RawClient(("127.0.0.1", port))
        with one, two:
            found = {0: [], 1: []}
            for _ in range(4):
                for n, client in enumerate((one, two)):
                    # what a trusted proxy says of a request is no matter of the connection
                    found[n].append(get(client, header="X-Forwarded-For: 192.0.2.1\r\n"))
            for n, client in enumerate((one, two)):
                own = [int(version[1]), *client.sock.getsockname(), "127.0.0.1", port]
                assert [answer["told"] for answer in found[n]] == [own] * 4
                assert [answer["request"] for answer in found[n]] == [1, 2, 3, 4]
                assert {answer["connection"] for answer in found[n]} == {n}


def test_http_what_a_proxy_before_us_said_goes_on():
    port = free_port()
    trusted = {"trusted_proxies": ["127.0.0.0/8"]}
    with Announced() as far, GatewayProcess(http_config(port, far, "v1", proxy_protocol=trusted)):
        for n in range(2):
            with RawClient(("127.0.0.1", port)) as client:
                client.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 8443\r\n")
                answer = get(client)
                assert answer["told"] == [1, "192.0.2.7", 5000, "198.51.100.1", 8443]
                # the same client as far as we were told: its connection goes on
                assert (answer["connection"], answer["request"]) == (0, n + 1)


def test_http2_clients_have_connections_of_their_own():
    """All streams of one client connection are one client."""
    port = free_port()
    with Announced() as far, GatewayProcess(http_config(port, far, "v2")):
        import httpx

        http2 = {"http1": False, "http2": True, "timeout": 60}
        with httpx.Client(**http2) as one, httpx.Client(**http2) as two:
            answers = [[client.get(f"http://127.0.0.1:{port}/").json() for _ in range(3)] for client in (one, two)]
    assert [[answer["request"] for answer in given] for given in answers] == [[1, 2, 3]] * 2
    assert [{answer["connection"] for answer in given} for given in answers] == [{0}, {1}]
    assert answers[0][0]["told"][2] != answers[1][0]["told"][2]


def test_http_who_is_idle_gives_way_and_who_waits_gets_a_new_one():
    """With room for one connection: a second client's request takes the place of the first one's idle connection; while
    that is busy it waits, and is then served by a new connection, not by the other client's."""
    port = free_port()
    with Announced() as far, GatewayProcess(http_config(port, far, "v1", {"pool": {"max_connections": 1}})):
        one, two = RawClient(("127.0.0.1", port)), RawClient(("127.0.0.1", port))
        with one, two:
            own = [[1, *client.sock.getsockname(), "127.0.0.1", port] for client in (one, two)]
            assert get(one)["told"] == own[0] and get(two)["told"] == own[1]
            one.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
            until(lambda: len(far.seen) == 3)
            two.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert two.ended(0.2) == "timeout"
            far.go.set()
            first, second = (json.loads(client.response("GET").body) for client in (one, two))
            assert (first["told"], first["connection"]) == (own[0], 2)
            assert (second["told"], second["connection"], second["request"]) == (own[1], 3, 1)


def test_http_pipelined_and_after_a_close():
    port = free_port()
    with Announced() as far, GatewayProcess(http_config(port, far, "v2")), RawClient(("127.0.0.1", port)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        found = [json.loads(client.response("GET").body) for _ in range(3)]
        assert [answer["request"] for answer in found] == [1, 2, 3]
        far.seen[0].shutdown(socket.SHUT_RDWR)  # an idle connection that the service closes
        until(lambda: far.seen[0].fileno() < 0)
        again = get(client)
        assert (again["connection"], again["request"], again["told"]) == (1, 1, found[0]["told"])


@pytest.mark.parametrize("program", ["haproxy", "nginx"])
def test_http_to_who_nobody_here_wrote(tmp_path, program):
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    port = free_port()
    with server_of(program, tmp_path) as there:
        config = http_config(port, Nowhere(there), "v2")
        with GatewayProcess(config):
            for _ in range(2):
                with RawClient(("127.0.0.1", port)) as client:
                    words = client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET").body.decode().split()
                    host, own = client.sock.getsockname()
                    assert words == [host, str(own), "127.0.0.1", str(port)]


class Nowhere:
    """A server of somebody else's at a port."""

    def __init__(self, port):
        self.url = f"tcp://127.0.0.1:{port}"


def test_http_a_reload_turns_it_on_and_off():
    port, admin = free_port(), free_port()
    with Announced() as far:
        def text(version):
            return json.dumps({**http_config(port, far, version), "admin": {"bind": f"127.0.0.1:{admin}"}}) + "\n"

        process = GatewayProcess(text("v1"))
        process.admin_port = admin
        with process as gateway, RawClient(("127.0.0.1", port)) as client:
            assert get(client)["told"][0] == 1
            gateway.file.write_text(text("v2"))
            status, answer = gateway.admin("/config/reload", "POST")
            assert status == 200, answer
            again = get(client)
            assert (again["told"][0], again["request"]) == (2, 1)


@pytest.mark.parametrize(
    ("service", "word"),
    [
        ({"endpoints": ["https://h:1"]}, "comes before TLS"),
        ({"endpoints": ["http://h:1"], "protocol": "h2c"}, "shared by many"),
        ({"endpoints": ["http://h:1"], "proxy_protocol": "v3"}, "'v3' is not one of the choices"),
    ],
)
def test_where_it_is_refused(service, word):
    given = {"services": {"a": {"proxy_protocol": "v2", **service}}, "routes": [{"path": "/*", "service": "a"}]}
    config, problems = check(json.dumps(given) + "\n", resolver=RESOLVER, env={}, file="gateway.yaml")
    assert config is None and [word in str(problem) for problem in problems] == [True]
