"""`security_headers`: what is sent by default, what a service may say itself, and HSTS."""

import pytest
from pydantic import ValidationError

from fastgw.policies.security_headers import SecurityHeadersOptions
from fastgw.testing.policy import Trial

SERVICE = (
    b"HTTP/1.1 200 OK\r\nX-Powered-By: PHP/5\r\nx-frame-options: DENY\r\nStrict-Transport-Security: max-age=1\r\n"
    b"Content-Length: 0\r\n\r\n"
)


def headers(outcome):
    return sorted((name.lower(), value) for name, value in outcome.got if name.lower() != "content-length")


def test_by_default():
    assert headers(Trial("security_headers").ask()) == [
        ("referrer-policy", "strict-origin-when-cross-origin"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "SAMEORIGIN"),
    ]


def test_all_of_them():
    options = {
        "csp": "default-src 'self';\n  frame-ancestors 'none'",
        "csp_report_only": "default-src 'none'",
        "frame_options": "DENY",
        "referrer_policy": "no-referrer",
        "permissions_policy": "camera=()",
        "opener_policy": "same-origin",
        "embedder_policy": "require-corp",
        "resource_policy": "same-site",
        "hsts": {"max_age": "365d", "include_subdomains": True, "preload": True},
    }
    expected = {
        "content-security-policy": "default-src 'self'; frame-ancestors 'none'",
        "content-security-policy-report-only": "default-src 'none'",
        "cross-origin-embedder-policy": "require-corp",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-site",
        "permissions-policy": "camera=()",
        "referrer-policy": "no-referrer",
        "strict-transport-security": "max-age=31536000; includeSubDomains; preload",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }
    trial = Trial("security_headers", options)
    assert dict(headers(trial.ask(secure=True))) == expected
    del expected["strict-transport-security"]
    assert dict(headers(trial.ask())) == expected, "RFC 6797 7.2: not over plain HTTP"


@pytest.mark.parametrize("replace, frame, hsts", [(False, "DENY", "max-age=1"), (True, "SAMEORIGIN", "max-age=60")])
def test_what_a_service_has_set(replace, frame, hsts):
    trial = Trial("security_headers", {"replace": replace, "hsts": {"max_age": "1m"}})
    found = headers(trial.ask(response=SERVICE, secure=True))
    assert [value for name, value in found if name == "x-frame-options"] == [frame]
    assert [value for name, value in found if name == "strict-transport-security"] == [hsts]
    assert "x-powered-by" not in dict(found)


def test_null_leaves_one_out():
    options = {"content_type_options": None, "frame_options": None, "referrer_policy": None, "remove": []}
    assert "x-powered-by" in dict(headers(Trial("security_headers", options).ask(response=SERVICE)))
    assert headers(Trial("security_headers", options).ask()) == []


def test_answers_of_the_gateway_have_them(gateway):
    running = gateway(
        "policies: [security_headers]\nroutes: [{path: /, policies: [{key_auth: {}}, respond: {body: a}]}]"
    )
    with running.client() as client:
        refused = client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (refused.status, refused.get("X-Content-Type-Options")) == (401, "nosniff")


@pytest.mark.parametrize(
    "options",
    [{"csp": "a\x01b"}, {"csp": "ä"}, {"csp": " "}, {"csp": 1}, {"frame_options": "ALLOW"}, {"remove": ["Host"]}],
)
def test_wrong_options(options):
    with pytest.raises(ValidationError):
        SecurityHeadersOptions.model_validate(options)
