"""etcd itself (Debian: etcd-server), by its JSON gateway."""

import asyncio
import base64
import http.client
import json
import shutil
import subprocess
import time

import pytest

from fastgw.testing.process import free_port

pytestmark = pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed")


class Etcd:
    def __init__(self, folder):
        self.folder = folder
        self.port, peer = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.command = [
            "etcd", "--data-dir", str(folder / "data"), "--listen-client-urls", f"http://{self.address}",
            "--advertise-client-urls", f"http://{self.address}", "--listen-peer-urls", f"http://127.0.0.1:{peer}",
            "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}", "--initial-cluster",
            f"default=http://127.0.0.1:{peer}", "--unsafe-no-fsync", "--logger", "zap", "--log-level", "error",
        ]  # fmt: skip
        self.process = None

    def start(self):
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen([part for part in self.command if part], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.ask("/v3/kv/range", key="x")
            except (OSError, http.client.HTTPException):
                log = (self.folder / "log").read_text()
                assert self.process.poll() is None and time.monotonic() < deadline, log
                time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        self.process.wait(60)

    def ask(self, path, token=None, **message):
        for name in ("key", "value", "range_end"):
            if name in message and path.startswith("/v3/kv"):
                message[name] = base64.b64encode(message[name].encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Authorization": token} if token else {}
        connection.request("POST", path, json.dumps(message), headers)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        connection.close()
        assert answer.status == 200, body
        return body

    def put(self, key, value, token=None):
        return int(self.ask("/v3/kv/put", token, key=key, value=value)["header"]["revision"])

    def delete(self, key):
        self.ask("/v3/kv/deleterange", key=key)


@pytest.fixture
def etcd(tmp_path):
    found = Etcd(tmp_path)
    try:
        found.start()
    except AssertionError as error:
        if "flag provided but not defined" not in str(error):
            raise
        found.command.remove("--unsafe-no-fsync")
        found.start()
    yield found
    found.stop()


def test_keys_are_read_and_then_watched(etcd, watch):
    async def run():
        etcd.put("/services/users/1", "10.0.0.1:80")
        etcd.put("/services/users-other/1", "10.7.7.7:80")
        given = {"type": "etcd", "address": etcd.address}
        async with watch(given) as watched:
            await watched.shows("http://10.0.0.1:80")
            etcd.put("/services/users/2", '{"url": "http://10.0.0.2:81", "weight": 3, "zone": "b", "labels": {"v": 2}}')
            await watched.shows("http://10.0.0.1:80", "http://10.0.0.2:81")
            two = watched.sets[-1].endpoints[1]
            assert (two.weight, two.zone, two.labels) == (3, "b", (("v", "2"),))
            # what etcd's own client library writes (clientv3/naming/endpoints)
            etcd.put("/services/users/3", '{"Op": 0, "Addr": "10.0.0.3:82", "Metadata": {"rack": "4"}}')
            await watched.shows("http://10.0.0.1:80", "http://10.0.0.2:81", "http://10.0.0.3:82")
            etcd.delete("/services/users/1")
            await watched.shows("http://10.0.0.2:81", "http://10.0.0.3:82")
            etcd.put("/services/users/2", "http://10.0.0.9:80")
            await watched.shows("http://10.0.0.3:82", "http://10.0.0.9:80")

    asyncio.run(run())


def test_a_server_that_goes_and_comes_back(etcd, watch):
    async def run():
        etcd.put("/services/users/1", "10.0.0.1:80")
        async with watch({"type": "etcd", "address": etcd.address}) as watched:
            await watched.shows("http://10.0.0.1:80")
            etcd.stop()
            await watched.until(lambda: watched.watcher.failures)
            assert watched.urls == ["http://10.0.0.1:80"]
            etcd.start()
            etcd.put("/services/users/2", "10.0.0.2:80")
            await watched.shows("http://10.0.0.1:80", "http://10.0.0.2:80")
            assert watched.watcher.state.error == ""

    asyncio.run(run())


def test_a_revision_that_was_compacted_is_read_again(etcd, watch, monkeypatch):
    """The watch begins at a revision that is gone: etcd cancels it, and everything is read anew."""
    etcd.put("/services/users/1", "10.0.0.1:80")

    async def run():
        watched = watch({"type": "etcd", "address": etcd.address})
        source = watched.watcher.source
        read_all, revisions = source.read_all, []

        async def read_and_fall_behind():
            revision = await read_all()
            revisions.append(revision)
            if len(revisions) == 1:
                etcd.put("/services/users/2", "10.0.0.2:80")
                last = etcd.put("/services/users/3", "10.0.0.3:80")
                etcd.ask("/v3/kv/compaction", revision=str(last))
            return revision

        monkeypatch.setattr(source, "read_all", read_and_fall_behind)
        async with watched:
            await watched.shows("http://10.0.0.1:80", "http://10.0.0.2:80", "http://10.0.0.3:80")
            assert len(revisions) == 2
            assert watched.watcher.failures == 0

    asyncio.run(run())


def test_everything_is_read_again_now_and_then(etcd, watch):
    async def run():
        etcd.put("/services/users/1", "10.0.0.1:80")
        async with watch({"type": "etcd", "address": etcd.address, "refresh": "300ms"}) as watched:
            await watched.shows("http://10.0.0.1:80")
            first = watched.watcher.confirmed
            await watched.until(lambda: watched.watcher.confirmed > first + 0.5)
            assert len(watched.sets) == 1 and watched.watcher.failures == 0

    asyncio.run(run())


def test_user_and_password(etcd, watch, caplog):
    etcd.ask("/v3/auth/user/add", name="root", password="r00t-secret")
    etcd.ask("/v3/auth/role/add", name="root")
    etcd.ask("/v3/auth/user/grant", user="root", role="root")
    etcd.put("/services/users/1", "10.0.0.1:80")
    etcd.ask("/v3/auth/enable")

    async def run():
        given = {"type": "etcd", "address": etcd.address}
        async with watch({**given, "user": "root", "password": "r00t-secret"}) as watched, watch(given) as without:
            await watched.shows("http://10.0.0.1:80")
            await without.until(lambda: without.watcher.failures)
            assert without.sets == []
        assert "r00t-secret" not in caplog.text

    asyncio.run(run())


def test_values_that_are_no_endpoints(etcd, watch):
    async def run():
        etcd.put("/services/users/1", '{"host": "10.0.0.1"}')
        async with watch({"type": "etcd", "address": etcd.address}) as watched:
            await watched.until(lambda: watched.watcher.failures)
            assert "neither `url` nor `Addr`" in watched.watcher.error

    asyncio.run(run())
