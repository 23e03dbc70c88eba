"""HTTP with JSON for a real gRPC service: paths, bodies, queries, errors, streams, bounds."""

import contextlib
import http.client
import json
import random
import socket
import threading
import time

import grpc
import h2.config
import h2.connection
import h2.events
import httpx
import pytest
from google.protobuf import descriptor_pb2

from fastgw.protocols.grpc_frames import frame
from fastgw.testing import GatewayProcess, RawClient, free_port
from fastgw.testing.demo_grpc import DESCRIPTORS, LibraryServer
from tests.e2e.library import SERVICE, stubs, world


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


def code(response):
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


def test_get(client):
    response = client.get("/v1/shelves/1/books/1")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)
    assert not [name for name in response.headers if name.startswith("grpc")]
    assert response.json() == {
        "name": "shelves/1/books/1", "title": "Emma", "author": {"name": "Jane Austen", "born": 1775},
        "genre": "NOVEL", "pages": "474",
    }  # fmt: skip
    assert client.get("/v1/books/shelves/1/books/1:find").json()["title"] == "Emma"


def test_a_list_by_query_and_its_response_body(client):
    books = client.get("/v1/shelves/1/books", params={"pageSize": 1}).json()
    assert [book["title"] for book in books] == ["Emma"]
    assert client.get("/v1/shelves/none/books").json() == []


def test_a_book_comes_and_goes(client):
    made = client.post("/v1/shelves/8/books", json={"title": "Maurice", "author": {"name": "E. M. Forster"}})
    assert made.status_code == 200
    name = made.json()["name"]
    changed = client.patch(f"/v1/{name}", json={"book": {"title": "Howards End"}, "updateMask": "title"})
    assert (changed.json()["title"], changed.json()["author"]) == ("Howards End", {"name": "E. M. Forster"})
    gone = client.delete(f"/v1/{name}")
    assert (gone.status_code, gone.json()) == (200, {})
    assert code(client.get(f"/v1/{name}")) == (404, "grpc_not_found")


def test_methods_without_rules_are_posts_to_their_path(client):
    tree = {"label": "a", "children": [{"label": "b"}]}
    sent = {"text": "x", "tree": tree, "struct": {"a": [1.5, None, {"b": True}]}, "counts": {"k": 7}}
    answer = client.post(f"{SERVICE}/Echo", json=sent).json()
    answer.pop("metadata")
    assert answer == sent
    assert client.post(f"{SERVICE}/Echo").status_code == 200


def test_headers_are_metadata(client):
    metadata = client.post(f"{SERVICE}/Echo", json={}, headers={
        "X-Custom": "seven", "Accept-Encoding": "gzip", "Authorization": "Bearer t"}).json()["metadata"]  # fmt: skip
    assert (metadata["x-custom"], metadata["authorization"]) == ("seven", "Bearer t")
    assert "accept" not in metadata


def test_bodies_that_are_not_json_pass_as_http_body(client):
    response = client.get("/v1/shelves/1/books/1:download")
    assert response.headers["content-type"] == "text/plain"
    assert response.text == "the text of shelves/1/books/1\n"
    sent = client.put("/v1/shelves/1/books/1:upload", content=b"\x89PNG", headers={"Content-Type": "image/png"})
    assert sent.json() == {"name": "shelves/1/books/1", "title": "image/png", "cover": "iVBORw=="}


@pytest.mark.parametrize("number", range(1, 17))
def test_a_status_is_an_http_status(here, number):
    _, gateway = here
    expected = {1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501,
                13: 500, 14: 503, 15: 500, 16: 401}[number]  # fmt: skip
    url = f"http://{gateway.bind}"
    asked = {"code": number, "message": "zurück", "details": True}
    response = httpx.post(f"{url}{SERVICE}/Fail", json=asked, timeout=60)
    name = next(one.name for one in grpc.StatusCode if one.value[0] == number)
    assert code(response) == (expected, f"grpc_{name.lower()}")
    problem = response.json()
    assert (problem["detail"], problem["grpc_status"], problem["side"]) == ("zurück", number, "upstream")
    assert problem["details"] == [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "ASKED_FOR", "domain": "demo"}
    ]
    status = httpx.post(f"{url}/rpc{SERVICE}/Fail", json={"code": number, "message": "zurück"}, timeout=60)
    assert (status.status_code, status.headers["content-type"]) == (expected, "application/json")
    assert status.json() == {"code": number, "message": "zurück", "details": []}


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/shelves/1/books/1/pages", 404, "not_found"),
        ("GET", "/v1/shelves/%ff/books", 400, "bad_target"),
        ("GET", "/v1/shelves/1/books?nope=1", 400, "bad_request"),
        ("GET", "/v1/shelves/1/books?pageSize=many", 400, "bad_request"),
        ("PUT", "/v1/shelves/1/books", 405, "method_not_allowed"),
        ("HEAD", "/v1/shelves/1/books", 405, None),
        ("GET", f"{SERVICE}/Echo", 405, "method_not_allowed"),
        ("GET", "/gone/v1/books", 502, "upstream_connect_failed"),
        ("GET", "/v1/keyed/books", 401, "unauthorized"),
    ],
)
def test_what_cannot_be_answered_is_a_problem(client, method, path, status, word):
    response = client.request(method, path)
    assert response.status_code == status
    if word is not None:
        assert code(response) == (status, word)
    if status == 405:
        assert "POST" in response.headers["allow"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "word"),
    [
        (b"{", {}, 400, "bad_request"),
        (b'{"nope": 1}', {}, 400, "bad_request"),
        (b'{"text": {}}', {}, 400, "bad_request"),
        (b"[" * 5000, {}, 400, "bad_request"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Type": ""}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Type": "application/vnd.api+json; charset=utf-8"}, 200, None),
    ],
)
def test_bodies_that_do_not_fit(client, body, headers, status, word):
    response = client.post(f"{SERVICE}/Echo", content=body, headers={"Content-Type": "application/json", **headers})
    assert response.status_code == status
    if word is not None:
        assert code(response) == (status, word)


def test_bounds(client):
    assert client.post(f"/small{SERVICE}/Echo", json={"text": "x" * 20}).status_code == 200
    assert code(client.post(f"/small{SERVICE}/Echo", json={"text": "x" * 200})) == (413, "body_too_large")
    assert code(client.post(f"/small{SERVICE}/Echo", json={"size": 3000})) == (502, "upstream_body_too_large")
    deep = {"tree": {}}
    for _ in range(70):
        deep = {"tree": {"children": [deep["tree"]]}}
    response = client.post(f"{SERVICE}/Echo", json=deep)
    assert code(response) == (400, "bad_request")
    assert "too deep" in response.json()["detail"]


def test_large_messages_are_converted_aside(client):
    answer = client.post(f"{SERVICE}/Echo", json={"text": "x" * 900_000, "size": 1_000_000}).json()
    assert (len(answer["text"]), len(answer["filling"])) == (900_000, 1_333_336)
    assert code(client.post(f"{SERVICE}/Echo", json={"nope": "x" * 900_000})) == (400, "bad_request")


def test_json_as_it_was_asked_for(client):
    body = client.get("/rpc/v1/shelves/1/books/1").json()
    assert (body["genre"], body["tags"]) == (1, [])
    for name in ("published_at", "publishedAt"):
        made = client.post("/rpc/v1/shelves/9/books", json={"title": "T", name: "2020-01-01T00:00:00Z"}).json()
        assert made["published_at"] == "2020-01-01T00:00:00Z"
    assert client.get("/lax/v1/shelves/1/books?nope=1").status_code == 200


def test_the_deadline_of_the_route_ends_the_call(client):
    response = client.post(f"/short{SERVICE}/Echo", json={"wait_ms": 5000})
    assert code(response)[0] == 504


# ---------------------------------------------------------------------- streams


def test_a_stream_is_a_line_for_each_message(client):
    response = client.get("/v1/shelves/1/books:watch", params={"count": 2})
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.headers["cache-control"] == "no-store"
    assert [json.loads(line)["title"] for line in response.text.splitlines()] == ["Emma", "Persuasion"]


@pytest.mark.parametrize(("prefix", "headers"), [("", {"Accept": "text/event-stream"}), ("/rpc", {})])
def test_or_an_event(client, prefix, headers):
    response = client.get(f"{prefix}/v1/shelves/1/books:watch", params={"count": 2}, headers=headers)
    assert response.headers["content-type"] == "text/event-stream"
    events = response.text.split("\n\n")
    assert events.pop() == ""
    assert [json.loads(event.removeprefix("data: "))["title"] for event in events] == ["Emma", "Persuasion"]


def test_messages_come_as_they_are_made(here, pb):
    library, gateway = here
    library.library.add("shelves/78", library.library.Book(title="first"))
    with httpx.stream("GET", f"http://{gateway.bind}/v1/shelves/78/books:watch?count=2", timeout=60) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines))["title"] == "first"
        library.library.add("shelves/78", library.library.Book(title="second"))
        assert json.loads(next(lines))["title"] == "second"
        assert list(lines) == []


def test_a_stream_that_fails_later_says_so_at_its_end(client):
    sent = {"code": 5, "message": "over", "after": 2, "details": True}
    lines = [json.loads(line) for line in client.post(f"{SERVICE}/FailLater", json=sent).text.splitlines()]
    assert [line["text"] for line in lines[:2]] == ["0", "1"]
    error = lines[2]["error"]
    assert (error["code"], error["message"], error["details"][0]["reason"]) == (5, "over", "ASKED_FOR")
    events = client.post(f"{SERVICE}/FailLater", json=sent, headers={"Accept": "text/event-stream"}).text
    assert events.split("\n\n")[2].startswith('event: error\ndata: {"error":{"code":5')


def test_a_stream_that_fails_at_once_has_its_status(client):
    """The service answers with trailers alone."""
    assert code(client.post(f"{SERVICE}/FailLater", json={"code": 5, "after": 0})) == (404, "grpc_not_found")


def test_a_stream_without_messages_is_empty(client):
    response = client.post(f"{SERVICE}/Chat", content=b"\n", headers={"Content-Type": "application/x-ndjson"})
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson")
    assert response.text == ""


def test_clients_that_leave_leave_nothing_behind(here):
    """In the middle of bodies, conversions in threads, calls and streams."""
    _, gateway = here
    host, port = gateway.bind.split(":")
    large = json.dumps({"text": "x" * 500_000, "size": 500_000, "wait_ms": 20}).encode()
    requests = [
        (f"POST {SERVICE}/Echo", b"Content-Type: application/json\r\n", large),
        ("GET /v1/shelves/1/books:watch", b"", b""),
        ("POST /v1/shelves/4/books:import", b"Content-Type: application/x-ndjson\r\n", b'{"title":"x"}\n' * 5000),
    ]
    chance = random.Random(7)
    for number in range(90):
        line, headers, body = requests[number % 3]
        with socket.create_connection((host, int(port)), timeout=60) as sock:
            head = f"{line} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n".encode() + headers + b"\r\n"
            sock.sendall((head + body)[: chance.choice([len(head), len(head) + len(body) // 2, None])])
            sock.settimeout(chance.choice([0.001, 0.01, 0.05]))
            with contextlib.suppress(TimeoutError):
                sock.recv(65536)
    deadline = time.monotonic() + 60
    while any(pool["busy"] for one in json.loads(gateway.admin("/services")[1]) for pool in one["endpoints"]):
        assert time.monotonic() < deadline, "streams are left"
        time.sleep(0.05)
    assert "Traceback" not in gateway.stderr
    assert httpx.post(f"http://{gateway.bind}{SERVICE}/Echo", json={"text": "on"}, timeout=60).json()["text"] == "on"


def test_a_stream_of_too_large_messages_is_cut_off(client):
    with pytest.raises(httpx.RemoteProtocolError):
        client.post(f"/small{SERVICE}/Chat", content=b'{"text":"a"}\n{"size":3000}\n',
                    headers={"Content-Type": "application/x-ndjson"})  # fmt: skip


def test_a_stream_of_lines_is_a_stream_of_messages(client):
    lines = b'{"title": "A"}\n\n  {"title": "B"}\r\n{"title": "C"}'
    response = client.post("/v1/shelves/5/books:import", content=iter([lines[:9], lines[9:20], lines[20:]]),
                           headers={"Content-Type": "application/x-ndjson"})  # fmt: skip
    assert response.json() == {"count": 3, "parent": "shelves/5", "titles": ["A", "B", "C"]}
    nothing = client.post("/v1/shelves/5/books:import")
    assert nothing.json() == {}


@pytest.mark.parametrize("path", ["/v1/shelves/6/books:import", "/v1/shelves/6/books"])
def test_a_client_that_wants_leave_gets_it(here, path):
    _, gateway = here
    host, port = gateway.bind.split(":")
    with RawClient((host, int(port))) as client:
        client.send(f"POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 14\r\n"
                    "Content-Type: application/json\r\n\r\n".encode())  # fmt: skip
        assert client.head().status == 100
        client.send(b'{"title": "A"}')
        assert client.response("POST").status == 200


@pytest.mark.parametrize(
    ("path", "lines", "status", "word"),
    [
        ("/v1/shelves/5/books:import", b'{"title": "A"}\n{"nope": 1}\n', 400, "bad_request"),
        ("/v1/shelves/5/books:import", b'{"title": "A"}\nno\n{"title": "B"}\n', 400, "bad_request"),
        ("/small/v1/shelves/5/books:import", b'{"title": "' + b"x" * 100 + b'"}', 413, "body_too_large"),
        ("/small/v1/shelves/5/books:import?x=1", b'{"title": "A"}', 400, "bad_request"),
    ],
)
def test_a_line_that_does_not_fit_ends_the_call(client, path, lines, status, word):
    response = client.post(path, content=iter([lines]), headers={"Content-Type": "application/x-ndjson"})
    assert code(response) == (status, word)


def test_both_ways_at_once(here):
    """A line goes in, its answer comes out, before the next one."""
    _, gateway = here
    host, port = gateway.bind.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(f"POST {SERVICE}/Chat HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\n"
                     "Transfer-Encoding: chunked\r\n\r\n".encode())  # fmt: skip
        response = http.client.HTTPResponse(sock, method="POST")
        for word in ("one", "two"):
            line = b'{"text": "%b"}\n' % word.encode()
            sock.sendall(b"%x\r\n%b\r\n" % (len(line), line))
            if word == "one":
                response.begin()
            assert json.loads(response.readline())["text"] == word
        sock.sendall(b"0\r\n\r\n")
        assert response.read() == b""


def test_native_clients_pass_beside_it(here, pb):
    _, gateway = here
    with grpc.insecure_channel(gateway.bind) as channel:
        echo = channel.unary_unary(f"{SERVICE}/Echo", pb.EchoRequest.SerializeToString, pb.EchoResponse.FromString)
        assert echo(pb.EchoRequest(text="native"), timeout=60).text == "native"


def test_a_service_that_does_not_speak_grpc_is_told():
    """An HTTP/2 server that answers with HTML; what it is asked is gRPC."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked = []

    def serve():
        sock, _ = listener.accept()
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        sock.sendall(connection.data_to_send())
        while data := sock.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    asked.append({name.decode(): value.decode() for name, value in event.headers})
                if isinstance(event, h2.events.StreamEnded):
                    connection.send_headers(event.stream_id, [(":status", "200"), ("content-type", "text/html")])
                    connection.send_data(event.stream_id, b"<p>", end_stream=True)
            sock.sendall(connection.data_to_send())
        sock.close()

    threading.Thread(target=serve, daemon=True).start()
    config = {
        "services": {"up": {"endpoints": [f"http://127.0.0.1:{listener.getsockname()[1]}"], "protocol": "h2c"}},
        "routes": [{"path": "/*", "service": "up",
                    "policies": [{"grpc_transcode": {"descriptors": str(DESCRIPTORS)}}]}],
    }  # fmt: skip
    with GatewayProcess(config) as gateway:
        for path in ("/v1/shelves/1/books/1", "/v1/shelves/1/books:watch"):
            response = httpx.get(gateway.url + path, headers={"Accept-Encoding": "gzip", "TE": "gzip"}, timeout=60)
            assert code(response) == (502, "upstream_protocol_error")
    listener.close()
    for head, method in zip(asked, ("GetBook", "WatchBooks"), strict=True):
        assert (head[":method"], head[":path"]) == ("POST", f"{SERVICE}/{method}")
        assert (head["content-type"], head["te"]) == ("application/grpc", "trailers")
        assert head["grpc-accept-encoding"] == "identity"
        assert not {"accept", "accept-encoding", "content-length"} & head.keys()


# ---------------------------------------------------------------------- reflection


def reflecting(library, address):
    return {
        "services": {"library": {"endpoints": [library.url], "protocol": "h2c"}},
        "routes": [
            {"path": "/v1/*", "service": "library",
             "policies": [{"grpc_transcode": {"reflection": {"address": address, "timeout": "2s"}}}]},
            {"path": "/other", "policies": [{"respond": {"body": "ok"}}]},
        ],
    }  # fmt: skip


def test_descriptors_may_come_from_the_service(pb):
    with LibraryServer() as library, GatewayProcess(reflecting(library, library.url)) as gateway:
        assert httpx.get(f"{gateway.url}/v1/shelves/1/books/1", timeout=60).json()["title"] == "Emma"


def test_without_them_the_route_refuses_at_start_and_a_reload_is_refused(pb):
    with LibraryServer() as library:
        port = free_port()
        with GatewayProcess(reflecting(library, f"http://127.0.0.1:{port}")) as gateway:
            assert code(httpx.get(f"{gateway.url}/v1/shelves/1/books/1", timeout=60)) == (503, "policy_unavailable")
            assert httpx.get(f"{gateway.url}/other", timeout=60).text == "ok"
            assert "warning[unavailable] routes[0].policies[0]" in gateway.stderr
            with LibraryServer(port=port):
                assert gateway.admin("/config/reload", "POST")[0] == 200
                assert httpx.get(f"{gateway.url}/v1/shelves/1/books/1", timeout=60).json()["title"] == "Emma"
            status, text = gateway.admin("/config/reload", "POST")
            assert status == 400
            assert "unavailable" in text
            assert httpx.get(f"{gateway.url}/v1/shelves/1/books/1", timeout=60).json()["title"] == "Emma"


def test_a_reload_takes_a_new_file(tmp_path):
    whole = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    less = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    (library_file,) = (one for one in less.file if one.name == "library.proto")
    del library_file.service[0].method[1:]
    file = tmp_path / "library.pb"
    file.write_bytes(less.SerializeToString())
    with LibraryServer() as library:
        config = {
            "services": {"library": {"endpoints": [library.url], "protocol": "h2c"}},
            "routes": [{"path": "/*", "service": "library",
                        "policies": [{"grpc_transcode": {"descriptors": str(file)}}]}],
        }  # fmt: skip
        with GatewayProcess(config) as gateway:
            assert httpx.get(f"{gateway.url}/v1/shelves/1/books/1", timeout=60).status_code == 200
            assert httpx.get(f"{gateway.url}/v1/books", timeout=60).status_code == 404
            file.write_bytes(b"damaged")
            status, text = gateway.admin("/config/reload", "POST")
            assert status == 400
            assert "no FileDescriptorSet" in text
            assert httpx.get(f"{gateway.url}/v1/shelves/1/books/1", timeout=60).status_code == 200
            file.write_bytes(whole.SerializeToString())
            assert gateway.admin("/config/reload", "POST")[0] == 200
            assert len(httpx.get(f"{gateway.url}/v1/books", timeout=60).json()["books"]) == 3


def test_the_frames_on_the_wire_are_grpcs(pb):
    """What the service gets for a JSON body is what a stub would have sent."""
    from fastgw.protocols.descriptors import Descriptors
    from fastgw.protocols.transcoding import Transcoder

    binding, variables = Transcoder(Descriptors(DESCRIPTORS.read_bytes())).rules.match("GET", "/v1/shelves/1/books/1")
    sent = frame(binding.request(variables, "", b""))
    assert sent == frame(pb.GetBookRequest(name="shelves/1/books/1").SerializeToString())
