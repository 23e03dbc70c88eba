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

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER
from fastgw.testing import FakeUpstream, GatewayProcess, free_port
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
            process.wait(10)


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


def test_where_it_is_refused():
    text = json.dumps({
        "services": {"a": {"endpoints": ["http://h:1"], "proxy_protocol": "v2"}},
        "routes": [{"path": "/*", "service": "a"}],
    })  # fmt: skip
    config, problems = check(text + "\n", resolver=RESOLVER, env={}, file="gateway.yaml")
    assert config is None and ["belong to one client" in str(problem) for problem in problems] == [True]
