"""`cors`: pre-flights, reflection rules, Vary."""

import pytest
from pydantic import ValidationError

from fastgw.policies.cors import CorsOptions
from fastgw.testing.policy import Trial

APP = "https://app.example.com"


def preflight(trial, origin=APP, method="POST", headers="content-type"):
    return trial.ask(
        "OPTIONS /orders",
        {
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": headers,
        },
    )


def test_preflight():
    outcome = preflight(Trial("cors", {"origins": [APP], "methods": ["get", "POST"], "max_age": "5m"}))
    assert (outcome.passed, outcome.status) == (False, 204)
    assert outcome.header("Access-Control-Allow-Origin") == APP
    assert outcome.header("Access-Control-Allow-Methods") == "GET, POST"
    assert outcome.header("Access-Control-Allow-Headers") == "Content-Type, Authorization"
    assert outcome.header("Access-Control-Max-Age") == "300"
    assert outcome.header("Access-Control-Allow-Credentials") is None
    assert "Origin" in outcome.header("Vary")


def test_preflight_of_another_origin_is_refused():
    outcome = preflight(Trial("cors", {"origins": [APP]}), origin="https://evil.example")
    assert (outcome.status, outcome.code) == (403, "cors_refused")
    assert outcome.header("Access-Control-Allow-Origin") is None


def test_options_that_is_no_preflight_passes():
    trial = Trial("cors", {"origins": [APP]})
    assert trial.ask("OPTIONS /").passed
    assert trial.ask("OPTIONS /", {"Origin": APP}).passed
    assert trial.ask("GET /", {"Origin": APP, "Access-Control-Request-Method": "GET"}).passed


def test_star_reflects_what_was_asked_for():
    trial = Trial("cors", {"origins": ["*"], "methods": ["*"], "headers": ["*"]})
    outcome = preflight(trial, method="PURGE", headers="authorization, x-a")
    assert outcome.header("Access-Control-Allow-Origin") == "*"
    assert outcome.header("Access-Control-Allow-Methods") == "PURGE"
    assert outcome.header("Access-Control-Allow-Headers") == "authorization, x-a"


UPSTREAM = (
    b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\naccess-control-expose-headers: X\r\nVary: Accept\r\n\r\n"
)


def test_answers_say_who_may_read_them():
    trial = Trial("cors", {"origins": [APP], "credentials": True, "expose": ["X-Request-ID"]})
    outcome = trial.ask("GET /", {"Origin": APP}, response=UPSTREAM)
    allow = [value for name, value in outcome.got if name.lower() == "access-control-allow-origin"]
    assert allow == [APP], "the upstream's own is replaced"
    assert outcome.header("Access-Control-Allow-Credentials") == "true"
    assert outcome.header("Access-Control-Expose-Headers") == "X-Request-ID"
    assert ("Vary", "Origin") in outcome.got
    for headers in ({}, {"Origin": "https://evil.example"}):
        outcome = trial.ask("GET /", headers, response=UPSTREAM)
        assert outcome.passed
        assert outcome.header("Access-Control-Allow-Origin") is None
        assert ("Vary", "Origin") in outcome.got, "a cache must not give this answer to the allowed origin"


@pytest.mark.parametrize("vary, more", [("Origin", 0), ("Accept, origin", 0), ("*", 0), ("X-Origin", 1), ("Accept", 1)])
def test_vary_is_said_once(vary, more):
    response = f"HTTP/1.1 200 OK\r\nVary: {vary}\r\n\r\n".encode()
    outcome = Trial("cors", {"origins": [APP]}).ask("GET /", {"Origin": APP}, response=response)
    assert sum(name == "Vary" and value == "Origin" for name, value in outcome.got) == more + (vary == "Origin")


def test_any_origin_needs_no_vary():
    outcome = Trial("cors", {"origins": ["*"]}).ask("GET /", {"Origin": APP})
    assert outcome.header("Access-Control-Allow-Origin") == "*" and outcome.header("Vary") is None


@pytest.mark.parametrize(
    "pattern, origin, allowed",
    [
        ("https://*.example.com", "https://a.example.com", True),
        ("https://*.example.com", "https://a.b.example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://.example.com", False),
        ("https://*.example.com", "https://evilexample.com", False),
        ("https://*.example.com", "https://a.example.com.evil.com", False),
        ("https://*.example.com", "https://evil.com/.example.com", False),
        ("https://*.example.com", "https://evil.com#.example.com", False),
        ("https://*.example.com", "http://a.example.com", False),
        ("https://*.example.com", "https://a.example.com:8443", False),
        ("https://*.example.com:8443", "https://a.example.com:8443", True),
        ("http://localhost:*", "http://localhost:3000", True),
        ("http://localhost:*", "http://localhost", True),
        ("http://localhost:*", "http://localhost.evil.com:3000", False),
        ("http://[::1]:*", "http://[::1]:3000", True),
        ("https://example.com", "https://example.com", True),
        ("https://example.com", "https://example.com:443", False),
        ("https://example.com", "null", False),
        ("null", "null", True),
    ],
)
def test_origin_patterns(pattern, origin, allowed):
    outcome = Trial("cors", {"origins": [pattern]}).ask("GET /", {"Origin": origin})
    assert (outcome.header("Access-Control-Allow-Origin") == origin) is allowed


@pytest.mark.parametrize(
    "options",
    [
        {"origins": ["*"], "credentials": True},
        {"origins": ["null"], "credentials": True},
        {"origins": []},
        {},
        {"origins": ["https://example.com/path"]},
        {"origins": ["example.com"]},
        {"origins": ["https://*.com"]},
        {"origins": ["https://a.*.com"]},
        {"origins": [APP], "methods": ["G T"]},
        {"origins": [APP], "headers": ["X Y"]},
    ],
)
def test_options_that_are_unsafe_or_wrong(options):
    with pytest.raises(ValidationError):
        CorsOptions.model_validate(options)
