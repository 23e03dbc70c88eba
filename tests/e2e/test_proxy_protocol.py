"""Load balancers that tell the client's address: by hand, by HAProxy and by curl, before HTTP/1.1, HTTP/2 and TLS."""

import contextlib
import ipaddress
import json
import re
import shutil
import socket
import ssl
import struct
import subprocess
import time
from pathlib import Path

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER
from fastgw.testing import FakeUpstream, GatewayProcess, RawClient, free_port
from fastgw.testing.certificates import Authority
from tests.patience import until

GET = b"GET /who HTTP/1.1\r\nHost: a.example\r\n\r\n"
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 80\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
TRUSTED = {"trusted_proxies": ["127.0.0.0/8"]}


def v2(address, command=0x21, tlvs=b""):
    packed = ipaddress.ip_address(address).packed
    family = 0x11 if len(packed) == 4 else 0x21
    body = packed * 2 + struct.pack("!HH", 5000, 80) + tlvs
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


@pytest.fixture(scope="module")
def upstream():
    def play(connection):
        while True:
            told = {name.lower(): value for name, value in connection.read_request().headers}
            body = json.dumps({name: told.get(name) for name in ("x-forwarded-for", "x-forwarded-proto")}).encode()
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with FakeUpstream(play) as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, upstream):
    folder = tmp_path_factory.mktemp("proxy")
    pair = Authority(folder).leaf("a.example")
    names = ("required", "optional", "stranger", "tls")
    ports = {name: free_port() for name in names}
    bind = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    unix = f"unix:{folder}/gateway.sock"
    config = {
        "server": {
            "listeners": [
                {"bind": bind["required"], "proxy_protocol": {**TRUSTED, "timeout": "1s"}},
                {"bind": bind["optional"], "proxy_protocol": {**TRUSTED, "required": False, "timeout": "300ms"}},
                {"bind": bind["stranger"], "proxy_protocol": {"trusted_proxies": ["10.0.0.0/8"]}},
                {
                    "bind": bind["tls"],
                    "proxy_protocol": TRUSTED,
                    "tls": {"certificates": [{"cert": pair.cert, "key": pair.key}]},
                },
                {"bind": unix, "proxy_protocol": TRUSTED},
            ],
            "limits": {"connections_per_address": 3},
        },
        "services": {"up": upstream.url},
        "routes": [{"path": "/*", "service": "up"}],
    }
    with GatewayProcess(config) as process:
        process.ports, process.unix = ports, unix.removeprefix("unix:")
        yield process


def metric(gateway, name, **labels):
    text = gateway.admin("/metrics")[1]
    wanted = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return float(re.search(rf"^{name}_total{{{wanted}}} (\S+)$", text, re.M)[1])


def client_of(gateway, data, name="required", target=None):
    """Whom the upstream is told when a connection begins with `data`."""
    with RawClient(target or ("127.0.0.1", gateway.ports[name])) as client:
        response = client.request(data + GET, "GET")
        assert response.status == 200
        return json.loads(response.body)["x-forwarded-for"]


@pytest.mark.parametrize(
    ("header", "address"),
    [
        (V1, "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n", "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", "192.0.2.7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (v2("192.0.2.7"), "192.0.2.7"),
        (v2("2001:db8::7"), "2001:db8::7"),
        (v2("192.0.2.7", tlvs=b"\x04\x0f\xa0" + bytes(4000)), "192.0.2.7"),
        (v2("192.0.2.7", command=0x20), "127.0.0.1"),
        (SIGNATURE + b"\x21\x00\0\0", "127.0.0.1"),
        (SIGNATURE + b"\x21\x31\0\xd8" + bytes(216), "127.0.0.1"),
    ],
)
def test_whose_connection_it_is(gateway, header, address):
    assert client_of(gateway, header) == address
    assert client_of(gateway, header, "optional") == address


@pytest.mark.parametrize("header", [V1, v2("192.0.2.9")])
def test_byte_by_byte(gateway, header):
    with RawClient(("127.0.0.1", gateway.ports["required"])) as client:
        client.send_pieces(header)
        assert client.request(GET, "GET").status == 200


def test_two_requests_of_one_connection(gateway):
    with RawClient(("127.0.0.1", gateway.ports["required"])) as client:
        assert client.request(V1 + GET, "GET").status == 200
        assert json.loads(client.request(GET, "GET").body)["x-forwarded-for"] == "192.0.2.7"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (GET, "missing"),
        (b"\x16\x03\x01\x02\0\x01", "missing"),
        (b"PROXY TCP4 1.1.1.1 1.1.1.1 x 1\r\n", "malformed"),
        (b"PROXY TCP4 " + b"1" * 120, "malformed"),
        (SIGNATURE + b"\x21\x11\xff\xff", "malformed"),
        (SIGNATURE + b"\x31\x11\0\x0c" + bytes(12), "malformed"),
        (b"", "timeout"),
        (V1[:10], "timeout"),
        (v2("192.0.2.7")[:20], "timeout"),
    ],
)
def test_what_is_closed(gateway, data, reason):
    before = metric(gateway, "fastgw_proxy_protocol_failures", reason=reason)
    with RawClient(("127.0.0.1", gateway.ports["required"])) as client:
        client.send(data)
        assert client.ended(60) in ("eof", "reset")
    until(lambda: metric(gateway, "fastgw_proxy_protocol_failures", reason=reason) == before + 1)


def test_a_drip_does_not_extend_the_time(gateway):
    with RawClient(("127.0.0.1", gateway.ports["required"])) as client:
        sent = 0
        while sent < len(V1) and client.ended(0.05) == "timeout":
            client.send(V1[sent : sent + 1])
            sent += 1
        assert sent < len(V1), "the time for the header is a second"


def test_the_sender_leaves(gateway):
    before = metric(gateway, "fastgw_proxy_protocol_failures", reason="closed")
    with RawClient(("127.0.0.1", gateway.ports["required"])) as client:
        client.send(V1[:10])
        client.half_close()
        assert client.ended(60) in ("eof", "reset") and client.rest() == b""
    until(lambda: metric(gateway, "fastgw_proxy_protocol_failures", reason="closed") == before + 1)


def test_it_may_be_left_out_where_it_is_optional(gateway):
    assert client_of(gateway, b"", "optional") == "127.0.0.1"
    with RawClient(("127.0.0.1", gateway.ports["optional"])) as client:
        time.sleep(0.5)  # longer than the time for the header: who is silent may begin later
        assert client.request(GET, "GET").status == 200


def test_a_stranger_is_not_believed(gateway):
    assert client_of(gateway, b"", "stranger") == "127.0.0.1"
    with RawClient(("127.0.0.1", gateway.ports["stranger"])) as client:
        assert client.request(V1 + GET, "GET").status == 400


def test_a_unix_socket(gateway):
    assert client_of(gateway, V1, target=gateway.unix) == "192.0.2.7"


def test_limits_are_those_of_the_address_told(gateway):
    with contextlib.ExitStack() as stack:
        def begin(header):
            client = stack.enter_context(RawClient(("127.0.0.1", gateway.ports["required"])))
            return client.request(header + GET, "GET").status

        assert [begin(v2("203.0.113.5")) for _ in range(4)] == [200, 200, 200, 503]
        assert [begin(v2(f"203.0.113.{n}")) for n in range(10, 20)] == [200] * 10


def test_before_tls(gateway):
    context = ssl._create_unverified_context()
    with socket.create_connection(("127.0.0.1", gateway.ports["tls"]), timeout=60) as sock:
        sock.sendall(V1)
        with context.wrap_socket(sock, server_hostname="a.example") as secure:
            secure.sendall(GET)
            told = json.loads(secure.recv(65536).partition(b"\r\n\r\n")[2])
    assert told == {"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("options", [["--http1.1"], ["--http2-prior-knowledge"], ["-k", "--http2"]])
def test_curl(gateway, options):
    name, scheme = ("tls", "https") if "-k" in options else ("required", "http")
    url = f"{scheme}://127.0.0.1:{gateway.ports[name]}/who"
    done = subprocess.run(["curl", "-sS", *options, "--haproxy-protocol", url], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["x-forwarded-for"] == "127.0.0.1"


HAPROXY = """
defaults
  mode tcp
  timeout connect 5s
  timeout client 5s
  timeout server 5s
listen one
  bind 127.0.0.1:{front} accept-proxy
  server gateway 127.0.0.1:{back} {send}
"""


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs HAProxy")
@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"])
def test_haproxy(gateway, tmp_path, send):
    """HAProxy reads our header and says the same of the client in its own."""
    front = free_port()
    file = tmp_path / "haproxy.cfg"
    file.write_text(HAPROXY.format(front=front, back=gateway.ports["required"], send=send))
    with subprocess.Popen(["haproxy", "-db", "-f", str(file)], stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 60
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", front), timeout=1):
                    break
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.02)
            headers = {"192.0.2.7": V1, "2001:db8::7": v2("2001:db8::7"), "192.0.2.8": v2("192.0.2.8")}
            for address, header in headers.items():
                assert client_of(gateway, header, target=("127.0.0.1", front)) == address
        finally:
            process.terminate()
            process.wait(60)


def test_what_waits_when_the_gateway_stops(upstream):
    """A header that is on its way does not hold a drain; a request that is there whole is answered."""
    port = free_port()
    config = {
        "server": {"listeners": [{"bind": f"127.0.0.1:{port}", "proxy_protocol": {**TRUSTED, "timeout": "30s"}}]},
        "services": {"up": upstream.url},
        "routes": [{"path": "/*", "service": "up"}],
    }
    with GatewayProcess(config) as gateway, RawClient(("127.0.0.1", port)) as client:
        with RawClient(("127.0.0.1", port)) as other:  # served after the first one was accepted
            assert other.request(V1 + GET, "GET").status == 200
        client.send(V1[:10])
        gateway.signal(15)
        assert gateway.wait(60) == 0


def test_the_page_is_true():
    page = (Path(__file__).parents[2] / "docs" / "proxy-protocol.md").read_text()
    first, second = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    config, problems = check(second, resolver=RESOLVER, env={}, file="page.yaml")
    assert [str(problem) for problem in problems] == [] and config.services["redis"].proxy_protocol == "v2"
    config, problems = check(first, resolver=RESOLVER, env={}, file="page.yaml")
    assert [str(problem) for problem in problems] == []
    assert str(config.server.listeners[0].proxy_protocol.trusted_proxies[0]) == "10.0.0.0/8"


@pytest.mark.parametrize("value", ["true", "{}", "{trusted_proxies: []}", "{trusted_proxies: [x]}", "[10.0.0.0/8]"])
def test_who_is_trusted_is_said(value):
    text = f"server: {{listeners: [{{bind: ':8080', proxy_protocol: {value}}}]}}\n"
    config, problems = check(text, resolver=RESOLVER, env={}, file="gateway.yaml")
    assert config is None and any("proxy_protocol" in str(problem) for problem in problems)


def test_a_reload_turns_it_off_and_on(upstream):
    port = free_port()
    listener = {"bind": f"127.0.0.1:{port}", "proxy_protocol": {**TRUSTED, "timeout": "30s"}}
    config = {
        "server": {"listeners": [listener], "workers": 1},
        "services": {"up": upstream.url},
        "routes": [{"path": "/*", "service": "up"}],
    }
    with GatewayProcess(config) as gateway:
        gateway.ports = {"required": port}
        on = gateway.file.read_text()
        assert client_of(gateway, V1) == "192.0.2.7"
        with RawClient(("127.0.0.1", port)) as waiting:
            waiting.send(V1[:10])
            assert client_of(gateway, V1) == "192.0.2.7"  # it was accepted before this one
            off = re.sub(r" *proxy_protocol:\n *trusted_proxies:\n *- 127.*\n *timeout: 30s\n", "", on)
            for text, header, address in (
                (off, b"", "127.0.0.1"),
                (on, V1, "192.0.2.7"),
            ):
                gateway.file.write_text(text)
                status, answer = gateway.admin("/config/reload", "POST")
                assert status == 200, answer
                assert client_of(gateway, header) == address
            # a connection goes on as it was accepted
            told = json.loads(waiting.request(V1[10:] + GET, "GET").body)
            assert told["x-forwarded-for"] == "192.0.2.7"
