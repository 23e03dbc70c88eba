"""`compress` as clients of others see it: HTTP/2 and HTTP/1.1, curl, events one by one, HTTP/2 to the service."""

import json
import shutil
import subprocess
import threading
import zlib

import httpx
import pytest

from fastgw.testing import FakeUpstream, GatewayProcess

TEXT = json.dumps([{"id": number, "text": "some text of the answer"} for number in range(8000)])


class Service:
    """`/text` is JSON; `/events` are three events, each after the one before was asked for."""

    def __init__(self):
        self.go = threading.Semaphore(0)

    def __call__(self, connection):
        while True:
            request = connection.read_request()
            if request.target == "/events":
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                                b"Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
                for number in range(3):
                    assert self.go.acquire(timeout=60)
                    event = b"data: %d\n\n" % number
                    connection.send(b"%x\r\n%s\r\n" % (len(event), event))
                connection.send(b"0\r\n\r\n")
            else:
                body = b"" if request.method == "HEAD" else TEXT.encode()
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: \"x\"\r\n"
                                b"Content-Length: %d\r\n\r\n%s" % (len(TEXT), body))  # fmt: skip


@pytest.fixture(scope="module")
def world():
    service = Service()
    with FakeUpstream(service) as upstream:
        config = {
            "server": {"workers": 1, "listeners": ["127.0.0.1:${FASTGW_PORT}"]},
            "services": {"text": upstream.url},
            "routes": [
                {"path": "/*", "service": "text", "policies": [{"compress": {"encodings": ["br", "gzip"]}}]},
                # through the gateway once more, which then is a service that speaks HTTP/2
                {"path": "/again/*", "strip_prefix": "/again", "service": "self",
                 "policies": [{"compress": {"encodings": ["gzip"], "upstream": "identity"}}]},
            ],
        }  # fmt: skip
        config["services"]["self"] = {"endpoints": ["http://127.0.0.1:${FASTGW_PORT}"], "protocol": "h2c"}
        with GatewayProcess(config) as gateway:
            yield gateway, service


def client_of(gateway, http2):
    url = "http://{}:{}".format(*gateway.address)
    return httpx.Client(http1=not http2, http2=http2, timeout=60, base_url=url)


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("path", ["/text", "/again/text"])
def test_bodies(world, http2, path):
    gateway, _ = world
    with client_of(gateway, http2) as client:
        for accept in ("gzip", "br", "gzip, br", "identity"):
            response = client.get(path, headers={"Accept-Encoding": accept})
            assert response.text == TEXT and response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            wanted = {"gzip, br": "br", "identity": None}.get(accept, accept)
            if path == "/again/text":
                wanted = "gzip" if "gzip" in accept else None
            assert response.headers.get("Content-Encoding") == wanted
            assert response.headers["ETag"] == ('W/"x"' if wanted else '"x"')
            head = client.head(path, headers={"Accept-Encoding": accept})
            assert head.headers.get("Content-Encoding") == wanted
            assert ("Content-Length" in head.headers) == (wanted is None)


@pytest.mark.parametrize("http2", [False, True])
def test_events_come_one_by_one(world, http2):
    gateway, service = world
    asked = {"Accept-Encoding": "gzip"}
    with client_of(gateway, http2) as client, client.stream("GET", "/events", headers=asked) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        reader, raw, got = zlib.decompressobj(31), response.iter_raw(), b""
        for number in range(3):
            service.go.release()
            while got.count(b"\n\n") <= number:
                got += reader.decompress(next(raw))
        assert got == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
        reader.decompress(b"".join(raw))
        assert reader.eof


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(world):
    gateway, _ = world
    url = "http://{}:{}/text".format(*gateway.address)
    command = ["curl", "-s", "--compressed", "-w", "\n%{size_download}", url]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    body, _, size = done.stdout.decode().rpartition("\n")
    assert body == TEXT and 0 < int(size) < len(TEXT) / 4
