"""HTTP/2 of clients: what a request over it is to the rest of the gateway, by clients that know nothing of us."""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess

import h2.config
import h2.connection
import h2.events
import h2.settings
import httpx
import pytest

from fastgw.testing import FakeUpstream, GatewayProcess, free_port
from fastgw.testing.certificates import Authority
from tests.patience import until

BIG = 2_000_000
PLAIN = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def run(*command):
    """What a program of others says."""
    return subprocess.run(command, capture_output=True, timeout=30, check=False, env=PLAIN)


class Http2Client:
    """One connection by the `h2` library, with its bytes at hand."""

    def __init__(self, port, host="127.0.0.1", window=None):
        self.sock = socket.create_connection((host, port), timeout=60)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        if window is not None:
            self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.flush()
        self.events = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def flush(self):
        self.sock.sendall(self.h2.data_to_send())

    def request(self, path="/", method="GET", headers=(), body=None, end=True, authority="a.example"):
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path), *headers]
        self.h2.send_headers(stream, head, end_stream=body is None and end)
        if body is not None:
            self.h2.send_data(stream, body, end_stream=end)
        self.flush()
        return stream

    def read(self):
        """The events of one receive; [] at the end."""
        data = self.sock.recv(65536)
        if not data:
            return []
        found = self.h2.receive_data(data)
        for event in found:
            if isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()
        self.events += found
        return found

    def of(self, stream, kind):
        return [event for event in self.events if isinstance(event, kind) and event.stream_id == stream]

    def answer(self, stream):
        """Status, headers, body and trailers of a stream."""
        while not self.of(stream, h2.events.StreamEnded) and not self.of(stream, h2.events.StreamReset):
            assert self.read(), "the connection ended"
        head = dict(self.of(stream, h2.events.ResponseReceived)[0].headers)
        body = b"".join(event.data for event in self.of(stream, h2.events.DataReceived))
        trailers = [dict(event.headers) for event in self.of(stream, h2.events.TrailersReceived)]
        return int(head[":status"]), head, body, trailers[0] if trailers else {}


@pytest.fixture(scope="module")
def upstream():
    def play(connection):
        while True:
            request = connection.read_request()
            if request.target.startswith("/early"):
                connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n")
            if request.target == "/big":
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG + b"x" * BIG)
                continue
            if request.target == "/cut":
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
                return
            told = json.dumps({"line": request.start, "headers": request.headers, "body": len(request.body)}).encode()
            connection.send(b"HTTP/1.1 200 OK\r\nX-Upper: Case\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n"
                            % len(told) + told)

    with FakeUpstream(play) as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, upstream):
    pki = Authority(tmp_path_factory.mktemp("pki"))
    pair = pki.leaf("a.example")
    ports = {"plain": free_port(), "tls": free_port(), "off": free_port()}
    config = {
        "server": {
            "listeners": [
                {"bind": f"127.0.0.1:{ports['plain']}"},
                {"bind": f"127.0.0.1:{ports['tls']}", "tls": {"certificates": [{"cert": pair.cert, "key": pair.key}]}},
                {"bind": f"127.0.0.1:{ports['off']}", "http2": False},
            ],
            "timeouts": {"body": "1s", "header": "1s", "idle": "2s"},
            "limits": {"body_size": "4MiB", "requests_per_connection": 300, "header_count": 50},
        },
        "services": {"up": upstream.url},
        "routes": [
            {"path": "/local", "policies": [{"respond": {"body": "here\n"}}]},
            {"path": "/small/*", "service": "up", "limits": {"body_size": "10B"}},
            {"path": "/*", "service": "up"},
        ],
    }
    with GatewayProcess(config) as process:
        process.ports, process.pki = ports, pki
        yield process


@pytest.fixture
def client(gateway):
    with Http2Client(gateway.ports["plain"]) as one:
        yield one


def test_what_the_upstream_sees(client):
    stream = client.request("/a%20b/../c?q=1", headers=[
        ("x-one", "1"), ("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("user-agent", "me")])  # fmt: skip
    status, head, body, _ = client.answer(stream)
    told = json.loads(body)
    headers = {name.lower(): value for name, value in told["headers"]}
    assert status == 200 and head["x-upper"] == "Case" and "connection" not in head
    assert told["line"] == "GET /c?q=1 HTTP/1.1"
    assert headers["host"] == "a.example" and headers["cookie"] == "a=1; b=2" and headers["x-one"] == "1"
    assert "te" not in headers and "content-length" not in headers and "transfer-encoding" not in headers
    assert headers["x-forwarded-proto"] == "http"


@pytest.mark.parametrize("length", [True, False])
def test_a_body_goes_up(client, length):
    headers = [("content-length", "5")] if length else []
    status, _, body, _ = client.answer(client.request("/x", "POST", headers, b"hello"))
    told = json.loads(body)
    names = {name.lower() for name, _ in told["headers"]}
    assert status == 200 and told["body"] == 5
    assert ("content-length" in names) == length and ("transfer-encoding" in names) != length


def test_many_at_a_time(client):
    streams = [client.request(f"/n{n}") for n in range(100)]
    for n, stream in enumerate(streams):
        assert json.loads(client.answer(stream)[2])["line"] == f"GET /n{n} HTTP/1.1"


def test_head_and_bodiless_answers(client):
    status, head, body, _ = client.answer(client.request("/local", "HEAD"))
    assert (status, head["content-length"], body) == (200, "5", b"")


def test_interim_answers(client):
    stream = client.request("/early")
    assert client.answer(stream)[0] == 200
    (early,) = client.of(stream, h2.events.InformationalResponseReceived)
    assert dict(early.headers)[":status"] == "103" and dict(early.headers)["link"] == "</a>; rel=preload"


def test_a_large_answer_and_a_small_window(gateway):
    with Http2Client(gateway.ports["plain"], window=1000) as client:
        assert len(client.answer(client.request("/big"))[2]) == BIG


def test_an_answer_that_is_cut_resets_its_stream_alone(client):
    cut = client.request("/cut")
    fine = client.request("/fine")
    assert client.answer(fine)[0] == 200
    while not client.of(cut, h2.events.StreamReset):
        client.read()
    assert client.of(cut, h2.events.StreamReset)[0].error_code == 2
    assert client.answer(client.request("/again"))[0] == 200


def test_limits(client, gateway):
    assert client.answer(client.request("/small/x", "POST", body=b"0123456789"))[0] == 200
    assert client.answer(client.request("/small/x", "POST", body=b"0123456789a"))[0] == 413
    assert client.answer(client.request("/small/x", "POST", [("content-length", "11")], b"0123456789a"))[0] == 413
    assert client.answer(client.request("/" + "x" * 9000))[0] == 414
    assert client.answer(client.request("/", headers=[(f"x-{n}", "1") for n in range(60)]))[0] == 431
    with Http2Client(gateway.ports["plain"]) as other:
        other.h2.remote_settings.acknowledge()
        assert other.answer(other.request("/", headers=[(f"x-{n}", "y" * 3000) for n in range(12)]))[0] == 431
    # the connection is as good as before
    assert client.answer(client.request("/fine"))[0] == 200


def test_an_early_answer_ends_the_upload(client):
    stream = client.request("/small/x", "POST", body=b"x" * 100, end=False)
    while not client.of(stream, h2.events.StreamReset):
        assert client.read()
    assert client.of(stream, h2.events.StreamReset)[0].error_code == 0
    assert client.answer(client.request("/fine"))[0] == 200


def test_a_body_that_stops(client):
    stream = client.request("/x", "POST", body=b"abc", end=False)
    status, _, body, _ = client.answer(stream)
    assert status == 408 and json.loads(body)["code"] == "body_timeout"


def test_a_client_that_takes_its_request_back(gateway):
    with Http2Client(gateway.ports["plain"]) as client:
        stream = client.request("/x", "POST", body=b"abc", end=False)
        client.h2.reset_stream(stream, 8)
        client.flush()
        assert client.answer(client.request("/fine"))[0] == 200


@pytest.mark.skipif(not shutil.which("h2load"), reason="there is no h2load")
def test_the_end_of_a_connection_is_announced(gateway):
    """After so many requests of one connection; those that are under way are answered."""
    url = f"http://127.0.0.1:{gateway.ports['plain']}/local"
    done = run("h2load", "-n300", "-c1", "-m10", url)
    assert b"300 succeeded, 0 failed" in done.stdout, done.stdout
    done = run("nghttp", "-nv", "-m301", url)
    assert b"recv GOAWAY" in done.stdout and b"NO_ERROR" in done.stdout


def test_an_idle_connection_is_ended(gateway):
    with Http2Client(gateway.ports["plain"]) as client:
        assert client.answer(client.request("/local"))[0] == 200
        while client.read():
            pass
        last = [event for event in client.events if isinstance(event, h2.events.ConnectionTerminated)][-1]
        assert last.error_code == 0


def test_where_it_is_off(gateway):
    with socket.create_connection(("127.0.0.1", gateway.ports["off"]), timeout=60) as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 505")


def test_the_preface_in_pieces(gateway):
    with socket.create_connection(("127.0.0.1", gateway.ports["plain"]), timeout=60) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0":
            sock.sendall(bytes([byte]))
        data = b""
        while len(data) < 9:
            data += sock.recv(100)
        assert data[3] == 4                          # SETTINGS


def test_httpx_over_tls(gateway):
    context = ssl.create_default_context(cafile=gateway.pki.cert)
    context.check_hostname = False
    with httpx.Client(http1=False, http2=True, verify=context, timeout=60) as client:
        url = f"https://127.0.0.1:{gateway.ports['tls']}"
        for _ in range(5):
            found = client.post(f"{url}/x", content=b"z" * 100_000)
            assert found.http_version == "HTTP/2" and found.json()["body"] == 100_000
            told = {name.lower(): value for name, value in found.json()["headers"]}
            assert told["x-forwarded-proto"] == "https"
        assert len(client.get(f"{url}/big").content) == BIG


def test_records(gateway):
    with Http2Client(gateway.ports["plain"]) as client:
        client.answer(client.request("/recorded"))
    line = until(lambda: next((line for line in gateway.stdout.splitlines() if "/recorded" in line), None))
    assert json.loads(line)["protocol"] == "HTTP/2"
    text = gateway.admin("/metrics")[1]
    assert float(re.search(r"^fastgw_http2_connections_total (\S+)$", text, re.MULTILINE)[1]) >= 1
    assert float(re.search(r"^fastgw_http2_streams_total (\S+)$", text, re.MULTILINE)[1]) >= 1


@pytest.mark.skipif(not shutil.which("h2load"), reason="there is no h2load")
def test_h2load(gateway):
    url = f"http://127.0.0.1:{gateway.ports['plain']}/fine"
    done = run("h2load", "-n600", "-c6", "-m20", url)
    assert b"600 succeeded, 0 failed" in done.stdout, done.stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_curl(gateway):
    port = gateway.ports["tls"]
    place = f"a.example:{port}:127.0.0.1"
    url = f"https://a.example:{port}/fine"
    command = ["curl", "-sS", "--http2", "-w", "%{http_version}", "-o", "/dev/null", "--cacert", gateway.pki.cert]
    done = run(*command, "--resolve", place, "-d", "x" * 100_000, url)
    assert done.stdout == b"2", done.stderr
