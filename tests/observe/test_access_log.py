"""Lines of the access log: complete, and nothing a client sends forges one."""

import json
import os
import signal
import time

import pytest

from fastgw.testing import FakeUpstream, GatewayProcess


def read_lines(path, count):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        # the last line may be there in part
        if path.exists() and (data := path.read_bytes()).count(b"\n") >= count and data.endswith(b"\n"):
            return data.splitlines()
        time.sleep(0.02)
    raise AssertionError(f"{path} never had {count} lines")


@pytest.fixture
def start(tmp_path):
    def begin(format):
        return GatewayProcess(
            {
                "server": {"workers": 1},
                "observability": {"access_log": {"format": format, "path": str(tmp_path / "access.log")}},
                "services": {"up": upstream.url},
                "routes": [{"name": "all", "path": "/*", "service": "up"}],
            }
        )

    with FakeUpstream() as upstream:
        yield begin


def ask(gateway, target=b"/", headers=b""):
    with gateway.client() as client:
        client.send(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n")
        return client.response()


def test_a_json_line_says_what_happened(start, tmp_path):
    with start("json") as gateway:
        assert ask(gateway, b"/some/path?q=1").status == 200
        line = json.loads(read_lines(tmp_path / "access.log", 1)[0])
    assert (line["method"], line["path"], line["status"]) == ("GET", "/some/path", 200)
    assert (line["route"], line["service"], line["client"]) == ("all", "up", "127.0.0.1")
    assert line["request_id"]
    assert line["total_ms"] >= line["upstream_ms"] >= 0
    assert line["gateway_ms"] == pytest.approx(line["total_ms"] - line["upstream_ms"], abs=0.002)


def test_what_cannot_be_read_has_no_path_and_not_that_of_somebody_else(start, tmp_path):
    with start("json") as gateway:
        for bad in (b"nonsense\r\n\r\n", b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\na b\r\n\r\n"):
            assert ask(gateway, b"/private/7?q=secret").status == 200
            with gateway.client() as client:
                client.send(bad)
                assert client.response().status == 400
        lines = [json.loads(line) for line in read_lines(tmp_path / "access.log", 6)]
    assert [line["path"] for line in lines if line["status"] == 200] == ["/private/7"] * 3
    assert [line["path"] for line in lines if line["status"] == 400] == ["", "/%zz", ""]


@pytest.mark.parametrize("format", ["json", "combined"])
@pytest.mark.parametrize("target", [b"/a%0d%0aforged%22", b"/%ff%fe", b"/%e2%80%a8"])
def test_no_bytes_of_a_client_break_a_line(start, tmp_path, format, target):
    with start(format) as gateway:
        ask(gateway, target, b'User-Agent: x" 200 \\ \xff\xfe\xe2\x80\xa8\tend\r\nReferer: "\xed\xa0\x80\r\n')
        assert ask(gateway, b"/after").status == 200
        lines = read_lines(tmp_path / "access.log", 2)
    assert len(lines) == 2
    assert b"/after" in lines[1]
    for line in lines:
        assert not any(byte < 32 or byte == 127 for byte in line)
        if format == "json":
            json.loads(line)
        else:
            assert line.count(b'"') == 6
            assert line.isascii()


def test_sigusr1_opens_the_file_anew(start, tmp_path):
    path = tmp_path / "access.log"
    with start("json") as gateway:
        ask(gateway, b"/one")
        read_lines(path, 1)
        os.rename(path, tmp_path / "old.log")
        gateway.signal(signal.SIGUSR1)
        deadline = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        ask(gateway, b"/two")
        assert json.loads(read_lines(path, 1)[0])["path"] == "/two"
    assert len((tmp_path / "old.log").read_bytes().splitlines()) == 1
