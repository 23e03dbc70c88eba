"""`csrf`: the cases of Go's CrossOriginProtection, and those of WebSockets."""

import pytest
from pydantic import ValidationError

from fastgw.policies.csrf import CsrfOptions
from fastgw.testing import FakeUpstream, answer
from fastgw.testing.policy import Trial

OWN, APP, EVIL = "https://example.com", "https://app.example.net", "https://evil.example"


@pytest.mark.parametrize(
    "method, headers, passes",
    [
        # net/http: TestCrossOriginProtectionSecFetchSite
        ("POST", {"Sec-Fetch-Site": "same-origin"}, True),
        ("POST", {"Sec-Fetch-Site": "none"}, True),
        ("POST", {"Sec-Fetch-Site": "cross-site"}, False),
        ("POST", {"Sec-Fetch-Site": "same-site"}, False),
        ("POST", {}, True),
        ("POST", {"Origin": OWN}, True),
        ("POST", {"Origin": EVIL}, False),
        ("POST", {"Origin": "null"}, False),
        ("GET", {"Sec-Fetch-Site": "cross-site"}, True),
        ("HEAD", {"Sec-Fetch-Site": "cross-site"}, True),
        ("OPTIONS", {"Sec-Fetch-Site": "cross-site"}, True),
        ("PUT", {"Sec-Fetch-Site": "cross-site"}, False),
        ("DELETE", {"Sec-Fetch-Site": "cross-site"}, False),
        ("PATCH", {"Origin": EVIL}, False),
        # what Sec-Fetch-Site says counts, whatever Origin says
        ("POST", {"Sec-Fetch-Site": "same-origin", "Origin": EVIL}, True),
        ("POST", {"Sec-Fetch-Site": "cross-site", "Origin": OWN}, False),
        # TestCrossOriginProtectionTrustedOriginBypass
        ("POST", {"Origin": APP}, True),
        ("POST", {"Sec-Fetch-Site": "cross-site", "Origin": APP}, True),
        ("POST", {"Sec-Fetch-Site": "same-site", "Origin": "https://a.example.org"}, True),
        ("POST", {"Sec-Fetch-Site": "cross-site", "Origin": EVIL}, False),
        ("POST", {"Origin": APP + ":8443"}, False),
        ("POST", {"Origin": APP + ".evil.example"}, False),
        # Origin is compared by host and port, in any case of letters
        ("POST", {"Origin": "https://EXAMPLE.com"}, True),
        ("POST", {"Origin": "http://example.com"}, True),
        ("POST", {"Origin": "https://example.com:8443"}, False),
        ("POST", {"Origin": "https://example.com.evil.example"}, False),
        ("POST", {"Origin": "https://evil.example/example.com"}, False),
        ("POST", {"Origin": "example.com"}, False),
        ("POST", {"Origin": "https://"}, False),
        ("POST", {"Origin": ""}, True),
        # twice is none of a browser's
        ("POST", [("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")], False),
        ("POST", [("Origin", OWN), ("Origin", EVIL)], False),
    ],
)
def test_cases(method, headers, passes):
    outcome = Trial("csrf", {"trusted_origins": [APP, "https://*.example.org"]}).ask(f"{method} /orders", headers)
    assert (outcome.passed, outcome.code) == (passes, None if passes else "cross_site")
    assert passes or outcome.status == 403


def test_log_mode(caplog):
    trial = Trial("csrf", {"mode": "log"})
    assert trial.ask("POST /orders", {"Origin": EVIL}).passed
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "csrf: would be refused: POST '/orders' of 127.0.0.1 on route probe: by Origin"


@pytest.mark.parametrize("origin", ["*", "null", "example.com", "https://example.com/path", "https://*.com"])
def test_origins_that_are_none(origin):
    with pytest.raises(ValidationError):
        CsrfOptions.model_validate({"trusted_origins": [origin]})


@pytest.mark.parametrize("options, refused", [("{}", True), ("{websockets: false}", False)])
def test_sockets_of_other_sites(gateway, options, refused):
    asked = (
        b"GET /s HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: %s\r\n\r\n"
    )
    with FakeUpstream(answer(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")) as upstream:
        running = gateway(
            f"services: {{up: '{upstream.url}'}}\n"
            f"routes: [{{path: /s, service: up, websocket: true, policies: [csrf: {options}]}}]\n"
        )
        with running.client() as client:
            other = client.request(asked % EVIL.encode())
        with running.client() as client:
            own = client.request(asked % b"http://a")
    assert own.status == 426
    assert (other.status, b"cross_site" in other.body) == ((403, True) if refused else (426, False))
