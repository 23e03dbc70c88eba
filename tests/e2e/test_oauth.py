"""Policies that ask an authorization server: introspection, the gateway's own token, exchanged tokens."""

import json
import threading
import time

import pytest

from fastgw.testing import FakeUpstream, GatewayProcess
from tests.e2e.oauth_server import OAuthServer

SECRET = "planted secret/with:odd&characters"
CLIENT = {"service": "id", "client_id": "gate way", "client_secret": SECRET, "timeout": "20s"}


def world(server, upstream, *policies):
    return {
        "services": {"id": server.url if isinstance(server, OAuthServer) else server, "up": upstream.url},
        "routes": [{"path": "/*", "service": "up", "policies": list(policies)}],
    }


def ask(gateway, token=None, **headers):
    """(status, code)"""
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with gateway.client(60) as client:
        answer = client.request(f"GET / HTTP/1.1\r\nHost: a\r\n{lines}Connection: close\r\n\r\n".encode())
    return answer.status, (json.loads(answer.body).get("code") if answer.status >= 400 else None)


def until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def upstream():
    with FakeUpstream() as running:
        yield running


def introspect(path, form):
    known = {
        "good": {"active": True, "sub": "ada", "scope": "read write", "exp": time.time() + 86400, "aud": "shop"},
        "reader": {"active": True, "sub": "bob", "scope": "read"},
        "old": {"active": True, "sub": "ada", "scope": "read write", "exp": time.time() - 5, "aud": "shop"},
        "early": {"active": True, "sub": "ada", "nbf": time.time() + 86400},
        "yes": {"active": "true", "sub": "root"},
        "evil": {"active": True, "sub": "a\r\nX-Admin: 1", "scope": "read write"},
        "odd": {"active": True, "sub": "ada", "exp": "soon"},
    }
    return 200, known.get(form["token"], {"active": False})


def test_introspection(upstream):
    with OAuthServer(introspect) as server:
        policy = {"oauth2_introspection": {**CLIENT, "required_scopes": ["write"], "excluded_paths": ["/open"]}}
        with GatewayProcess(world(server, upstream, policy)) as gateway:
            assert ask(gateway, "good", **{"X-User-Id": "root"}) == (200, None)
            told = upstream.requests[-1]
            assert told.all("X-User-Id") == ["ada"] and told.get("X-User-Scopes") == "read write"
            assert told.get("Authorization") is None
            assert server.asked == [
                ("/introspect", {"token": "good", "token_type_hint": "access_token"}, ("gate way", SECRET))
            ]
            assert ask(gateway, "good") == (200, None)
            assert len(server.asked) == 1, "remembered"
            assert ask(gateway, "reader") == (403, "insufficient_scope")
            for token in ("nobody", "yes", "early", "evil", "odd"):
                assert ask(gateway, token) == (401, "invalid_token"), token
            assert ask(gateway, "old") == (401, "token_expired")
            asked = len(server.asked)
            assert ask(gateway, "nobody") == (401, "invalid_token")
            assert len(server.asked) == asked, "a refusal is remembered too"
            assert ask(gateway) == (401, "unauthorized")
            assert SECRET not in gateway.admin("/config")[1] + gateway.stderr + gateway.stdout


def test_introspection_that_fails_refuses(upstream):
    with OAuthServer(introspect) as server:
        policy = {"oauth2_introspection": CLIENT}
        with GatewayProcess(world(server, upstream, policy)) as gateway:
            refusals = [(401, {"error": "invalid_client"}), (500, {}), (200, b"<html>"), (200, b"[" * 5000), (200, [])]
            for answer in refusals:
                server.answer = lambda path, form, answer=answer: answer
                assert ask(gateway, "good") == (503, "authorizer_unavailable"), answer
            assert upstream.requests == []
            server.answer = introspect
            assert ask(gateway, "good") == (200, None)


def test_many_who_ask_for_one_token_are_one_question(upstream):
    with OAuthServer(introspect) as server:
        policy = {"oauth2_introspection": {**CLIENT, "max_pending": 1}}
        with GatewayProcess(world(server, upstream, policy)) as gateway:
            server.gate.clear()
            found = []
            threads = [threading.Thread(target=lambda: found.append(ask(gateway, "good"))) for _ in range(5)]
            for thread in threads:
                thread.start()
            until(lambda: server.asked)
            assert ask(gateway, "another") == (503, "verification_busy")
            server.gate.set()
            for thread in threads:
                thread.join(60)
            assert found == [(200, None)] * 5
            assert [form["token"] for _, form, _ in server.asked].count("good") <= 2


def test_the_gateways_own_token(upstream):
    count = iter(range(1, 1000))

    def answer(path, form):
        return 200, {"access_token": f"own-{next(count)}", "token_type": "Bearer", "expires_in": 3600}

    with OAuthServer(answer) as server:
        policy = {"client_credentials": {**CLIENT, "client_auth": "post", "path": "/oauth/token", "scopes": ["a", "b"]}}
        with GatewayProcess(world(server, upstream, policy)) as gateway:
            for _ in range(3):
                assert ask(gateway, "the-clients") == (200, None)
            assert [request.all("Authorization") for request in upstream.requests] == [["Bearer own-1"]] * 3
            assert server.asked == [
                ("/oauth/token", {"grant_type": "client_credentials", "scope": "a b", "client_id": "gate way",
                                  "client_secret": SECRET}, None)
            ]  # fmt: skip
            assert SECRET not in gateway.admin("/config")[1] + gateway.stderr


def test_the_next_token_is_got_before_the_last_ends(upstream):
    count = iter(range(1, 100_000))

    def answer(path, form):
        return 200, {"access_token": f"own-{next(count)}", "expires_in": 2}

    with OAuthServer(answer) as server:
        policy = {"client_credentials": {**CLIENT, "early": "2s"}}
        with GatewayProcess(world(server, upstream, policy)) as gateway:
            seen = set()

            def two():
                assert ask(gateway) == (200, None)
                seen.add(upstream.requests[-1].get("Authorization"))
                return len(seen) >= 3

            until(two)


def test_without_a_token_the_route_refuses(upstream):
    now = [(500, {})]
    config = {"client_credentials": CLIENT}
    with (
        OAuthServer(lambda path, form: now[0]) as server,
        GatewayProcess(world(server, upstream, config)) as gateway,
    ):
        for answer in ((401, {"error": "invalid_client"}), (200, {"access_token": "a\r\nb"}), (200, {}), (200, [])):
            now[0] = answer
            asked = len(server.asked)
            until(lambda asked=asked: ask(gateway) == (503, "authorizer_unavailable") and len(server.asked) > asked)
        assert upstream.requests == []
        now[0] = (200, {"access_token": "own", "expires_in": 60})
        until(lambda: ask(gateway) == (200, None))
        assert [request.get("Authorization") for request in upstream.requests] == ["Bearer own"]


def exchange(path, form):
    if form["subject_token"] == "stranger":
        return 400, {"error": "invalid_request"}
    if form["subject_token"] == "gateway-unknown":
        return 401, {"error": "invalid_client"}
    return 200, {"access_token": "inside-" + form["subject_token"], "token_type": "Bearer", "expires_in": 300,
                 "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}  # fmt: skip


def test_token_exchange(upstream):
    with OAuthServer(exchange) as server:
        policy = {"token_exchange": {**CLIENT, "audience": "inventory", "scopes": "read", "requested_type": "jwt"}}
        with GatewayProcess(world(server, upstream, policy)) as gateway:
            for _ in range(2):
                assert ask(gateway, "outside") == (200, None)
            assert [request.all("Authorization") for request in upstream.requests] == [["Bearer inside-outside"]] * 2
            ((path, form, user),) = server.asked
            assert (path, user) == ("/token", ("gate way", SECRET))
            assert form == {
                "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token": "outside",
                "subject_token_type": "urn:ietf:params:oauth:token-type:access_token", "audience": "inventory",
                "requested_token_type": "urn:ietf:params:oauth:token-type:jwt", "scope": "read",
            }  # fmt: skip
            for _ in range(2):
                assert ask(gateway, "stranger") == (403, "forbidden")
            assert len(server.asked) == 2, "a refusal is remembered"
            assert ask(gateway, "gateway-unknown") == (503, "authorizer_unavailable")
            assert ask(gateway) == (401, "unauthorized")
            assert ask(gateway, "a b") == (401, "invalid_token")
            assert ask(gateway, Authorization="Basic eDp5") == (401, "unauthorized")
            assert len(upstream.requests) == 2


def test_a_server_that_is_not_there(upstream):
    from fastgw.testing import free_port

    nowhere = f"http://127.0.0.1:{free_port()}"
    for policy in ("oauth2_introspection", "client_credentials", "token_exchange"):
        with GatewayProcess(world(nowhere, upstream, {policy: CLIENT})) as gateway:
            assert ask(gateway, "good") == (503, "authorizer_unavailable"), policy
    assert upstream.requests == []
