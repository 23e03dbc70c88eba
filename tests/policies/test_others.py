"""`request_id`, `headers`, `respond`, `redirect`."""


import pytest
from pydantic import ValidationError

from fastgw._core.exchange import Consumer
from fastgw._core.settings import Settings
from fastgw.policies import resolve
from fastgw.testing.policy import Trial

MADE = "0123456789abcdeffedcba9876543210"


# ------------------------------------------------------------------ request_id


def test_an_id_is_made_and_told_to_both_sides():
    outcome = Trial("request_id").ask(headers={"X-Request-ID": "forged"})
    assert outcome.upstream_header("X-Request-ID") == MADE == outcome.header("X-Request-ID") == outcome.exchange.id
    assert sum(name.lower() == "x-request-id" for name, _ in outcome.sent) == 1
    assert Trial("request_id", {"response": False}).ask().header("X-Request-ID") is None


def test_an_id_is_kept_from_those_who_are_believed():
    given = {"x-correlation-id": "abc-123"}
    options = {"header": "X-Correlation-ID"}
    assert Trial("request_id", {**options, "accept": True}).ask(headers=given).exchange.id == "abc-123"
    assert Trial("request_id", options).ask(headers=given, trusted=True).header("X-Correlation-ID") == "abc-123"
    proxies = Settings(trusted_proxies=("127.0.0.0/8",))
    assert Trial("request_id", options).ask(headers=given, settings=proxies).exchange.id == "abc-123"
    elsewhere = Settings(trusted_proxies=("10.0.0.0/8",))
    assert Trial("request_id", options).ask(headers=given, settings=elsewhere).exchange.id == MADE


@pytest.mark.parametrize("given", ["a" * 129, "a b", 'a"b', "a;b", "<x>", "ü", ""])
def test_an_id_that_could_do_harm_is_replaced(given):
    outcome = Trial("request_id", {"accept": True}).ask(headers={"X-Request-ID": given})
    assert outcome.upstream_header("X-Request-ID") == MADE


# ------------------------------------------------------------------ headers


def test_edits_of_both_heads():
    trial = Trial(
        "headers",
        {
            "request": {
                "remove": ["X-Debug"],
                "set": {"X-Env": "prod"},
                "add": {"X-Tag": ["a", "b"], "X-More": "c"},
            },
            "response": {"remove": ["Server"], "set": {"X-Env": "r"}},
        },
    )
    outcome = trial.ask(
        headers=[("x-debug", "1"), ("x-env", "dev"), ("X-ENV", "dev2"), ("X-Tag", "0")],
        response=b"HTTP/1.1 200 OK\r\nServer: secret\r\n\r\n",
    )
    names = [name.lower() for name, _ in outcome.sent]
    assert "x-debug" not in names and names.count("x-env") == 1
    assert outcome.upstream_header("X-Env") == "prod"
    assert [value for name, value in outcome.sent if name == "X-Tag"] == ["0", "a", "b"]
    assert outcome.upstream_header("X-More") == "c"
    assert outcome.got == [("X-Env", "r")]


@pytest.mark.parametrize(
    "template, value",
    [
        ("${request.id}", MADE),
        ("${client.ip}/${request.method}", "192.0.2.7/GET"),
        ("${request.path}", "/users/a%2Fb"),
        ("${request.host}", "example.com"),
        ("${route.params.id}", "a/b"),
        ("${route.name}", "users"),
        ("${request.header.X-A}", "1"),
        ("${request.query.q}", "x y&"),
        ("${request.query.none}", ""),
        ("${request.query.evil}", "a%0D%0AX-Admin: 1"),
        ("${request.cookie.sid}", "s1"),
        ("${consumer.name}", "ada"),
        ("${consumer.groups}", "a,b"),
        ("${claims.sub}", "ada"),
        ("${claims.org.name}", "acme"),
        ("${claims.admin}-${claims.none}", "true-"),
        ("$${literal}", "${literal}"),
    ],
)
def test_templates(template, value):
    def identity(exchange):
        exchange.consumer = Consumer("ada", ("a", "b"))
        exchange.claims = {"sub": "ada", "org": {"name": "acme"}, "admin": True}

    outcome = Trial("headers", {"request": {"set": {"X-Out": template}}}).ask(
        "GET /users/a%2Fb?q=x+y%26&evil=a%0d%0aX-Admin:+1",
        {"x-a": "1", "Cookie": "a=b; sid=s1"},
        client_ip="192.0.2.7",
        route="users",
        captures={"id": "a%2Fb"},
        prepare=identity,
    )
    assert outcome.upstream_header("X-Out") == value
    assert outcome.upstream_header("X-Admin") is None


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "Connection", "a b"])
def test_headers_the_gateway_makes_cannot_be_edited(name):
    with pytest.raises(ValidationError):
        resolve("headers").Options.model_validate({"request": {"set": {name: "x"}}})


def test_a_value_cannot_hold_a_line_break():
    with pytest.raises(ValidationError):
        resolve("headers").Options.model_validate({"request": {"set": {"X": "a\r\nY: b"}}})


# ------------------------------------------------------------------ respond


def test_static_answers():
    outcome = Trial("respond", {"body": "hello", "headers": {"X-A": "1", "X-Id": "${request.id}"}}).ask()
    assert (outcome.passed, outcome.status, outcome.body) == (False, 200, b"hello")
    assert outcome.header("Content-Type") == "text/plain; charset=utf-8"
    assert (outcome.header("X-A"), outcome.header("X-Id")) == ("1", MADE)
    outcome = Trial("respond", {"status": 503, "json": {"ok": False}}).ask()
    assert (outcome.status, outcome.body, outcome.header("Content-Type")) == (
        503,
        b'{"ok":false}',
        "application/json",
    )
    outcome = Trial("respond", {"body": "<p>", "headers": {"Content-Type": "text/html"}}).ask()
    assert [value for name, value in outcome.got if name == "Content-Type"] == ["text/html"]
    assert Trial("respond", {"status": 204}).ask().got == []


@pytest.mark.parametrize(
    "options",
    [
        {"body": "a", "json": 1},
        {"status": 204, "body": "a"},
        {"status": 100},
        {"headers": {"Content-Length": "1"}},
    ],
)
def test_answers_that_cannot_be(options):
    with pytest.raises(ValidationError):
        resolve("respond").Options.model_validate(options)


# ------------------------------------------------------------------ redirect


@pytest.mark.parametrize(
    "options, line, location",
    [
        ({"location": "/new"}, "GET /old?a=1", "/new?a=1"),
        ({"location": "/new", "keep_query": False}, "GET /old?a=1", "/new"),
        ({"location": "/new?b=2"}, "GET /old?a=1", "/new?b=2&a=1"),
        ({"location": "/new#top"}, "GET /old?a=1", "/new?a=1#top"),
        ({"location": "/v2", "keep_path": True}, "GET /old/x", "/v2/old/x"),
        (
            {"location": "https://${request.host}${request.path}"},
            "GET /a/b?c=d",
            "https://example.com/a/b?c=d",
        ),
        (
            {"location": "https://other.example/x/${route.params.id}"},
            "GET /i/1%26a",
            "https://other.example/x/1%26a",
        ),
        ({"location": "/s?q=${route.params.id}"}, "GET /i/1&admin=1", "/s?q=1%26admin%3D1"),
        ({"location": "/${route.params.id}"}, "GET /i/..%2F..%2Fx", "/..%2F..%2Fx"),
        ({"location": "${request.path}"}, "GET //evil.example/x", "/evil.example/x"),
        ({"location": "/", "keep_path": True}, "GET //evil.example", "/evil.example"),
        (
            {"location": "/${request.query.to}", "keep_query": False},
            "GET /?to=/evil.example",
            "/%2Fevil.example",
        ),
        ({"location": "/${request.query.to}", "keep_query": False}, "GET /?to=%5Cevil", "/%5Cevil"),
    ],
)
def test_redirects(options, line, location):
    captures = {"id": line.partition("/i/")[2]} if "/i/" in line else None
    outcome = Trial("redirect", options).ask(line, captures=captures)
    assert (outcome.passed, outcome.status, outcome.header("Location")) == (False, 302, location)


@pytest.mark.parametrize(
    "location",
    [
        "${request.query.to}",
        "//evil.example",
        "/\\evil.example",
        "https://${request.query.host}/",
        "https://example.com${request.query.to}",
        "https://example.com:${request.query.port}/",
        "https://example.com:80${request.query.to}",
        "https://${request.host}${request.query.to}",
        "https://user@example.com/",
        "javascript:alert(1)",
        "example.com",
        "/a b",
        "",
    ],
)
def test_a_caller_can_never_choose_the_site(location):
    with pytest.raises(ValidationError):
        resolve("redirect").Options.model_validate({"location": location})
