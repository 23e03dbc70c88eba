"""`cors` as a browser sees it: the checks of the Fetch standard on what the policy answers, as the cors/ cases of
web-platform-tests put them."""

import pytest

from fastgw.config import load
from fastgw.policies import RESOLVER
from fastgw.testing import FakeUpstream, answer
from fastgw.testing.policy import Trial

APP, EVIL = "https://app.example.com", "https://evil.example"
SAFELISTED = {"accept", "accept-language", "content-language", "content-type"}


def values(outcome, name):
    """Fetch, "extracting header list values": the items of all lines of that name."""
    lines = [value for key, value in outcome.got if key.lower() == name]
    return [item.strip() for line in lines for item in line.split(",") if item.strip()]


def cors_check(outcome, origin, credentials):
    """Fetch 4.10, the CORS check of an answer."""
    lines = [value for key, value in outcome.got if key.lower() == "access-control-allow-origin"]
    if len(lines) != 1:
        return False
    if not credentials and lines[0] == "*":
        return True
    if lines[0] != origin:
        return False
    return not credentials or outcome.header("Access-Control-Allow-Credentials") == "true"


def preflight(trial, origin, method, headers, credentials, private=False):
    """Fetch 4.8, the CORS-preflight fetch: may the request be sent?"""
    sent = {"Origin": origin, "Access-Control-Request-Method": method}
    if headers:
        sent["Access-Control-Request-Headers"] = ",".join(sorted(name.lower() for name in headers))
    if private:
        sent["Access-Control-Request-Private-Network"] = "true"
    outcome = trial.ask("OPTIONS /orders", sent)
    if not cors_check(outcome, origin, credentials) or not 200 <= outcome.status <= 299:
        return False
    methods, names = values(outcome, "access-control-allow-methods"), values(outcome, "access-control-allow-headers")
    if method not in methods and method not in ("GET", "HEAD", "POST") and (credentials or "*" not in methods):
        return False
    for name in headers:
        listed = name.lower() in [one.lower() for one in names]
        if not listed and (credentials or "*" not in names or name.lower() == "authorization"):
            return False
    return not private or values(outcome, "access-control-allow-private-network") == ["true"]


ONE = {"origins": [APP], "methods": ["GET", "PUT"], "headers": ["X-A"]}
ALL = {"origins": ["*"], "methods": ["*"], "headers": ["*"]}
COOKIES = {"origins": [APP], "methods": ["*"], "headers": ["*"], "credentials": True}


@pytest.mark.parametrize(
    "options, origin, method, headers, credentials, allowed",
    [
        (ONE, APP, "PUT", [], False, True),
        (ONE, APP, "GET", ["X-A"], False, True),
        (ONE, APP, "GET", ["x-a", "X-A"], False, True),
        (ONE, APP, "POST", [], False, True),            # safelisted: asked for because of its headers
        (ONE, APP, "DELETE", [], False, False),
        (ONE, APP, "put", [], False, False),            # methods are compared as they are written
        (ONE, APP, "GET", ["X-B"], False, False),
        (ONE, APP, "GET", ["X-A", "X-B"], False, False),
        (ONE, EVIL, "PUT", [], False, False),
        (ONE, "null", "PUT", [], False, False),
        (ONE, APP + ":8443", "PUT", [], False, False),
        (ONE, APP.replace("https", "http"), "PUT", [], False, False),
        (ONE, APP, "PUT", [], True, False),             # without `credentials` no cookies
        (ALL, EVIL, "PATCH", ["X-Anything"], False, True),
        (ALL, EVIL, "GET", ["Authorization"], False, True),     # which `*` itself would not cover
        (ALL, "null", "GET", [], False, True),
        (ALL, EVIL, "GET", [], True, False),
        (COOKIES, APP, "PATCH", ["X-Anything", "Authorization"], True, True),
        (COOKIES, APP, "GET", [], False, True),
        (COOKIES, EVIL, "GET", [], True, False),
        ({"origins": ["null"]}, "null", "GET", ["Authorization"], False, True),
        ({"origins": ["https://*.example.com"], "credentials": True}, APP, "DELETE", [], True, True),
        ({"origins": ["https://*.example.com"], "credentials": True}, "https://example.com", "DELETE", [], True, False),
        ({"origins": ["http://localhost:*"]}, "http://localhost:3000", "GET", ["Content-Type"], False, True),
    ],
)
def test_preflights(options, origin, method, headers, credentials, allowed):
    assert preflight(Trial("cors", options), origin, method, headers, credentials) is allowed


@pytest.mark.parametrize(
    "options, origin, credentials, readable",
    [
        (ONE, APP, False, True),
        (ONE, APP, True, False),
        (ONE, EVIL, False, False),
        (ALL, EVIL, False, True),
        (ALL, EVIL, True, False),
        (COOKIES, APP, True, True),
        (COOKIES, APP, False, True),
        (COOKIES, EVIL, True, False),
        ({"origins": [APP, "https://other.example"], "credentials": True}, "https://other.example", True, True),
    ],
)
@pytest.mark.parametrize("status", [200, 304, 404, 500])
def test_answers(options, origin, credentials, readable, status):
    """The service's own CORS headers, here wrong ones, do not get through."""
    response = (
        b"HTTP/1.1 %d X\r\nAccess-Control-Allow-Origin: https://evil.example\r\n"
        b"Access-Control-Allow-Credentials: true\r\nContent-Length: 0\r\n\r\n" % status
    )
    outcome = Trial("cors", options).ask("GET /", {"Origin": origin}, response=response)
    assert cors_check(outcome, origin, credentials) is readable
    if options is not ALL:
        assert "Origin" in values(outcome, "vary"), "what depends on Origin says so to caches"


def test_an_answer_is_kept_apart_for_each_origin():
    trial = Trial("cors", {"origins": [APP, "https://b.example"]})
    for origin in (APP, "https://b.example", EVIL, None):
        outcome = trial.ask("GET /", {} if origin is None else {"Origin": origin})
        assert "Origin" in values(outcome, "vary")


def test_what_scripts_may_read():
    """Fetch, "CORS-exposed header-name list"."""
    outcome = Trial("cors", {**COOKIES, "expose": ["X-Total", "Link"]}).ask("GET /", {"Origin": APP})
    assert values(outcome, "access-control-expose-headers") == ["X-Total", "Link"]
    outcome = Trial("cors", {**ALL, "expose": ["*"]}).ask("GET /", {"Origin": APP})
    assert values(outcome, "access-control-expose-headers") == ["*"]
    with pytest.raises(ValueError, match="expose"):
        Trial("cors", {**COOKIES, "expose": ["*"]})


@pytest.mark.parametrize("private, asks, allowed", [(True, True, True), (False, True, False), (False, False, True)])
def test_private_networks(private, asks, allowed):
    trial = Trial("cors", {**ONE, "private_network": private})
    assert preflight(trial, APP, "PUT", [], False, private=asks) is allowed


def test_who_does_not_ask_for_a_private_network_is_not_told():
    trial = Trial("cors", {**ONE, "private_network": True})
    asked = {"Origin": APP, "Access-Control-Request-Method": "PUT"}
    outcome = trial.ask("OPTIONS /", asked)
    assert outcome.header("Access-Control-Allow-Private-Network") is None
    assert "Access-Control-Request-Private-Network" in values(outcome, "vary")


@pytest.mark.parametrize("age, told", [("0s", "0"), ("10m", "600"), (86400, "86400")])
def test_how_long_a_preflight_is_remembered(age, told):
    outcome = Trial("cors", {**ONE, "max_age": age}).ask(
        "OPTIONS /", {"Origin": APP, "Access-Control-Request-Method": "PUT"}
    )
    assert outcome.header("Access-Control-Max-Age") == told


def test_refusals_of_other_policies_can_be_read(gateway):
    """A page must see that it got 401, or it cannot send its user to the login."""
    running = gateway(
        f"policies: [{{cors: {{origins: ['{APP}']}}}}]\n"
        "routes: [{path: /, policies: [key_auth, respond: {body: a}]}]"
    )
    with running.client() as client:
        refused = client.request(b"GET / HTTP/1.1\r\nHost: a\r\nOrigin: %s\r\n\r\n" % APP.encode())
    assert (refused.status, refused.get("Access-Control-Allow-Origin")) == (401, APP)


DOCUMENT = """
api_gateway:
  services: {{users: "{url}"}}
  routing: {{routes: [{{path: /users, service: users, methods: [GET, POST]}}]}}
  plugins:
    - name: authentication
      config: {{type: jwt, secret: "a secret that is long enough for HS256"}}
    - name: cors
      config:
        origins: ["https://example.com"]
        methods: [GET, POST, PUT, DELETE]
        headers: [Content-Type, Authorization]
"""


def test_the_part_of_an_api_gateway_document(gateway):
    with FakeUpstream(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as upstream:
        text = DOCUMENT.format(url=upstream.url)
        assert [use.name for use in load(text, resolver=RESOLVER, env={}).policies] == ["jwt", "cors"]
        running = gateway(text)
        asked = (
            b"OPTIONS /users HTTP/1.1\r\nHost: a\r\nOrigin: https://%s\r\nAccess-Control-Request-Method: POST\r\n"
            b"Access-Control-Request-Headers: authorization\r\n\r\n"
        )
        with running.client() as client:
            allowed = client.request(asked % b"example.com")
            refused = client.request(asked % b"evil.example")
            unknown = client.request(b"GET /users HTTP/1.1\r\nHost: a\r\nOrigin: https://example.com\r\n\r\n")
    assert (allowed.status, allowed.get("Access-Control-Allow-Origin")) == (204, "https://example.com")
    assert allowed.get("Access-Control-Allow-Methods") == "GET, POST, PUT, DELETE"
    assert allowed.get("Access-Control-Allow-Headers") == "Content-Type, Authorization"
    assert (refused.status, refused.get("Access-Control-Allow-Origin")) == (403, None)
    assert (unknown.status, unknown.get("Access-Control-Allow-Origin")) == (401, "https://example.com")
    assert upstream.requests == []
