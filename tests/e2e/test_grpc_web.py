"""gRPC-Web, as browsers speak it, against a grpcio server: frames by hand, messages by real stubs."""

import base64
import http.client
import json
import time

import grpc
import httpx
import pytest

from fastgw.protocols.grpc_frames import TRAILERS, FrameReader, frame
from fastgw.protocols.grpc_web import TextDecoder, parse_trailers
from tests.e2e.library import ORIGIN, SERVICE, stubs, world


@pytest.fixture(scope="module")
def here():
    with world() as (library, gateway):
        yield library, gateway


@pytest.fixture(scope="module")
def pb(tmp_path_factory):
    return stubs(tmp_path_factory.mktemp("stubs"))[0]


@pytest.fixture(params=["h1", "h2"])
def client(request, here):
    _, gateway = here
    with httpx.Client(base_url=f"http://{gateway.bind}", http1=request.param == "h1", http2=request.param == "h2",
                      timeout=60) as one:  # fmt: skip
        yield one


class Answer:
    """A gRPC-Web answer taken apart."""

    def __init__(self, response, kind):
        self.http = response
        body = response.content
        if "-text" in kind:
            decoder = TextDecoder()
            body = decoder.feed(body)
            decoder.end()
        reader = FrameReader(2**24)
        frames = reader.feed(body)
        reader.end()
        assert [flags for flags, _ in frames][:-1] == [0] * (len(frames) - 1)
        assert frames[-1][0] == TRAILERS, "the trailers are the last frame"
        self.messages = [message for _, message in frames[:-1]]
        self.trailers = dict(parse_trailers(frames[-1][1]))
        self.status = int(self.trailers["grpc-status"])


def call(client, method, *messages, kind="application/grpc-web+proto", path=SERVICE, headers=None):
    body = b"".join(frame(message.SerializeToString()) for message in messages)
    if "-text" in kind:
        body = base64.b64encode(body)
    response = client.post(f"{path}/{method}", content=body, headers={"Content-Type": kind, "X-Grpc-Web": "1",
                                                                       **(headers or {})})  # fmt: skip
    assert response.status_code == 200
    assert response.headers["content-type"] == kind
    return Answer(response, kind)


KINDS = ["application/grpc-web+proto", "application/grpc-web", "application/grpc-web-text+proto"]


@pytest.mark.parametrize("kind", KINDS[::2])
def test_unary(client, pb, kind):
    answer = call(client, "GetBook", pb.GetBookRequest(name="shelves/1/books/1"), kind=kind)
    assert pb.Book.FromString(answer.messages[0]).title == "Emma"
    assert answer.status == 0
    assert answer.trailers["x-shelf"] == "shelves/1"
    assert "grpc-status" not in answer.http.headers


def test_a_type_without_codec_is_protobuf(client, pb):
    response = client.post(f"{SERVICE}/Echo", content=frame(pb.EchoRequest(text="x").SerializeToString()),
                           headers={"Content-Type": "application/grpc-web"})  # fmt: skip
    assert response.headers["content-type"] == "application/grpc-web+proto"
    assert pb.EchoResponse.FromString(Answer(response, "").messages[0]).text == "x"


def test_the_answer_is_text_where_the_client_wants_it(client, pb):
    body = frame(pb.EchoRequest(text="x").SerializeToString())
    response = client.post(f"{SERVICE}/Echo", content=body, headers={
        "Content-Type": "application/grpc-web+proto", "Accept": "application/grpc-web-text"})  # fmt: skip
    assert response.headers["content-type"] == "application/grpc-web-text+proto"
    assert Answer(response, "-text").status == 0


@pytest.mark.parametrize("kind", KINDS[::2])
def test_an_error_of_the_service(client, pb, kind):
    answer = call(client, "Fail", pb.FailRequest(code=9, message="zurück um 100 %", details=True), kind=kind)
    assert answer.messages == []
    assert answer.status == 9
    assert answer.trailers["grpc-message"] == "zur%C3%BCck um 100 %25"
    assert b"ASKED_FOR" in base64.b64decode(answer.trailers["grpc-status-details-bin"] + "==")


@pytest.mark.parametrize("kind", KINDS[::2])
def test_server_streaming(client, pb, kind):
    answer = call(client, "FailLater", pb.FailRequest(code=5, message="over", after=3), kind=kind)
    assert [pb.EchoResponse.FromString(one).text for one in answer.messages] == ["0", "1", "2"]
    assert (answer.status, answer.trailers["grpc-message"]) == (5, "over")


def test_a_stream_passes_message_by_message(here, pb):
    """Each message is there before the next one is made."""
    library, gateway = here
    body = base64.b64encode(frame(pb.WatchBooksRequest(parent="shelves/77", count=2).SerializeToString()))
    connection = http.client.HTTPConnection(*gateway.bind.split(":"), timeout=60)
    library.library.add("shelves/77", library.library.Book(title="first"))
    connection.request("POST", f"{SERVICE}/WatchBooks", body, {"Content-Type": "application/grpc-web-text+proto"})
    response = connection.getresponse()
    decoder, reader = TextDecoder(), FrameReader(2**20)

    def next_frame():
        while True:
            piece = response.read1(65536)
            assert piece, "the stream ended"
            if frames := reader.feed(decoder.feed(piece)):
                return frames

    ((_, message),) = next_frame()
    assert pb.Book.FromString(message).title == "first"
    library.library.add("shelves/77", library.library.Book(title="second"))
    frames = next_frame()
    assert pb.Book.FromString(frames[0][1]).title == "second"
    if len(frames) == 1:
        frames += next_frame()
    assert parse_trailers(frames[1][1])[0] == ("grpc-status", "0")
    assert response.read() == b""
    connection.close()


def test_large_messages(client, pb):
    answer = call(client, "Echo", pb.EchoRequest(text="x" * 300_000, size=3_000_000))
    found = pb.EchoResponse.FromString(answer.messages[0])
    assert (len(found.text), len(found.filling)) == (300_000, 3_000_000)


def test_metadata_goes_both_ways(client, pb):
    answer = call(client, "Echo", pb.EchoRequest(), headers={"X-Custom": "seven", "Grpc-Timeout": "9S"})
    metadata = pb.EchoResponse.FromString(answer.messages[0]).metadata
    assert metadata["x-custom"] == "seven"


def test_other_requests_pass_as_they_are(client, here, pb):
    assert client.post(f"{SERVICE}/Echo", json={"text": "x"}).json()["text"] == "x"
    _, gateway = here
    with grpc.insecure_channel(gateway.bind) as channel:
        echo = channel.unary_unary(f"{SERVICE}/Echo", pb.EchoRequest.SerializeToString, pb.EchoResponse.FromString)
        assert echo(pb.EchoRequest(text="native"), timeout=60).text == "native"


@pytest.mark.parametrize("kind", KINDS[::2])
@pytest.mark.parametrize(
    ("path", "status", "words"), [("/gone.S", 14, "cannot be reached"), ("/keyed.S", 16, "key")]
)
def test_a_refusal_of_the_gateway_is_told_in_a_frame(client, pb, kind, path, status, words):
    answer = call(client, "M", pb.EchoRequest(), kind=kind, path=path)
    assert answer.messages == []
    assert answer.status == status
    assert words in answer.trailers["grpc-message"]


@pytest.mark.parametrize("body", [b"AAAA*", b"AAA", b"not base64 at all"])
def test_a_body_that_is_not_base64_ends_the_call(client, body):
    response = client.post(f"{SERVICE}/Echo", content=body, headers={"Content-Type": "application/grpc-web-text"})
    answer = Answer(response, "-text")
    assert answer.status == 13
    assert "base64" in answer.trailers["grpc-message"]


def test_calls_are_counted_by_their_status(here, client, pb):
    _, gateway = here

    def counted(status):
        wanted = f'fastgw_grpc_calls_total{{service="library",status="{status}"}} '
        lines = [line for line in gateway.admin("/metrics")[1].splitlines() if line.startswith(wanted)]
        return float(lines[0].split()[-1]) if lines else 0.0

    before = counted(0), counted(6), counted("none")
    call(client, "Echo", pb.EchoRequest())
    call(client, "Fail", pb.FailRequest(code=6))
    call(client, "FailLater", pb.FailRequest(code=6, after=1))
    assert client.get("/v1/shelves/1/books/1").status_code == 200
    assert client.post(f"{SERVICE}/Fail", json={"code": 6}).status_code == 409
    assert client.post(f"{SERVICE}/FailLater", json={"code": 6, "after": 1}).status_code == 200
    deadline = time.monotonic() + 60
    while (now := (counted(0), counted(6), counted("none"))) != (before[0] + 2, before[1] + 4, before[2]):
        assert time.monotonic() < deadline, (before, now)
        time.sleep(0.05)


def test_another_method_than_post_is_refused(client):
    response = client.get(f"{SERVICE}/Echo", headers={"Content-Type": "application/grpc-web"})
    assert response.status_code == 405
    assert response.json()["code"] == "method_not_allowed"


def test_pages_of_other_origins_may_call(client, pb):
    asked = client.options(f"{SERVICE}/Echo", headers={
        "Origin": ORIGIN, "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-grpc-web,x-user-agent,grpc-timeout"})  # fmt: skip
    assert asked.headers["access-control-allow-origin"] == ORIGIN
    assert "x-grpc-web" in asked.headers["access-control-allow-headers"].lower()
    answer = call(client, "Echo", pb.EchoRequest(text="x"), headers={"Origin": ORIGIN})
    assert answer.http.headers["access-control-allow-origin"] == ORIGIN


def test_a_client_that_leaves_ends_the_call(here, pb):
    _, gateway = here
    connection = http.client.HTTPConnection(*gateway.bind.split(":"), timeout=60)
    body = frame(pb.WatchBooksRequest(parent="shelves/1").SerializeToString())
    connection.request("POST", f"{SERVICE}/WatchBooks", body, {"Content-Type": "application/grpc-web+proto"})
    response = connection.getresponse()
    assert response.read(5)
    connection.sock.close()
    response.close()
    connection.close()
    gateway_calls(gateway, "the call to end")


def gateway_calls(gateway, what):
    """Waits until no exchange is under way."""
    deadline = time.monotonic() + 60
    while True:
        services = json.loads(gateway.admin("/services")[1])
        busy = sum(pool["busy"] for service in services for pool in service["endpoints"])
        if busy == 0:
            return
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
