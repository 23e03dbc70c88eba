"""What a gRPC client is told when the gateway answers for the service: by grpcio, and by `h2` for the frames."""

import socket
import urllib.parse

import grpc
import h2.config
import h2.connection
import h2.events
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw._core.grpc_status import percent_encoded
from fastgw.testing import FakeUpstream, GatewayProcess, free_port

FRAME = b"\x00\x00\x00\x00\x02hi"


@pytest.fixture(scope="module")
def gateway():
    def play(connection):
        while True:
            request = connection.read_request()
            if request.target == "/slow.S/M":
                connection.read_request()  # never answered
            connection.send(b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 3\r\n\r\ntea")

    with FakeUpstream(play) as upstream:
        config = {
            "server": {"listeners": [{"bind": f"127.0.0.1:{free_port()}"}]},
            "services": {"up": upstream.url, "gone": f"http://127.0.0.1:{free_port()}"},
            "routes": [
                {"path": "/slow.S/*", "service": "up", "timeouts": {"total": "200ms"}},
                {"path": "/teapot.S/*", "service": "up"},
                {"path": "/small.S/*", "service": "up", "limits": {"body_size": "10B"}},
                {"path": "/gone.S/*", "service": "gone"},
                {"path": "/keyed.S/*", "service": "up", "policies": [{"key_auth": {"header": "X-Key"}}]},
                {"path": "/once.S/*", "service": "up",
                 "policies": [{"rate_limit": {"requests": 1, "per": "1h", "by": "route"}}]},
                {"path": "/closed.S/*", "policies": [
                    {"headers": {"response": {"set": {"X-Edge": "yes"}}}},
                    {"respond": {"status": 503, "body": "zurück um 100 %\n"}}]},
                {"path": "/page.S/*", "policies": [
                    {"respond": {"status": 403, "body": "<p>no</p>", "content_type": "text/html"}}]},
                {"path": "/moved.S/*", "policies": [{"redirect": {"location": "https://b.example/"}}]},
                {"path": "/fine.S/*", "policies": [{"respond": {"body": "fine"}}]},
            ],
        }  # fmt: skip
        with GatewayProcess(config) as process:
            process.bind = config["server"]["listeners"][0]["bind"]
            yield process


@pytest.fixture(scope="module")
def call(gateway):
    with grpc.insecure_channel(gateway.bind, options=[("grpc.enable_retries", 0)]) as channel:

        def one(path, body=b"hi"):
            with pytest.raises(grpc.RpcError) as found:
                channel.unary_unary(path)(body, timeout=60)
            return found.value

        yield one


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/nowhere.S/M", grpc.StatusCode.UNIMPLEMENTED, "route"),
        ("/keyed.S/M", grpc.StatusCode.UNAUTHENTICATED, "key"),
        ("/gone.S/M", grpc.StatusCode.UNAVAILABLE, "cannot be reached"),
        ("/slow.S/M", grpc.StatusCode.DEADLINE_EXCEEDED, "longer than its route allows"),
        ("/closed.S/M", grpc.StatusCode.UNAVAILABLE, "zurück um 100 %"),
        ("/page.S/M", grpc.StatusCode.PERMISSION_DENIED, ""),
        ("/moved.S/M", grpc.StatusCode.UNKNOWN, ""),
    ],
)
def test_a_refusal_is_a_grpc_status_with_its_reason(call, path, status, words):
    error = call(path)
    assert error.code() is status
    assert words in error.details() if words else error.details() == ""


def test_a_limit_and_a_body_that_is_too_large(call):
    call("/once.S/M")
    limited = call("/once.S/M")
    assert limited.code() is grpc.StatusCode.UNAVAILABLE and "exhausted" in limited.details()
    assert "retry-after" in {name for name, _ in (*limited.initial_metadata(), *limited.trailing_metadata())}
    large = call("/small.S/M", b"x" * 100_000)
    assert large.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "10 bytes" in large.details()


def test_streams_are_refused_as_well(gateway):
    with grpc.insecure_channel(gateway.bind) as channel:
        endless = (b"x" for _ in iter(int, 1))
        with pytest.raises(grpc.RpcError) as found:
            list(channel.stream_stream("/closed.S/M")(endless, timeout=60))
        assert found.value.code() is grpc.StatusCode.UNAVAILABLE and found.value.details() == "zurück um 100 %"


def raw(address, path, content_type):
    """The answer's events: what is on the wire, by a client that knows nothing of gRPC."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        http.initiate_connection()
        http.send_headers(1, [(":method", "POST"), (":scheme", "http"), (":authority", "a.example"), (":path", path),
                              ("content-type", content_type), ("te", "trailers")])  # fmt: skip
        http.send_data(1, FRAME, end_stream=True)
        sock.sendall(http.data_to_send())
        events = []
        while not any(isinstance(event, h2.events.StreamEnded | h2.events.StreamReset) for event in events):
            data = sock.recv(65536)
            assert data, "the connection ended"
            events += http.receive_data(data)
            sock.sendall(http.data_to_send())
    (response,) = [event for event in events if isinstance(event, h2.events.ResponseReceived)]
    data = [event for event in events if isinstance(event, h2.events.DataReceived)]
    return dict(response.headers), response.stream_ended is not None, b"".join(event.data for event in data)


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "Application/GRPC ; x=y"])
def test_it_is_one_block_of_headers_that_ends_the_stream(gateway, content_type):
    head, ended, body = raw(gateway.bind, "/closed.S/M", content_type)
    assert ended and body == b""
    assert head[":status"] == "200" and head["content-type"] == "application/grpc"
    assert head["grpc-status"] == "14" and head["grpc-message"] == "zur%C3%BCck um 100 %25"
    assert head["x-edge"] == "yes"  # the response hooks ran


@pytest.mark.parametrize("content_type", ["application/json", "application/grpc-web", "application/grpcx"])
def test_what_is_not_grpc_gets_the_http_status(gateway, content_type):
    head, _, body = raw(gateway.bind, "/closed.S/M", content_type)
    assert head[":status"] == "503" and "grpc-status" not in head and body
    head, _, body = raw(gateway.bind, "/nowhere.S/M", content_type)
    assert head[":status"] == "404" and head["content-type"] == "application/problem+json" and b"not_found" in body


def test_what_the_gateway_did_not_refuse_is_left_alone(gateway):
    head, _, body = raw(gateway.bind, "/teapot.S/M", "application/grpc")
    assert head[":status"] == "418" and "grpc-status" not in head and body == b"tea"
    head, _, body = raw(gateway.bind, "/fine.S/M", "application/grpc")
    assert head[":status"] == "200" and "grpc-status" not in head and body == b"fine"


def test_http_1_has_no_grpc(gateway):
    answer = httpx.post(f"http://{gateway.bind}/nowhere.S/M", content=FRAME,
                        headers={"content-type": "application/grpc"}, timeout=60)  # fmt: skip
    assert answer.status_code == 404 and answer.json()["code"] == "not_found"


@given(st.text())
def test_any_reason_is_one_line_of_plain_ascii(text):
    encoded = percent_encoded(text)
    assert all(" " <= char <= "~" for char in encoded)
    told = text.encode("utf-8", "replace").decode()
    assert urllib.parse.unquote(encoded) == told
