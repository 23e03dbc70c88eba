"""`oidc` against a contract fake of a provider: each thing that can be wrong with a login, and what a session is."""

import base64
import hashlib
import json
import re
import secrets
import time
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import ValidationError

from fastgw.policies.oidc import OidcOptions
from fastgw.testing import FakeUpstream, GatewayProcess
from fastgw.testing.issuer import FakeIssuer
from tests.e2e.oauth_server import OAuthServer

SECRET = "planted client secret"
SESSION = "planted session secret of 40 characters"
BASE = "http://127.0.0.1:8080"
CLIENT = "shop"


class Browser:
    """Keeps cookies, follows nothing by itself."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.cookies = {}

    def get(self, path, accept="text/html", **headers):
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        lines = "".join(f"{name}: {value}\r\n" for name, value in {"Accept": accept, **headers}.items())
        with self.gateway.client(60) as client:
            answer = client.request(f"GET {path} HTTP/1.1\r\nHost: a\r\n{lines}Connection: close\r\n\r\n".encode())
        self.last = answer.all("Set-Cookie")
        for line in self.last:
            for name, morsel in SimpleCookie(line).items():
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
        return answer

    def begin(self, path="/page?x=1"):
        """To the provider: the query it is asked with."""
        answer = self.get(path)
        assert answer.status == 302, answer
        return {name: values[0] for name, values in parse_qs(urlsplit(answer.get("Location")).query).items()}

    def back(self, state, code="code-1", more=""):
        return self.get(f"/oauth2/callback?code={code}&state={state}{more}")


class World:
    def __init__(self, issuer, upstream):
        self.issuer = issuer
        self.upstream = upstream
        self.claims = {}
        """What the next ID token says beside what it must."""
        self.nonce = None
        self.answer = None
        self.server = OAuthServer(self.token)

    def token(self, path, form):
        if self.answer is not None:
            return self.answer
        claims = {"aud": CLIENT, "nonce": self.nonce, "email": "ada@example.com", **self.claims}
        return 200, {"access_token": "a", "token_type": "Bearer", "id_token": self.issuer.token(**claims)}

    def config(self, **more):
        options = {
            "issuer": self.issuer.url, "base_url": BASE, "service": "id", "client_id": CLIENT, "client_secret": SECRET,
            "session": {"secret": SESSION}, "timeout": "20s", **more,
        }  # fmt: skip
        return {
            "services": {"id": self.server.url, "up": self.upstream.url},
            "routes": [{"path": "/*", "service": "up", "policies": [{"oidc": options}]}],
        }

    def log_in(self, browser, path="/page?x=1"):
        asked = browser.begin(path)
        self.nonce = asked["nonce"]
        return browser.back(asked["state"])


@pytest.fixture
def world():
    with FakeIssuer() as issuer, FakeUpstream() as upstream:
        issuer.extra = {
            "authorization_endpoint": f"{issuer.url}/authorize?tenant=1",
            "token_endpoint": "https://id.example.com/oauth2/token",
            "end_session_endpoint": f"{issuer.url}/logout",
        }
        made = World(issuer, upstream)
        with made.server:
            yield made


def code_of(answer):
    """(status, code), of problem+json or of the page a browser gets."""
    if answer.body.startswith(b"{"):
        return answer.status, json.loads(answer.body)["code"]
    return answer.status, re.search(rb"<small>([a-z_]+) ", answer.body)[1].decode()


def test_a_login_a_session_and_a_logout(world):
    with GatewayProcess(world.config(scopes=["email"])) as gateway:
        browser = Browser(gateway)
        asked = browser.begin()
        assert asked["redirect_uri"] == f"{BASE}/oauth2/callback" and asked["scope"] == "openid email"
        assert asked["code_challenge_method"] == "S256" and len(asked["code_challenge"]) == 43
        assert asked["tenant"] == "1" and asked["response_type"] == "code" and asked["client_id"] == CLIENT
        assert "HttpOnly" in browser.last[0] and "SameSite=Lax" in browser.last[0]
        world.nonce = asked["nonce"]
        answer = browser.back(asked["state"])
        assert (answer.status, answer.get("Location")) == (302, f"{BASE}/page?x=1")
        assert answer.get("Cache-Control") == "no-store"
        ((path, form, client),) = world.server.asked
        assert path == "/oauth2/token" and client == (CLIENT, SECRET)
        assert form["grant_type"] == "authorization_code" and form["code"] == "code-1"
        assert form["redirect_uri"] == asked["redirect_uri"]
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == asked["code_challenge"]
        assert list(browser.cookies) == ["fastgw_session"], "the login's cookie is gone"

        browser.cookies["theme"] = "dark"
        browser.cookies["fastgw_session2"] = "of the service"
        assert browser.get("/page", **{"X-User-Id": "root", "x-user-scopes": "admin"}).status == 200
        told = world.upstream.requests[-1]
        assert told.all("X-User-Id") == ["ada"] and "X-User-Scopes" not in told
        assert told.all("Cookie") == ["theme=dark; fastgw_session2=of the service"]
        sealed = browser.cookies["fastgw_session"]
        shown = gateway.admin("/config")[1] + gateway.stdout + gateway.stderr
        for secret in (SECRET, SESSION, sealed):
            assert secret not in shown

        answer = browser.get("/oauth2/logout")
        where = urlsplit(answer.get("Location"))
        query = parse_qs(where.query)
        assert answer.status == 302 and where.path == "/logout"
        assert query["post_logout_redirect_uri"] == [f"{BASE}/"] and query["id_token_hint"][0].count(".") == 2
        assert "fastgw_session" not in browser.cookies
        assert browser.get("/page").status == 302
        assert len(world.upstream.requests) == 1


def test_who_is_no_browser_is_told(world):
    with GatewayProcess(world.config()) as gateway:
        browser = Browser(gateway)
        answer = browser.get("/api", accept="application/json")
        assert code_of(answer) == (401, "unauthorized") and answer.get("WWW-Authenticate") == "Session"
        assert browser.cookies == {} and world.upstream.requests == []


def test_logins_that_this_browser_did_not_begin(world):
    with GatewayProcess(world.config()) as gateway:
        mine, other = Browser(gateway), Browser(gateway)
        asked = mine.begin()
        world.nonce = asked["nonce"]
        # login CSRF: the attacker's code and state in the browser of somebody else
        assert code_of(other.back(asked["state"])) == (401, "login_failed")
        other.begin()
        assert code_of(other.back(asked["state"])) == (401, "login_failed")
        assert code_of(mine.back(asked["state"][:8] + "x" * 35)) == (401, "login_failed")
        assert code_of(mine.back("")) == (401, "login_failed")
        assert code_of(mine.get("/oauth2/callback")) == (401, "login_failed")
        assert code_of(mine.back(asked["state"], more="&iss=https://other.example")) == (401, "login_failed")
        assert code_of(mine.get("/oauth2/callback?" + "a=1&" * 1000)) == (401, "login_failed")
        refused = mine.get(f"/oauth2/callback?error=access_denied&state={asked['state']}")
        assert code_of(refused) == (401, "login_failed")
        assert world.server.asked == [], "the provider was not asked with any of these"
        assert mine.back(asked["state"]).status == 302


def test_id_tokens_that_are_not_good(world):
    with GatewayProcess(world.config()) as gateway, FakeIssuer() as stranger:
        bad = [
            {"nonce": "another"}, {"nonce": None}, {"aud": "another"}, {"aud": None}, {"iss": stranger.url},
            {"exp": int(time.time()) - 600}, {"exp": None}, {"sub": None}, {"sub": "a\nb"},
            {"aud": [CLIENT, "another"]}, {"azp": "another"},
        ]  # fmt: skip
        for claims in bad:
            world.claims = claims
            browser = Browser(gateway)
            assert code_of(world.log_in(browser)) == (401, "login_failed"), claims
            assert "fastgw_session" not in browser.cookies
        world.claims = {"aud": [CLIENT, "another"], "azp": CLIENT}
        assert world.log_in(Browser(gateway)).status == 302
        for answer in ((200, {}), (200, {"id_token": "x.y.z"}), (200, {"id_token": stranger.token(aud=CLIENT)}),
                       (400, {"error": "invalid_grant"})):  # fmt: skip
            world.answer = answer
            assert code_of(world.log_in(Browser(gateway))) == (401, "login_failed"), answer
        for answer in ((401, {"error": "invalid_client"}), (500, {}), (200, b"<html>")):
            world.answer = answer
            assert code_of(world.log_in(Browser(gateway))) == (503, "authorizer_unavailable"), answer
        assert world.upstream.requests == []


def test_sessions_that_are_not_ours(world):
    with GatewayProcess(world.config()) as gateway:
        browser = Browser(gateway)
        asked = browser.begin()
        login = next(iter(browser.cookies.values()))
        world.nonce = asked["nonce"]
        browser.back(asked["state"])
        good = browser.cookies["fastgw_session"]
        assert browser.get("/page", accept="application/json").status == 200
        changed = good[:20] + ("A" if good[20] != "A" else "B") + good[21:]
        for value in (changed, good[:-4], "", "x", "é", login, "A" * 8000):
            browser.cookies = {"fastgw_session": value}
            assert browser.get("/page", accept="application/json").status == 401, value
    other = world.config(session={"secret": "another session secret of 40 characters"})
    with GatewayProcess(other) as gateway:
        browser.gateway, browser.cookies = gateway, {"fastgw_session": good}
        assert browser.get("/page", accept="application/json").status == 401
    rotated = {"secret": "another session secret of 40 characters", "old_secrets": [SESSION]}
    with GatewayProcess(world.config(session=rotated)) as gateway:
        browser.gateway = gateway
        assert browser.get("/page", accept="application/json").status == 200


def test_where_a_login_leads_back_to(world):
    with GatewayProcess(world.config()) as gateway:
        for path in ("//evil.example/x", "/a?next=https://evil.example", "/" + "a" * 3000):
            where = world.log_in(Browser(gateway), path).get("Location")
            assert where.startswith(f"{BASE}/") and urlsplit(where).netloc == urlsplit(BASE).netloc, path


def test_a_large_session_is_in_several_cookies(world):
    world.claims = {"roles": [secrets.token_hex(30) for _ in range(40)]}
    with GatewayProcess(world.config(claims=["sub", "roles"])) as gateway:
        browser = Browser(gateway)
        assert world.log_in(browser).status == 302
        assert sorted(browser.cookies) == ["fastgw_session", "fastgw_session.1"]
        assert all(len(line) < 4096 for line in browser.last)
        assert browser.get("/page").status == 200
        browser.get("/oauth2/logout")
        assert browser.cookies == {}
        world.claims = {"roles": [secrets.token_hex(30) for _ in range(300)]}
        assert code_of(world.log_in(Browser(gateway))) == (401, "login_failed")


def test_a_token_endpoint_that_cannot_be_asked_for(world):
    world.issuer.extra["token_endpoint"] = "https://id.example.com/<token>"
    with GatewayProcess(world.config()) as gateway:
        assert code_of(world.log_in(Browser(gateway))) == (503, "authorizer_unavailable")


def test_a_provider_that_was_never_reached(world):
    world.issuer.status = 500
    with GatewayProcess(world.config()) as gateway:
        assert code_of(Browser(gateway).get("/page")) == (503, "keys_unavailable")
        assert code_of(Browser(gateway).get("/page", accept="application/json")) == (401, "unauthorized")
        assert world.upstream.requests == []


@pytest.mark.parametrize(
    "more, words",
    [
        ({"session": {"secret": "short"}}, "32 characters"),
        ({"base_url": "http://shop.example.com"}, "https"),
        ({"base_url": "https://shop.example.com/app"}, "has a path"),
        ({"logout_path": "/oauth2/callback"}, "are the same"),
        ({"client_secret": ""}, "is empty"),
        ({"issuer": "http://id.example.com"}, "https"),
    ],
)
def test_options_that_are_refused(more, words):
    good = {
        "issuer": "https://id.example.com", "base_url": BASE, "service": "id", "client_id": CLIENT,
        "client_secret": SECRET, "session": {"secret": SESSION},
    }  # fmt: skip
    OidcOptions.model_validate(good)
    with pytest.raises(ValidationError) as caught:
        OidcOptions.model_validate({**good, **more})
    assert words in str(caught.value) and SECRET not in str(caught.value) and SESSION not in str(caught.value)
