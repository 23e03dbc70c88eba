"""Clients that other people wrote."""

import asyncio
import os
import shutil
import subprocess

import httpx
import pytest

from fastgw.testing import answer, chunked

CURL = shutil.which("curl")


# not under the sanitizers that the gateway may run under
PLAIN = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def curl(*arguments):
    return subprocess.run([CURL, "-sS", "--max-time", "60", *arguments], capture_output=True, timeout=90, env=PLAIN)


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
class TestCurl:
    def test_get_post_and_head(self, world):
        url = world.gateway.url + "/up/x?q=1"
        assert curl(url).stdout == b"ok"
        assert curl("-d", "a=b", url).stdout == b"ok"
        assert b"HTTP/1.1 200 OK" in curl("-I", url).stdout
        assert [r.method for r in world.up.requests] == ["GET", "POST", "HEAD"]
        assert world.up.requests[1].body == b"a=b"

    def test_an_upload_that_asks_first(self, world, tmp_path):
        """curl sends Expect: 100-continue with a body of more than a megabyte, and waits for the 100."""

        def play(connection):
            request = connection.read_head()
            if "expect" in request:
                connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            connection.read_body(request)
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        world.up.script(play)
        file = tmp_path / "large"
        file.write_bytes(bytes(range(256)) * 8192)
        result = curl("-T", str(file), world.gateway.url + "/up/", "-w", "%{http_code} %{size_upload}")
        assert result.stdout == b"200 2097152", result.stderr
        assert bytes(world.up.requests[0].body) == file.read_bytes()

    def test_a_chunked_upload_and_http10(self, world):
        url = world.gateway.url + "/up/"
        streamed = b"streamed" * 1000
        sent = subprocess.run(
            [CURL, "-sS", "-T", "-", url], input=streamed, capture_output=True, timeout=90, env=PLAIN
        )
        assert sent.stdout == b"ok"
        assert bytes(world.up.requests[0].body) == b"streamed" * 1000
        assert curl("--http1.0", url).stdout == b"ok"

    def test_a_cut_answer_is_an_error_for_curl(self, world):
        def cut(connection):
            connection.read_request()
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

        world.up.script(cut)
        assert curl(world.gateway.url + "/up/").returncode in (18, 56)

    def test_over_a_unix_socket(self, world):
        result = curl("--unix-socket", world.unix_address, "http://localhost/up/")
        assert result.stdout == b"ok", result.stderr


def test_httpx_many_at_once(world):
    body = bytes(range(256)) * 100
    coded = chunked([body[n : n + 1000] for n in range(0, len(body), 1000)])
    world.up.script(answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + coded))

    async def run():
        async with httpx.AsyncClient(timeout=60) as client:
            url = world.gateway.url + "/up/"
            answers = await asyncio.gather(*(client.post(url, content=body) for _ in range(50)))
            return [(a.status_code, a.content == body) for a in answers]

    assert asyncio.run(run()) == [(200, True)] * 50
    assert len(world.up.requests) == 50
    assert all(bytes(request.body) == body for request in world.up.requests)


def test_httpx_streams(world):
    world.up.script(answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked([b"a" * 100] * 50)))

    def pieces():
        for _ in range(20):
            yield b"b" * 1000

    with (
        httpx.Client(timeout=60) as client,
        client.stream("POST", world.gateway.url + "/up/", content=pieces()) as response,
    ):
        assert b"".join(response.iter_bytes()) == b"a" * 5000
    assert bytes(world.up.requests[0].body) == b"b" * 20_000


def test_httpx_reads_problems(world):
    answer = httpx.get(world.gateway.url + "/nowhere", headers={"Accept": "application/json"}, timeout=60)
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"
    page = httpx.get(world.gateway.url + "/nowhere", headers={"Accept": "text/html"}, timeout=60)
    assert page.headers["content-type"].startswith("text/html")
    assert "not_found" in page.text
