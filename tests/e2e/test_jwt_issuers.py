"""`jwt` with keys that are fetched: discovery, rotation, issuers that fail, the list of revoked tokens."""

import base64
import hashlib
import json
import os
import signal
import threading
import time

import jwt as pyjwt
import pytest

from fastgw.testing import FakeUpstream, GatewayProcess
from fastgw.testing.issuer import PRIVATE, FakeIssuer
from tests.store.redis_server import RedisServer, needed


def configuration(*issuers, workers=1, **options):
    return {
        "server": {"workers": workers},
        "routes": [
            {
                "path": "/*",
                "policies": [{"jwt": {"issuers": list(issuers), **options}}, {"respond": {"body": "in"}}],
            }
        ],
    }


def of(issuer, **options):
    return {"issuer": issuer.url, "timeout": "5s", **options}


def ask(gateway, token=None, path="/"):
    """(status, code) of one request on a connection of its own."""
    line = f"Authorization: Bearer {token}\r\n" if token else ""
    with gateway.client(60) as client:
        answer = client.request(f"GET {path} HTTP/1.1\r\nHost: a\r\n{line}Connection: close\r\n\r\n".encode())
    code = json.loads(answer.body).get("code") if answer.status >= 400 else None
    return answer.status, code


def until(ask, wanted, seconds=60):
    deadline = time.monotonic() + seconds
    while (found := ask()) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@pytest.fixture
def issuer():
    with FakeIssuer() as running:
        yield running


def test_discovery_rotation_and_keys_that_go(issuer):
    old = issuer.token()
    options = of(issuer, refresh="1h", cooldown="100ms", overlap="0s")
    with GatewayProcess(configuration(options, workers=2)) as gateway:
        for _ in range(6):                           # both workers
            assert ask(gateway, old) == (200, None)
        assert ask(gateway) == (401, "unauthorized")
        issuer.add("second", "RS256")
        new = issuer.token("second")
        # a kid nobody knows: the issuer is asked, and the token is good at once
        until(lambda: ask(gateway, new), (200, None))
        for _ in range(6):
            assert ask(gateway, new) == (200, None)
            assert ask(gateway, old) == (200, None)
        issuer.remove("first")
        made_up = pyjwt.encode({"iss": issuer.url}, PRIVATE["ES256"](), "ES256", headers={"kid": "made-up"})

        def both():
            ask(gateway, made_up)                    # has the keys fetched
            return ask(gateway, old)

        # remembered tokens of a key that went are forgotten with it
        until(both, (401, "invalid_token"))
        for _ in range(6):
            assert ask(gateway, new) == (200, None)
        status, metrics = gateway.admin("/metrics")
        assert status == 200
        assert f'fastgw_jwks_keys{{issuer="{issuer.url}"}} 1.0' in metrics
        assert f'fastgw_jwks_age_seconds{{issuer="{issuer.url}"}}' in metrics


def test_an_issuer_that_never_answered_is_503_and_then_serves(issuer):
    issuer.status = 500
    with GatewayProcess(configuration(of(issuer))) as gateway:
        assert ask(gateway, issuer.token()) == (503, "keys_unavailable")
        assert ask(gateway) == (401, "unauthorized")
        issuer.status = 200
        until(lambda: ask(gateway, issuer.token()), (200, None))


def test_an_issuer_that_goes_leaves_its_keys(issuer):
    with GatewayProcess(configuration(of(issuer, refresh="1s"))) as gateway:
        assert ask(gateway, issuer.token()) == (200, None)
        issuer.body = b'{"keys": []}'
        issuer.status = 200

        def failures():
            lines = gateway.admin("/metrics")[1].splitlines()
            return any(line.startswith("fastgw_jwks_failures_total") and not line.endswith(" 0.0") for line in lines)

        until(failures, True)
        assert ask(gateway, issuer.token(sub="bob")) == (200, None)
        # a worker that is born meanwhile has them too
        worker = next(pid for pid in gateway.processes() if name_of(pid) == "fastgw-0")
        os.kill(worker, signal.SIGKILL)
        until(lambda: retried(gateway, issuer.token(sub="eve")), (200, None))


def name_of(pid):
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""


def retried(gateway, token):
    try:
        return ask(gateway, token)
    except (OSError, EOFError, AssertionError):
        return None


def test_two_issuers_and_what_the_service_is_told(issuer):
    with FakeIssuer() as other, FakeIssuer() as stranger, FakeUpstream() as upstream:
        options = {"issuers": [of(issuer), of(other, user_prefix="partner:", audience="shop")]}
        config = {
            "services": {"up": upstream.url},
            "routes": [{"path": "/*", "service": "up", "policies": [{"jwt": options}]}],
        }
        with GatewayProcess(config) as gateway:
            assert ask(gateway, issuer.token())[0] == 200
            assert ask(gateway, other.token()) == (401, "invalid_token"), "its audience is asked for"
            assert ask(gateway, other.token(aud="shop"))[0] == 200
            assert ask(gateway, stranger.token()) == (401, "invalid_token")
            # the keys of one issuer do not sign for the other
            assert ask(gateway, stranger.token(iss=issuer.url)) == (401, "invalid_token")
            assert ask(gateway, other.token(iss=issuer.url, aud="shop")) == (401, "invalid_token")
            users = [request.get("X-User-Id") for request in upstream.requests]
            assert users == ["ada", "partner:ada"]


def test_within_a_composition(issuer):
    """Its keys are fetched there too, and its waiting is the composition's."""
    composed = [{"key_auth": None}, {"jwt": {"issuers": [of(issuer, refresh="1h", cooldown="100ms")]}}]
    config = {
        "consumers": [{"name": "app", "keys": ["sha256:" + hashlib.sha256(b"the-key").hexdigest()]}],
        "routes": [{"path": "/*", "policies": [{"any_of": composed}, {"respond": {"body": "in"}}]}],
    }
    with GatewayProcess(config) as gateway:
        assert ask(gateway, issuer.token()) == (200, None)
        assert ask(gateway) == (401, "unauthorized")
        issuer.add("second")
        until(lambda: ask(gateway, issuer.token("second")), (200, None))
        assert ask(gateway, issuer.token(exp=1)) == (401, "token_expired")


@needed
def test_revoked_tokens(issuer, tmp_path):
    with RedisServer(tmp_path) as redis:
        revocation = {"on_failure": "closed", "interval": "0s"}
        config = configuration(of(issuer), revocation=revocation)
        redis_options = {"url": redis.url, "deadline": "5s", "timeout": "5s",
                         "breaker": {"failures": 1, "pause": "20ms", "max_pause": "20ms"}}  # fmt: skip
        config["stores"] = {"redis": redis_options}
        with GatewayProcess(config) as gateway:
            good, bad = issuer.token(jti="1"), issuer.token(jti="2")
            assert ask(gateway, good) == (200, None) and ask(gateway, bad) == (200, None)
            redis.command("SET", "fastgw:revoked:2", "1", "EX", "600")
            assert ask(gateway, bad) == (401, "token_revoked")
            assert ask(gateway, good) == (200, None)
            assert ask(gateway, issuer.token()) == (401, "invalid_token"), "without a jti"
            redis.kill()
            assert ask(gateway, good) == (503, "store_unavailable")
            assert 'fastgw_store_failures{store="redis"} 1.0' in gateway.admin("/metrics")[1]
            redis.start()
            until(lambda: ask(gateway, good), (200, None))
    with RedisServer(tmp_path) as redis:
        config["stores"] = {"redis": {**redis_options, "url": redis.url}}
        config["routes"][0]["policies"][0]["jwt"]["revocation"] = {"on_failure": "open", "interval": "0s"}
        redis.kill()
        with GatewayProcess(config) as gateway:
            assert ask(gateway, issuer.token(jti="2")) == (200, None)


def test_a_flood_of_new_tokens_leaves_remembered_ones_alone(issuer):
    """Whoever was known before is served; of the flood each token gets its refusal, and nothing passes."""
    start = issuer.token().rpartition(".")[0]
    found = []

    def flood(gateway):
        with gateway.client(60) as client:
            for _ in range(150):
                signature = base64.urlsafe_b64encode(os.urandom(64)).rstrip(b"=").decode()
                head = f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {start}.{signature}\r\n\r\n"
                found.append(client.request(head.encode()).status)

    with GatewayProcess(configuration(of(issuer))) as gateway:
        good = issuer.token(sub="bob")
        assert ask(gateway, good) == (200, None)
        threads = [threading.Thread(target=flood, args=(gateway,)) for _ in range(4)]
        with gateway.client(60) as client:
            for thread in threads:
                thread.start()
            head = f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {good}\r\n\r\n".encode()
            for _ in range(300):
                assert client.request(head).status == 200
            for thread in threads:
                thread.join(100)
        assert len(found) == 600 and set(found) <= {401, 503}
