"""Checks by grpc.health.v1, against the servicer that grpcio brings, and against answers that are none."""

import asyncio
import functools
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fastgw.config.schema.address import parse_origin
from fastgw.config.schema.health import HealthCheck
from fastgw.config.schema.tls import UpstreamTls
from fastgw.testing import FakeUpstream
from fastgw.testing.certificates import Authority
from fastgw.testing.demo_grpc import LibraryServer
from fastgw.upstreams.grpc_health import MAX_BYTES, STATUSES, messages
from fastgw.upstreams.health import Check, trust_of
from tests.e2e.test_tls import https_server


def in_a_loop(test):
    @functools.wraps(test)
    def run(**given):
        asyncio.run(test(**given))

    return run


@contextmanager
def served(address="127.0.0.1:0", credentials=None):
    """(The servicer, its port.)"""
    backend = grpc.server(futures.ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, backend)
    port = backend.add_insecure_port(address) if credentials is None else backend.add_secure_port(address, credentials)
    backend.start()
    try:
        yield servicer, port
    finally:
        backend.stop(0)


def check(url, trust=None, name=None, **options):
    return Check(HealthCheck(**{"type": "grpc", "timeout": 10, **options}), parse_origin(url), None, trust, name)


def test_the_messages_are_those_of_the_protocol():
    ours, theirs = messages()
    assert list(health_pb2.HealthCheckResponse.ServingStatus.keys()) == list(STATUSES)
    text = ours(service="a.B").SerializeToString()
    assert health_pb2.HealthCheckRequest.FromString(text).service == "a.B"
    text = health_pb2.HealthCheckResponse(status="NOT_SERVING").SerializeToString()
    assert theirs.FromString(text).status == 2


@in_a_loop
async def test_what_a_server_says_of_itself_and_of_its_services():
    with served() as (servicer, port):
        servicer.set("library.v1.Library", health_pb2.HealthCheckResponse.NOT_SERVING)
        servicer.set("new.Service", health_pb2.HealthCheckResponse.UNKNOWN)
        url = f"http://127.0.0.1:{port}"
        assert await check(url).run("127.0.0.1") == ""
        one = check(url, service="library.v1.Library")
        assert await one.run("127.0.0.1") == "NOT_SERVING"
        servicer.set("library.v1.Library", health_pb2.HealthCheckResponse.SERVING)
        assert await one.run("127.0.0.1") == ""
        assert await check(url, service="new.Service").run("127.0.0.1") == "UNKNOWN"
        assert (await check(url, service="nobody").run("127.0.0.1")).startswith("grpc-status 5")
        servicer.enter_graceful_shutdown()
        assert await one.run("127.0.0.1") == "NOT_SERVING"


@in_a_loop
async def test_a_server_without_the_health_service_is_not_well():
    backend = grpc.server(futures.ThreadPoolExecutor(2))
    port = backend.add_insecure_port("127.0.0.1:0")
    backend.start()
    try:
        assert (await check(f"http://127.0.0.1:{port}").run("127.0.0.1")).startswith("grpc-status 12")
    finally:
        backend.stop(0)


@in_a_loop
async def test_the_demo_service_is_well():
    with LibraryServer() as library:
        assert await check(library.url).run("127.0.0.1") == ""
        assert await check(library.url, service=library.service).run("127.0.0.1") == ""
        assert (await check(library.url, service="nobody").run("127.0.0.1")).startswith("grpc-status 5")


@in_a_loop
async def test_unix_sockets(tmp_path):
    with served(f"unix:{tmp_path}/s"):
        assert await check(f"unix://{tmp_path}/s").run(f"{tmp_path}/s") == ""


def test_over_tls_with_a_certificate_of_its_own(tmp_path):
    pki = Authority(tmp_path / "pki")
    server, shown = pki.leaf("library.internal"), pki.client("gateway")
    ca, cert, key = (Path(path).read_bytes() for path in (pki.cert, shown.cert, shown.key))
    pair = [(Path(server.key).read_bytes(), Path(server.cert).read_bytes())]
    credentials = grpc.ssl_server_credentials(pair, root_certificates=ca, require_client_auth=True)
    trust = trust_of(UpstreamTls(), ca, cert, key, http2=True)

    async def run(port):
        url = f"https://127.0.0.1:{port}"
        assert await check(url, trust, "library.internal").run("127.0.0.1") == ""
        assert (await check(url, trust, "orders.internal").run("127.0.0.1")).startswith("TLS")
        # without a certificate of its own it is refused, with TLS 1.3 not before it has sent something
        assert await check(url, trust_of(UpstreamTls(), ca, b"", b"", http2=True), "library.internal").run("127.0.0.1")

    with served("127.0.0.1:0", credentials) as (_, port):
        asyncio.run(run(port))


def test_an_endpoint_that_has_only_http1_over_tls(tmp_path):
    pki = Authority(tmp_path / "pki")
    trust = trust_of(UpstreamTls(), Path(pki.cert).read_bytes(), b"", b"", http2=True)
    with https_server(pki.leaf("users.internal")) as port:
        why = asyncio.run(check(f"https://127.0.0.1:{port}", trust, "users.internal").run("127.0.0.1"))
    assert why == "the endpoint does not agree to HTTP/2"


class Script:
    """An HTTP/2 server that answers the first stream as it is told to."""

    def __init__(self, answer):
        self.answer = answer
        self.seen = []

    def play(self, connection):
        side = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, validate_outbound_headers=False))
        side.initiate_connection()
        while True:
            connection.send(side.data_to_send())
            before = len(connection.received)
            connection.read_more()
            data = connection.received[before:]
            for event in side.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    self.seen.append(dict(event.headers))
                if isinstance(event, h2.events.StreamEnded):
                    self.answer(side, event.stream_id)
            if side.state_machine.state is h2.connection.ConnectionState.CLOSED:
                connection.send(side.data_to_send())
                connection.hang()                     # what the other side still says has no place in a closed one
                return


OK = [(":status", "200"), ("content-type", "application/grpc")]
SERVING = b"\0\0\0\0\2\x08\x01"


def whole(body, trailers=(("grpc-status", "0"),)):
    def answer(side, stream):
        side.send_headers(stream, OK)
        side.send_data(stream, body)
        side.send_headers(stream, list(trailers), end_stream=True)

    return answer


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (whole(SERVING), ""),
        (whole(b"\0\0\0\0\2\x08\x02"), "NOT_SERVING"),
        (whole(b"\0\0\0\0\2\x08\x07"), "7"),
        (whole(b"\0\0\0\0\0"), "UNKNOWN"),
        (whole(SERVING, [("grpc-status", "14"), ("grpc-message", "too%20busy")]), "grpc-status 14: too busy"),
        (whole(SERVING, [("x", "y")]), "grpc-status missing"),
        (whole(SERVING + SERVING), "the answer is not one of gRPC"),
        (whole(b""), "the answer is not one of gRPC"),
        (whole(SERVING[:-1]), "the answer is not one of gRPC"),
        (whole(b"\1" + SERVING[1:]), "the answer is not one of gRPC"),
        (whole(b"\0\0\1\0\0"), "the answer is not one of gRPC"),
        (whole(b"\0\0\0\0\2\xff\xff"), "the answer is not one of gRPC"),
        (lambda side, stream: side.send_headers(stream, [(":status", "503")], end_stream=True), "status 503"),
        (lambda side, stream: side.reset_stream(stream, 7), "the call was refused: REFUSED_STREAM"),
        (lambda side, stream: side.close_connection(11), "the call was refused: ENHANCE_YOUR_CALM"),
    ],
)
def test_answers_to_a_check(answer, why):
    script = Script(answer)
    with FakeUpstream(script.play) as up:
        assert asyncio.run(check(up.url, service="a.B", host="library.internal").run("127.0.0.1")) == why
    (head,) = script.seen
    text = {name.decode(): value.decode() for name, value in head.items()}
    assert text[":path"] == "/grpc.health.v1.Health/Check" and text[":authority"] == "library.internal"
    assert text["te"] == "trailers" and text["content-type"] == "application/grpc"
    assert text["grpc-timeout"] == "10000m"


def test_endpoints_that_are_something_else():
    def http1(connection):
        connection.read_more()
        connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        connection.hang()

    def talks_for_ever(connection):
        connection.send(b"\0\0\0\4\0\0\0\0\0")                 # SETTINGS
        while True:                                             # and frames of a kind that nobody knows
            connection.send((b"\0\x40\0\xf0\0\0\0\0\0" + bytes(16384)) * 4)

    def leaves(connection):
        connection.read_more()

    for play, why in (
        (http1, "the answer is not HTTP/2"),
        (talks_for_ever, f"the answer is longer than {MAX_BYTES} bytes"),
        (leaves, "the connection ended before the answer"),
    ):
        with FakeUpstream(play) as up:
            assert asyncio.run(check(up.url).run("127.0.0.1")) == why

    with FakeUpstream(lambda connection: connection.hang()) as up:
        assert asyncio.run(check(up.url, timeout=0.2).run("127.0.0.1")) == "no answer in 0.2 s"
