"""`ban`: outcomes of other policies and of services, over workers, and the admin API."""

import json
import time

import pytest
from pydantic import ValidationError

from fastgw.policies.ban import BanOptions
from fastgw.testing import FakeUpstream, GatewayProcess, answer

ASK = b"GET %s HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: %s\r\n\r\n"


def ask(running, address, path="/"):
    with running.client() as client:
        return client.request(ASK % (path.encode(), address.encode()))


CONFIG = """
server: {trusted_proxies: [127.0.0.1]}
policies:
  - ban: {events: 5, per: 10m, length: 10m, exempt: [198.51.100.0/24], %s}
routes:
  - {path: /open, policies: [respond: {body: a}]}
  - {path: /closed, policies: [key_auth, respond: {body: a}]}
  - {path: /none, policies: [respond: {status: 404}]}
"""


@pytest.mark.parametrize("prefix", ["192.0.2.", "2001:db8:0:1::"])
def test_who_is_refused_too_often_is_kept_out(gateway, prefix):
    running = gateway(CONFIG % "")
    bad, other = prefix + "1", "203.0.113.9"
    statuses = [ask(running, bad, "/closed").status for _ in range(5)]
    assert statuses == [401] * 5
    refused = ask(running, bad, "/open")
    assert refused.status == 403 and b'"banned"' in refused.body
    assert 590 < int(refused.get("Retry-After")) <= 600
    assert ask(running, other, "/open").status == 200


def test_a_banned_client_loses_its_connection(gateway):
    running = gateway(CONFIG % "")
    with running.client() as client:
        for _ in range(5):
            client.request(ASK % (b"/closed", b"192.0.2.1"))
        assert client.request(ASK % (b"/open", b"192.0.2.1")).status == 403
        assert client.ended() == "eof"


@pytest.mark.parametrize("options, path, banned", [
    ("", "/none", False),
    ("statuses: [404]", "/none", True),
    ("statuses: [404]", "/closed", False),
    ("statuses: [], codes: [unauthorized]", "/closed", True),
    ("mode: log", "/closed", False),
])  # fmt: skip
def test_what_counts(gateway, options, path, banned):
    running = gateway(CONFIG % options)
    for _ in range(6):
        ask(running, "192.0.2.1", path)
    assert (ask(running, "192.0.2.1", "/open").status == 403) is banned


def test_who_is_exempt(gateway):
    running = gateway(CONFIG % "")
    for _ in range(10):
        assert ask(running, "198.51.100.7", "/closed").status == 401
    assert ask(running, "198.51.100.7", "/open").status == 200


def test_answers_of_services_count(gateway):
    with FakeUpstream(answer(*[b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"] * 5)) as upstream:
        running = gateway(
            f"services: {{up: '{upstream.url}'}}\n"
            "routes: [{path: /, service: up, policies: [ban: {events: 3}]}]\n"
        )
        codes = [b"banned" in ask(running, "x").body for _ in range(4)]
    assert codes == [False, False, False, True]


def test_workers_share_bans_and_the_admin_api_lifts_them():
    config = {
        "server": {"trusted_proxies": ["127.0.0.1"], "workers": 2},
        "policies": [{"ban": {"events": 4, "per": "10m"}}],
        "routes": [
            {"path": "/open", "policies": [{"respond": {"body": "a"}}]},
            {"path": "/closed", "policies": ["key_auth", {"respond": {"body": "a"}}]},
        ],
    }
    with GatewayProcess(config) as gateway:
        for _ in range(4):
            assert ask(gateway, "192.0.2.1", "/closed").status == 401
        # A worker counts an answer when the exchange is over, which is after the client has it: the other worker may be
        # asked before. What is banned once is banned for both; new connections go to either.
        deadline = time.monotonic() + 60
        while ask(gateway, "192.0.2.1", "/open").status != 403:
            assert time.monotonic() < deadline
        assert {ask(gateway, "192.0.2.1", "/open").status for _ in range(20)} == {403}
        status, body = gateway.admin("/bans")
        listing = json.loads(body)
        assert status == 200 and listing["count"] == 1
        (row,) = listing["bans"]
        assert (row["address"], row["status"]) == ("192.0.2.1", 401) and 0 < row["seconds"] <= 600
        assert gateway.admin("/bans", "POST")[0] == 405
        assert gateway.admin("/bans/nonsense", "DELETE")[0] == 400
        assert gateway.admin("/bans/192.0.2.77", "DELETE")[0] == 404
        assert gateway.admin("/bans/192.0.2.1", "GET")[0] == 405
        assert gateway.admin("/bans/192.0.2.1", "DELETE")[0] == 200
        assert {ask(gateway, "192.0.2.1", "/open").status for _ in range(10)} == {200}
        assert json.loads(gateway.admin("/bans")[1]) == {"count": 0, "bans": []}


def test_a_short_ban_ends(gateway):
    running = gateway(CONFIG.replace("length: 10m", "length: 1s") % "")
    for _ in range(5):
        ask(running, "192.0.2.1", "/closed")
    deadline = time.monotonic() + 60
    while ask(running, "192.0.2.1", "/open").status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("options", [{"statuses": [200]}, {"statuses": []}, {"events": 1}, {"codes": ["A b"]}])
def test_wrong_options(options):
    with pytest.raises(ValidationError):
        BanOptions.model_validate(options)
