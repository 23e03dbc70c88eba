"""`oidc` with sessions in Redis: listed, ended from here and by the provider; tokens that are refreshed in time."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from fastgw.policies.oidc import OidcOptions
from fastgw.testing import FakeUpstream, GatewayProcess
from fastgw.testing.issuer import FakeIssuer
from tests.admin.test_keys import TOKEN, admin
from tests.e2e.test_oidc import BASE, CLIENT, SECRET, SESSION, Browser, World
from tests.store.redis_server import RedisServer, needed

EVENT = "http://schemas.openid.net/event/backchannel-logout"


class Tokens(World):
    """Gives refresh tokens, each good once."""

    def __init__(self, issuer, upstream, redis):
        super().__init__(issuer, upstream)
        self.redis = redis
        self.lifetime = 3600
        self.refreshes = 0
        self.refuse = False

    def token(self, path, form):
        if self.answer is not None:
            return self.answer
        if form.get("grant_type") == "refresh_token":
            if self.refuse or form["refresh_token"] != f"refresh-{self.refreshes}":
                return 400, {"error": "invalid_grant"}
            self.refreshes += 1
            return 200, {"access_token": f"access-{self.refreshes}", "token_type": "Bearer",
                         "expires_in": self.lifetime, "refresh_token": f"refresh-{self.refreshes}"}  # fmt: skip
        status, answer = super().token(path, form)
        self.refreshes = 0
        return status, {**answer, "access_token": "access-0", "refresh_token": "refresh-0", "expires_in": self.lifetime}

    def config(self, **session):
        made = super().config(
            session={"secret": SESSION, "store": "redis", "forward_token": True, "interval": "200ms", **session},
            backchannel_path="/oauth2/backchannel",
        )
        slow = {"deadline": "5s", "timeout": "5s"}
        return {**made, "admin": {"token": TOKEN}, "stores": {"redis": {"url": self.redis.url, **slow}}}

    def post(self, gateway, **claims):
        token = self.issuer.token(aud=CLIENT, **claims)
        body = f"logout_token={token}".encode()
        with gateway.client(60) as client:
            return client.request(
                b"POST /oauth2/backchannel HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
                b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)
            )  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as redis, FakeIssuer() as issuer, FakeUpstream() as upstream:
        issuer.extra = {
            "authorization_endpoint": f"{issuer.url}/authorize",
            "token_endpoint": "https://id.example.com/oauth2/token",
            "end_session_endpoint": f"{issuer.url}/logout",
        }
        made = Tokens(issuer, upstream, redis)
        with made.server, GatewayProcess(made.config(refresh_ahead="10s")) as gateway:
            yield made, gateway


def got(world, browser, path="/x"):
    """What the service got: (status, user, authorization)."""
    before = len(world.upstream.requests)
    answer = browser.get(path)
    if answer.status != 200 or len(world.upstream.requests) == before:
        return answer.status, None, None
    request = world.upstream.requests[-1]
    return answer.status, request.get("X-User-Id"), request.get("Authorization")


def until(condition, what):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@needed
def test_a_session_in_redis(world):
    world, gateway = world
    world.lifetime, world.claims = 3600, {"sub": "ada"}
    browser = Browser(gateway)
    assert world.log_in(browser).status == 302
    cookie = browser.cookies["fastgw_session"]
    assert len(cookie) == 66, "an id and a secret"
    assert got(world, browser) == (200, "ada", "Bearer access-0")
    (row,) = admin(gateway, "GET", "/users/ada/sessions")[1]
    stored = world.redis.command("GET", f"fastgw:session/{row['id']}")
    for secret in (b"access-0", b"refresh-0", cookie[23:].encode()):
        assert secret not in stored
    answer = browser.get("/oauth2/logout")
    assert "id_token_hint=ey" in answer.get("Location") and "fastgw_session" not in browser.cookies
    browser.cookies["fastgw_session"] = cookie
    until(lambda: browser.get("/x").status == 302, "a copy of the cookie is good no more")
    assert admin(gateway, "GET", "/users/ada/sessions")[1] == []
    world.log_in(browser)
    assert len(admin(gateway, "DELETE", "/users/ada/sessions")[1]["ended"]) == 1
    until(lambda: browser.get("/x").status == 302, "ended by who operates the gateway")


@needed
def test_tokens_are_refreshed_once(world):
    world, gateway = world
    world.lifetime, world.claims = 5, {"sub": "rex"}            # less than `refresh_ahead`
    browser = Browser(gateway)
    world.log_in(browser)
    world.lifetime = 3600
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: browser.get("/x").status, range(8)))
    assert answers == [200] * 8 and world.refreshes == 1, "a refresh token that comes twice would end it"
    until(lambda: got(world, browser) == (200, "rex", "Bearer access-1"), "the new one")
    # the provider is out of reach, and then refuses
    world.lifetime, browser = 5, Browser(gateway)
    world.log_in(browser)
    world.answer = (500, {})
    assert got(world, browser)[0] == 200, "the token is still good"
    until(lambda: browser.get("/x").status == 503, "it has ended")
    world.answer, world.refuse = None, True
    until(lambda: browser.get("/x").status == 302, "the provider ended the session")
    world.refuse = False


@needed
def test_the_provider_says_that_somebody_left(world):
    world, gateway = world
    world.lifetime = 3600
    browsers = {}
    for sid in ("one", "two"):
        world.claims = {"sub": "eve", "sid": sid}
        browsers[sid] = Browser(gateway)
        world.log_in(browsers[sid])
    assert got(world, browsers["one"])[1] == got(world, browsers["two"])[1] == "eve"
    wrong = ({"sub": "eve"}, {"sub": "eve", "events": {EVENT: {}}, "nonce": "n"}, {"events": {EVENT: {}}, "sub": 7},
             {"sub": "eve", "events": {EVENT: {}}, "aud": "other"}, {"sub": "eve", "events": {"x": {}}})  # fmt: skip
    for claims in wrong:
        token = {"iat": int(time.time()), **claims}
        answer = world.post(gateway, **token) if "aud" not in token else post_other(world, gateway, token)
        assert answer.status == 400 and json.loads(answer.body)["code"] == "login_failed", claims
    assert world.post(gateway, iat=int(time.time()), sub="eve", sid="one", events={EVENT: {}}).status == 200
    until(lambda: browsers["one"].get("/x").status == 302, "it has ended")
    assert got(world, browsers["two"])[0] == 200
    answer = world.post(gateway, iat=int(time.time()), sub="eve", events={EVENT: {}})
    assert answer.status == 200 and answer.get("Cache-Control") == "no-store"
    until(lambda: browsers["two"].get("/x").status == 302, "all of them")
    with gateway.client() as client:
        assert client.request(b"GET /oauth2/backchannel HTTP/1.1\r\nHost: a\r\n\r\n").status == 405


def post_other(world, gateway, claims):
    """For another client of the provider."""
    token = world.issuer.token(**claims)
    body = f"logout_token={token}".encode()
    with gateway.client(60) as client:
        return client.request(
            b"POST /oauth2/backchannel HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )


@pytest.mark.parametrize(
    "session, more",
    [
        ({"forward_token": True}, {}),
        ({}, {"backchannel_path": "/b"}),
        ({"store": "memory"}, {"backchannel_path": "/b"}),
    ],
)
def test_what_is_no_configuration(session, more):
    options = {"issuer": "https://id.example.com", "base_url": BASE, "service": "id", "client_id": CLIENT,
               "client_secret": SECRET, "session": {"secret": SESSION, **session}, **more}  # fmt: skip
    with pytest.raises(ValidationError):
        OidcOptions.model_validate(options)
