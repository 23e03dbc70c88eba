"""Answers on disk, of whole gateways: over restarts, crashes and upgrades, purged and not."""

import contextlib
import http.client
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from pydantic import ValidationError

from fastgw.config.schema.cache import Disk
from fastgw.testing import FakeUpstream, GatewayProcess

FRESH = (
    b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nSurrogate-Key: all\r\nVary: Accept-Encoding\r\n"
    b"Content-Length: 5\r\n\r\nhello"
)


def serve(connection):
    while True:
        connection.read_request()
        connection.send(FRESH)


@pytest.fixture(scope="module")
def upstream():
    with FakeUpstream(serve) as upstream:
        yield upstream


def config_of(upstream, path, **more):
    policy = {"cache": {"purge": {"addresses": ["127.0.0.1"]}}}
    return {
        "server": {"workers": 2},
        "cache": {"memory": "4MiB", "disk": {"path": str(path), "size": "64MiB", "timeout": "60s"}},
        "services": {"up": upstream.url},
        "routes": [{"name": "kept", "path": "/*", "service": "up", "policies": [policy]}],
        **more,
    }


def ask(gateway, path, method="GET", **headers):
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    with gateway.client() as client:
        client.send(f"{method} {path} HTTP/1.1\r\nHost: h\r\n{lines}\r\n".encode())
        return client.response()


def admin(gateway, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=60)
    connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def count(upstream, path):
    return sum(request.target == path for request in list(upstream.requests))


def disk(gateway):
    return admin(gateway, "/cache")["disk"]


def agents(gateway):
    """The process that writes."""
    found = []
    for pid in gateway.processes():
        with contextlib.suppress(OSError):
            if "agent" in Path(f"/proc/{pid}/comm").read_text():
                found.append(pid)
    return found


def ready(gateway):
    with contextlib.suppress(OSError, http.client.HTTPException):
        return gateway.admin("/ready")[0] == 200
    return False


def written(gateway, entries):
    return lambda: disk(gateway)["state"] == "ready" and disk(gateway)["entries"] == entries


def test_restart_crash_and_upgrade(upstream, tmp_path, eventually):
    config = config_of(upstream, tmp_path / "cache")
    gateway = GatewayProcess(config).start()
    try:
        eventually(lambda: disk(gateway)["state"] == "ready", "the disk is in use")
        for number in range(5):
            assert "fwd=uri-miss" in ask(gateway, f"/one/{number}").get("cache-status")
        eventually(written(gateway, 10), "all answers are on disk, and what tells their variants apart")
    finally:
        gateway.kill()                               # as a crash does
    with GatewayProcess(config) as gateway:
        eventually(written(gateway, 10), "the answers were found again")
        for number in range(3):
            answer = ask(gateway, f"/one/{number}")
            assert answer.body == b"hello"
            assert "hit" in answer.get("cache-status")
            assert "detail=disk" in answer.get("cache-status")
            assert count(upstream, f"/one/{number}") == 1
            assert "detail" not in ask(gateway, f"/one/{number}").get("cache-status")
        # what is purged, in whatever way, stays so; the admin API answers when it is so on disk
        said = admin(gateway, "/cache/purge", {"url": "h/one/0"})
        assert said == {"purged": 2, "soft": False, "disk": True}
        assert admin(gateway, "/cache/purge", {"url": "h/one/3"})["disk"]
        assert json.loads(ask(gateway, "/one/1", "PURGE").body) == {"purged": 2}
        ask(gateway, "/one/2", "POST", Content_Length=0)
        eventually(written(gateway, 2), "purges have come to the disk")
        text = gateway.admin("/metrics")[1]
        assert "fastgw_cache_disk_ready 1.0" in text
        assert "fastgw_cache_disk_hits_total 6.0" in text
        gateway.upgrade()
        eventually(written(gateway, 2), "the new one has taken the disk over")
        assert "hit" in ask(gateway, "/one/4").get("cache-status")
        assert ask(gateway, "/two").status == 200
        eventually(written(gateway, 4), "it writes")
    with GatewayProcess(config) as gateway:
        eventually(written(gateway, 4), "the answers were found again")
        for number in range(4):
            assert "fwd=uri-miss" in ask(gateway, f"/one/{number}").get("cache-status")
            assert count(upstream, f"/one/{number}") == 2 + (number == 2)
        assert "detail=disk" in ask(gateway, "/one/4").get("cache-status")
        assert "detail=disk" in ask(gateway, "/two").get("cache-status")
        admin(gateway, "/cache/purge", {"tag": "all", "soft": True})
        assert "stale" in ask(gateway, "/two").get("cache-status")


def test_nothing_of_the_disk_fails_a_request(upstream, tmp_path, eventually):
    path = tmp_path / "cache"
    with GatewayProcess(config_of(upstream, path)) as gateway:
        ask(gateway, "/a")
        eventually(written(gateway, 2), "it is on disk")
        shutil.rmtree(path)
        assert ask(gateway, "/b").body == b"hello"
        eventually(lambda: path.exists() and disk(gateway)["state"] == "ready", "it was made anew")
        assert disk(gateway)["errors"] > 0
        # the one that writes dies
        ask(gateway, "/c")
        assert admin(gateway, "/cache/purge", {"prefix": "elsewhere"})["disk"]
        eventually(written(gateway, 4), "both are on disk")
        [agent] = agents(gateway)
        os.kill(agent, signal.SIGKILL)
        eventually(lambda: agents(gateway) not in ([], [agent]), "there is another")
        eventually(lambda: ready(gateway), "it answers")
        eventually(written(gateway, 4), "it has found what was written")
        assert "hit" in ask(gateway, "/c").get("cache-status")
        # others may write there: what is there is not believed any more
        os.chmod(path, 0o777)
        [agent] = agents(gateway)
        os.kill(agent, signal.SIGKILL)
        eventually(lambda: ready(gateway) and disk(gateway).get("state") == "failing", "it does not use it")
        assert ask(gateway, "/d").body == b"hello"
        assert "fastgw_cache_disk_ready 0.0" in gateway.admin("/metrics")[1]
        assert "others may write to it" in gateway.stderr


def test_the_path_is_checked(tmp_path):
    def problem(path):
        with pytest.raises(ValidationError) as caught:
            Disk(path=str(path))
        return str(caught.value)

    assert "there is no directory" in problem(tmp_path / "not" / "there")
    (tmp_path / "file").write_text("")
    assert "is no directory" in problem(tmp_path / "file")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert "others may write" in problem(tmp_path / "open")
    (tmp_path / "open").chmod(0o700)
    assert Disk(path=str(tmp_path / "open")).path == str(tmp_path / "open")
    assert Disk(path=str(tmp_path / "not yet")).size == 10 * 1024**3
