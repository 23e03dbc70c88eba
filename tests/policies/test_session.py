"""`session`, through sockets: who begins one, how long it lasts, and what ends it."""

import json
import re
import time
from contextlib import contextmanager
from http import HTTPStatus
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from fastgw.policies.session import SessionOptions
from fastgw.testing import FakeUpstream
from tests.policies.test_idempotency import until
from tests.store.redis_server import RedisServer, needed

SECRET = "a secret of 32 characters and more"
CONFIG = """
stores: {stores}
consumers: [{{name: ada, groups: [staff], plan: gold}}, {{name: anonymous}}]
plans: {{gold: {{scopes: [read]}}}}
services: {{app: {url}}}
routes:
  - {{path: /login, service: app, policies: [{{session: {{{common}, login: true, optional: true}}}}]}}
  - {{path: /free/*, service: app, policies: [{{session: {{{common}, optional: true}}}}, identity]}}
  - {{path: /*, service: app, policies: [{{session: {{{common}, excluded_paths: [/out]}}}}, identity]}}
"""


def app(connection):
    """Says what it got; the query says what else."""
    while True:
        request = connection.read_request()
        path, _, query = request.target.partition("?")
        heads = ""
        if path == "/login":
            heads = 'X-Session-Login: {"sub": "%s", "scope": "a b"}\r\n' % (query or "ada")
        if query == "logout":
            heads = "X-Session-Logout: 1\r\n"
        if query == "login":
            heads = 'X-Session-Login: {"sub": "eve"}\r\n'
        if query == "bad":
            heads = "X-Session-Login: [1]\r\n"
        body = json.dumps(dict(request.headers)).encode()
        connection.send(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (heads.encode(), len(body), body))


class Browser:
    def __init__(self, running):
        self.running = running
        self.cookie = None
        self.line = ""

    def get(self, path, extra=b"", cookie=None):
        cookie = cookie or self.cookie
        head = b"Cookie: a=1; __Host-session=%s; b=2\r\n" % cookie.encode() if cookie else b""
        with self.running.client() as client:
            answer = client.request(b"GET %s HTTP/1.1\r\nHost: h\r\n%s%s\r\n" % (path.encode(), head, extra))
        self.line = answer.get("Set-Cookie") or ""
        found = re.match(r"__Host-session=([^;]*); Max-Age=(\d+)", self.line)
        if found and not (cookie and cookie != self.cookie):
            self.cookie = found[1] if int(found[2]) else None
        assert answer.get("X-Session-Login") is None and answer.get("X-Session-Logout") is None
        return answer

    def who(self, path="/x", **more):
        answer = self.get(path, **more)
        if answer.status != HTTPStatus.OK:
            return answer.status
        return next((value for name, value in json.loads(answer.body).items() if name == "X-User-Id"), None)


@contextmanager
def world(gateway, common, stores="{}"):
    with FakeUpstream(app) as upstream:
        yield gateway(CONFIG.format(url=upstream.url, stores=stores, common=common))


@pytest.mark.parametrize("common", ["store: memory", f"secret: {SECRET}"])
def test_the_life_of_a_session(gateway, common):
    with world(gateway, common) as running:
        browser = Browser(running)
        refused = browser.get("/x")
        assert refused.status == 401 and refused.get("WWW-Authenticate") == "Session"
        assert browser.who("/out") is None and browser.who("/free/a") == "anonymous"
        assert browser.get("/login").get("Cache-Control") == "no-store"
        assert browser.line.endswith("; Path=/; HttpOnly; SameSite=Lax; Secure") and "Max-Age=28800" in browser.line
        assert browser.who() == "ada" and browser.who("/free/a") == "ada" and browser.line == ""
        got = json.loads(browser.get("/x", b"X-User-Id: eve\r\n").body)
        assert got["X-User-Id"] == "ada" and got["X-User-Scopes"] == "a b", "what the client says is nothing"
        assert got["Cookie"] == "a=1; b=2", "the service does not see the cookie"
        # no other service begins one, and none without a user
        first = browser.cookie
        assert browser.who("/x?login") == "ada" and browser.cookie == first
        assert browser.get("/login?logout").status == 200 and browser.cookie is None
        assert browser.who() == 401
        if "memory" in common:
            assert browser.who(cookie=first) == 401, "it is gone, whoever kept the cookie"
        browser.get("/login?bob")
        assert browser.who() == "bob" and browser.cookie != first
        before = browser.cookie
        browser.get("/login")                        # another login has another session, and ends the one before
        assert browser.cookie.partition(".")[0] != before.partition(".")[0] and browser.who() == "ada"
        assert Browser(running).get("/login?bad").status == 502
        changed = before[:30] + "A" * (len(before) - 30)
        for wrong in ("x", before[:-3], before + "x", "A" * 22 + "." + "B" * 43, changed):
            other = Browser(running)
            answer = other.get("/x", cookie=wrong)
            assert answer.status == 401 and "Max-Age=0" in other.line


def test_how_long_one_lasts(gateway, monkeypatch):
    """The clock of sessions is moved, not waited for."""
    clock = [time.time()]
    moved = SimpleNamespace(time=lambda: clock[0])
    monkeypatch.setattr("fastgw.store.sessions.time", moved)
    monkeypatch.setattr("fastgw.policies.session.time", moved)
    with world(gateway, "store: memory, idle: 100s, lifetime: 1000s, rotate: 50s, interval: 0") as running:
        browser = Browser(running)
        browser.get("/login")
        first = browser.cookie
        clock[0] += 20
        assert browser.who() == "ada" and browser.cookie == first
        clock[0] += 90                           # since the last use, less than `idle`
        assert browser.who() == "ada"
        second = browser.cookie
        assert second != first and second[:22] == first[:22] and "Max-Age=890" in browser.line, "its secret changed"
        assert browser.who(cookie=first) == "ada", "requests that were under way"
        clock[0] += 61
        assert browser.who(cookie=first) == 401 and browser.who() == "ada"
        clock[0] += 101
        assert browser.who() == 401, "not used for too long"
        browser.get("/login")
        for _ in range(12):
            clock[0] += 80
            assert browser.who() == "ada"
        clock[0] += 80
        assert browser.who() == 401, "used all the time, and for too long"


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"store": "memory", "secret": SECRET},
        {"secret": "short"},
        {"store": "memory", "secure": False},
        {"store": "memory", "secure": False, "cookie": "s", "same_site": "none"},
        {"store": "memory", "idle": 100, "lifetime": 50},
    ],
)
def test_what_is_no_configuration(wrong):
    with pytest.raises(ValidationError):
        SessionOptions.model_validate(wrong)
    SessionOptions.model_validate({"store": "memory", "secure": False, "cookie": "s"})


@needed
def test_in_redis(gateway, tmp_path):
    with RedisServer(tmp_path) as server:
        stores = f"{{redis: {{url: '{server.url}', deadline: 5s, timeout: 5s}}}}"
        common = "store: redis, interval: 200ms"
        with world(gateway, common, stores) as near, world(gateway, common, stores) as far:
            browser = Browser(near)
            browser.get("/login")
            there = Browser(far)
            there.cookie = browser.cookie
            assert browser.who() == there.who() == "ada"
            number, secret = browser.cookie.split(".")
            key = f"fastgw:session/session/{number}"
            assert 0 < int(server.command("PTTL", key)[1:]) <= 1_800_000
            assert secret.encode() not in server.command("GET", key), "a hash of it"
            browser.get("/x?logout")
            until(lambda: there.who() == 401, "ended here, ended there")
            browser.get("/login")
            server.kill()
            until(lambda: browser.who() == 503, "nobody can say who it is")
            assert browser.get("/login").status == 503
