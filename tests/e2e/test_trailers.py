"""Fields after the chunked body of an answer: to clients of HTTP/2, where the service says so, and to nobody else."""

import h2.events
import pytest

from fastgw.testing import FakeUpstream, GatewayProcess, free_port
from fastgw.testing.client import RawClient
from fastgw.testing.upstream import chunked
from tests.e2e.test_http2 import Http2Client

HEAD = b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
EVIL = (
    b"Authorization: a\r\nHost: b\r\nSet-Cookie: c=1\r\nCache-Control: public\r\nContent-Type: text/html\r\n"
    b"Access-Control-Allow-Origin: *\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: X-Named\r\nX-Named: d\r\n"
)
LARGE = 50_000
PATHS = {
    "/sum": b"X-Sum: 42\r\nX-Other: one, two \r\n",
    "/none": b"",
    "/evil": EVIL,
    "/mixed": EVIL + b"X-Sum: 42\r\n",
    "/many": b"".join(b"x-%d: 1\r\n" % i for i in range(300)),
    "/huge": b"X-Sum: " + b"a" * 100_000 + b"\r\n",
}


@pytest.fixture(scope="module")
def upstream():
    def play(connection):
        while True:
            request = connection.read_head()
            if request.target == "/early":
                connection.send(HEAD + chunked([b"ok"], b"X-Sum: 42\r\n"))
                while True:
                    connection.read_more()          # until the gateway leaves
            if request.target == "/large":
                connection.send(HEAD + chunked([b"x" * LARGE], b"X-Sum: 42\r\n"))
            elif request.target == "/bytes":
                connection.send(HEAD)
                for byte in chunked([b"ok"], b"X-Sum: 42\r\nX-Last: 1\r\n"):
                    connection.send(bytes([byte]))
            elif request.target == "/cut":
                connection.send(HEAD + b"2\r\nok\r\n0\r\nX-Sum: 4")
                return
            else:
                connection.send(HEAD + chunked([b"o", b"k"], PATHS[request.target]))

    with FakeUpstream(play) as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(upstream):
    port = free_port()
    config = {
        "server": {"listeners": [{"bind": f"127.0.0.1:{port}"}]},
        "services": {"on": {"endpoints": [upstream.url], "response_trailers": True}, "off": upstream.url},
        "routes": [
            {"path": "/off/*", "service": "off", "strip_prefix": "/off"},
            {"path": "/*", "service": "on"},
        ],
    }
    with GatewayProcess(config) as process:
        process.only_port = port
        yield process


@pytest.fixture
def client(gateway):
    with Http2Client(gateway.only_port) as one:
        yield one


@pytest.mark.parametrize(
    ("path", "trailers"),
    [
        ("/sum", {"x-sum": "42", "x-other": "one, two"}),
        ("/bytes", {"x-sum": "42", "x-last": "1"}),
        ("/mixed", {"x-sum": "42"}),
        ("/none", {}),
        ("/evil", {}),
        ("/many", {}),
        ("/off/sum", {}),
        ("/off/bytes", {}),
    ],
)
def test_to_a_client_of_http2(client, path, trailers):
    status, head, body, found = client.answer(client.request(path))
    assert (status, body, found) == (200, b"ok", trailers)
    assert "trailer" not in head and "x-sum" not in head


def test_each_answer_has_its_own(client, upstream):
    before = len(upstream.connections)
    for path, trailers in (("/sum", 2), ("/none", 0), ("/mixed", 1), ("/evil", 0), ("/sum", 2)):
        status, _, body, found = client.answer(client.request(path))
        assert (status, body, len(found)) == (200, b"ok", trailers), path
    assert len(upstream.connections) - before <= 1, "the connection to the upstream was not used again"


def test_after_a_body_that_waited_for_the_client(gateway):
    with Http2Client(gateway.only_port, window=1000) as slow:
        status, _, body, found = slow.answer(slow.request("/large"))
    assert (status, len(body), found) == (200, LARGE, {"x-sum": "42"})


def test_of_an_answer_before_the_end_of_the_upload(client):
    stream = client.request("/early", method="POST", body=b"part", end=False)
    status, _, body, found = client.answer(stream)
    assert (status, body, found) == (200, b"ok", {"x-sum": "42"})
    assert client.answer(client.request("/sum"))[2] == b"ok"


@pytest.mark.parametrize("path", ["/huge", "/cut"])
def test_those_out_of_bounds_or_cut_end_the_stream_as_a_failure(client, path):
    stream = client.request(path)
    while not client.of(stream, h2.events.StreamReset) and not client.of(stream, h2.events.StreamEnded):
        assert client.read(), "the connection ended"
    answered = client.of(stream, h2.events.ResponseReceived)
    reset = client.of(stream, h2.events.StreamReset)
    assert reset or dict(answered[0].headers)[":status"] == "502"
    assert not client.of(stream, h2.events.TrailersReceived)
    # the connection and its other streams go on
    assert client.answer(client.request("/sum"))[2] == b"ok"


@pytest.mark.parametrize("path", ["/sum", "/bytes"])
def test_clients_of_http1_get_the_body_alone(gateway, path):
    with RawClient(("127.0.0.1", gateway.only_port)) as one:
        head = f"GET {path} HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nConnection: TE\r\n\r\n"
        answer = one.request(head.encode())
        assert (answer.status, bytes(answer.body), answer.trailers) == (200, b"ok", [])
