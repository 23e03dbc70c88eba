"""`basic_auth`, `hmac` and `mtls`: who calls, by password, signature and certificate."""

import base64
import contextlib
import datetime
import socket
import ssl
import threading
import time

import bcrypt
import http_message_signatures as signatures
import pytest
from pydantic import ValidationError

from fastgw._core.bucket import BucketTable
from fastgw.config import check
from fastgw.config.schema.consumers import Consumer
from fastgw.policies import RESOLVER, BuildContext, _passwords, resolve
from fastgw.policies._credentials import Remembered
from fastgw.testing import GatewayProcess
from fastgw.testing.certificates import Authority
from fastgw.testing.policy import Trial
from tests.store.redis_server import RedisServer, needed

ARGON2 = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$"
PASSWORD = "correct horse: battery"


def cheap(password):
    import argon2

    return argon2.PasswordHasher(1, 64, 1).hash(password)


def cheap_bcrypt(password):
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def ask(running, path="/x", headers=None, line="GET", body=b""):
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    with running.client() as client:
        return client.request(f"{line} {path} HTTP/1.1\r\nHost: a\r\n{lines}{length}\r\n".encode() + body)


# ------------------------------------------------------------------ basic_auth


@pytest.fixture
def guarded(gateway, upstream):
    return gateway(f"""
services: {{up: "{upstream.url}"}}
consumers:
  - {{name: ada, password: "{cheap(PASSWORD)}"}}
  - {{name: bob, password: "{cheap_bcrypt("päss")}"}}
  - {{name: eve}}
  - {{name: anonymous}}
routes:
  - {{path: /x, service: up, policies: [{{basic_auth: {{realm: shop, excluded_paths: [/y/*]}}}}, identity]}}
  - {{path: /kept, service: up, policies: [{{basic_auth: {{forward: true, cache: {{size: 0}}}}}}]}}
  - {{path: /open, service: up, policies: [{{basic_auth: {{optional: true}}}}, identity]}}
""")


def test_names_and_passwords(guarded, upstream):
    for user, password in (("ada", PASSWORD), ("bob", "päss"), ("ada", PASSWORD)):
        assert ask(guarded, headers=basic(user, password)).status == 200
        sent = upstream.requests[-1]
        assert sent.get("X-User-Id") == user and sent.get("Authorization") is None
    assert ask(guarded, "/kept", basic("ada", PASSWORD)).status == 200
    assert upstream.requests[-1].get("Authorization") == basic("ada", PASSWORD)["Authorization"]
    assert ask(guarded, "/open").status == 200 and upstream.requests[-1].get("X-User-Id") == "anonymous"
    assert ask(guarded, "/open", basic("ada", "wrong")).status == 401


@pytest.mark.parametrize(
    "headers, code",
    [
        ({}, b"unauthorized"),
        ({"Authorization": "Bearer x"}, b"unauthorized"),
        (basic("ada", "wrong"), b"invalid_credentials"),
        (basic("ada", ""), b"invalid_credentials"),
        (basic("nobody", PASSWORD), b"invalid_credentials"),
        (basic("eve", ""), b"invalid_credentials"),
        ({"Authorization": "Basic %%%"}, b"invalid_credentials"),
        ({"Authorization": "Basic " + base64.b64encode(b"ada").decode()}, b"invalid_credentials"),
        ({"Authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()}, b"invalid_credentials"),
        (basic("ada", "x" * 2000), b"invalid_credentials"),
        (basic("bob", "päss" + "x" * 80), b"invalid_credentials"),
        (basic("ada", PASSWORD + "\0"), b"invalid_credentials"),
    ],
)
def test_without_a_good_password(guarded, headers, code):
    answer = ask(guarded, headers=headers)
    assert answer.status == 401 and code in answer.body
    assert answer.get("WWW-Authenticate") == 'Basic realm="shop", charset="UTF-8"'
    assert b"correct" not in answer.body


def test_hashing_is_bounded(gateway, upstream, monkeypatch):
    """One is under way, one may wait, the third is told to come again; the loop serves others meanwhile."""
    begun, go = threading.Semaphore(0), threading.Event()

    def slow(password, wanted):
        begun.release()
        assert go.wait(30)
        return password == "good"

    monkeypatch.setattr("fastgw.policies.basic_auth.verifies", slow)
    running = gateway(f"""
services: {{up: "{upstream.url}"}}
consumers: [{{name: ada, password: "{cheap(PASSWORD)}"}}]
routes:
  - {{path: /x, service: up, policies: [{{basic_auth: {{threads: 1, queue: 1}}}}]}}
  - {{path: /free, service: up}}
""")
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask(running, headers=basic("ada", "good")).status))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert begun.acquire(timeout=30)
    policy = running.engine.plan.routes[0].chain[0].policy
    end = time.monotonic() + 30
    while policy.passwords.under_way < 2:
        assert time.monotonic() < end
    refused = ask(running, headers=basic("ada", "other"))
    assert refused.status == 503 and b"authenticator_busy" in refused.body and refused.get("Retry-After") == "1"
    assert ask(running, "/free").status == 200
    go.set()
    for thread in threads:
        thread.join(30)
    assert answers == [200, 200]
    assert ask(running, headers=basic("ada", "good")).status == 200           # remembered: nobody hashes
    assert not begun.acquire(blocking=False) or not begun.acquire(blocking=False)


@pytest.mark.parametrize(
    "password",
    ["plain", "$argon2id$", "$2b$31$" + "a" * 53, ARGON2.replace("m=64", "m=9999999") + "A" * 43, "{SHA}x", ""],
)
def test_hashes_that_are_none(password):
    with pytest.raises(ValidationError) as refused:
        Consumer(name="ada", password=password)
    assert not password or password not in str(refused.value)


def test_a_hash_is_made_like_another_and_long_passwords_are_not_cut():
    for like in (cheap("x"), cheap_bcrypt("x")):
        made = _passwords.password_hash("secret", like)
        assert made.split("$")[:4] == like.split("$")[:4] or made[:7] == like[:7]
        assert _passwords.verifies("secret", made) and not _passwords.verifies("secrets", made)
    long = "x" * 72
    made = cheap_bcrypt(long)
    assert _passwords.verifies(long, made) and not _passwords.verifies(long + "y", made)


def test_nobody_has_a_password():
    with pytest.raises(ValueError, match="password"):
        Trial("basic_auth", {}, BuildContext(consumers=[Consumer(name="ada")]))


def test_what_is_remembered_is_bounded():
    known = Remembered(4)
    for number in range(100):
        known.keep(bytes([number]), 60, number)
        assert known.find(b"\0") == 0                       # what is asked for stays
        assert len(known) <= 4
    known.keep(b"short", 0.0, 1)
    assert known.find(b"short") is None
    known.keep(b"now", 1e-9, 1)
    time.sleep(0)
    assert known.find(b"now") is None
    none = Remembered(0)
    none.keep(b"x", 60, 1)
    assert none.find(b"x") is None


# ------------------------------------------------------------------ hmac

SECRET = "s" * 40
SIGNERS = [Consumer(name="ada", signing_keys=[{"id": "k1", "secret": SECRET}]), Consumer(name="bob")]


class Key(signatures.HTTPSignatureKeyResolver):
    def __init__(self, secret):
        self.secret = secret.encode()

    def resolve_private_key(self, key_id):
        return self.secret


class Message:
    def __init__(self, method, url, headers):
        self.method, self.url, self.headers = method, url, dict(headers)


COVERED = ("@method", "@authority", "@path", "@query")


def signed(method="GET", path="/x?a=1", headers=(), secret=SECRET, key="k1", body=None, **options):
    message = Message(method, f"http://example.com{path}", headers)
    options = {"covered_component_ids": COVERED, "nonce": f"n{time.monotonic_ns()}", **options}
    signer = signatures.HTTPMessageSigner(
        signature_algorithm=signatures.algorithms.HMAC_SHA256, key_resolver=Key(secret)
    )
    signer.sign(message, key_id=key, body=body, **options)
    return dict(message.headers)


def signing(**options):
    table = BucketTable.private(1024)
    return Trial("hmac", options, BuildContext(consumers=SIGNERS, bucket_table=table))


def ago(**how):
    return datetime.datetime.now(datetime.UTC) - datetime.timedelta(**how)


def test_a_signed_request():
    trial = signing()
    headers = signed()
    outcome = trial.ask("GET /x?a=1", headers)
    assert outcome.passed and outcome.exchange.consumer.name == "ada" and outcome.exchange.consumer.credential == "k1"
    assert outcome.upstream_header("Signature") is None and outcome.upstream_header("Signature-Input") is None
    assert trial.ask("GET /x?a=1", headers).code == "request_replayed"
    assert signing(forward=True).ask("GET /x?a=1", headers).upstream_header("Signature")
    assert signing(replay=False).ask("GET /x?a=1", signed(nonce=None)).passed


@pytest.mark.parametrize(
    "line, headers, code",
    [
        ("GET /x?a=1", {}, "unauthorized"),
        ("POST /x?a=1", lambda: signed(), "invalid_signature"),
        ("GET /y?a=1", lambda: signed(), "invalid_signature"),
        ("GET /x?a=2", lambda: signed(), "invalid_signature"),
        ("GET /x", lambda: signed(), "invalid_signature"),
        ("GET /x?a=1", lambda: signed(secret="t" * 40), "invalid_signature"),
        ("GET /x?a=1", lambda: signed(key="k2"), "invalid_signature"),
        ("GET /x?a=1", lambda: signed(nonce=None), "invalid_signature"),
        ("GET /x?a=1", lambda: signed(nonce="n" * 300), "invalid_signature"),
        ("GET /x?a=1", lambda: signed(covered_component_ids=("@method", "@path")), "invalid_signature"),
        ("GET /x?a=1", lambda: signed(created=ago(minutes=10)), "invalid_signature"),
        ("GET /x?a=1", lambda: signed(created=ago(minutes=-10)), "invalid_signature"),
        ("GET /x?a=1", lambda: signed(expires=ago(minutes=1)), "invalid_signature"),
        ("GET /x?a=1", {"Signature-Input": "nonsense", "Signature": "nonsense"}, "invalid_signature"),
        ("GET /x?a=1", {"Signature-Input": "a" * 5000, "Signature": "x"}, "invalid_signature"),
        ("GET /x?a=1", {"Signature-Input": 'a=("@method");keyid="k1"', "Signature": "a=:AAAA:"}, "invalid_signature"),
    ],
)
def test_signatures_that_are_refused(line, headers, code):
    # signed now, not when tests are collected: what is too old would be refused whatever else is wrong with it
    outcome = signing().ask(line, headers() if callable(headers) else headers)
    assert (outcome.status, outcome.code) == (401, code)
    assert outcome.header("WWW-Authenticate") == "Signature" and SECRET.encode() not in outcome.body


def test_a_full_memory_of_nonces_refuses():
    table = BucketTable.private(1)
    trial = Trial("hmac", {}, BuildContext(consumers=SIGNERS, bucket_table=table))
    codes = {trial.ask("GET /x?a=1", signed(nonce=f"n{number}")).code for number in range(table.capacity + 50)}
    assert codes == {None, "limiter_full"}


def test_bodies_are_signed(gateway, upstream):
    running = gateway(f"""
services: {{up: "{upstream.url}"}}
consumers: [{{name: ada, signing_keys: [{{id: k1, secret: {SECRET}}}]}}]
routes: [{{path: /x, service: up, policies: [{{hmac: {{max_body: 100}}}}, identity]}}]
""")

    def send(body, claimed=None, **options):
        claimed = body if claimed is None else claimed
        headers = signed("POST", "/x", body=claimed, **options)
        headers["Host"] = "example.com"
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with running.client() as client:
            head = f"POST /x HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
            return client.request(head.encode() + body)

    assert send(b"hello").status == 200
    assert upstream.requests[-1].get("X-User-Id") == "ada" and upstream.requests[-1].body == b"hello"
    assert send(b"hellp", b"hello").status == 401
    assert send(b"x" * 101).status == 413
    unsigned = signed("POST", "/x")
    lines = "".join(f"{name}: {value}\r\n" for name, value in unsigned.items())
    with running.client() as client:
        head = f"POST /x HTTP/1.1\r\nHost: example.com\r\n{lines}Content-Length: 2\r\n\r\nhi"
        assert client.request(head.encode()).status == 401


@needed
def test_nonces_of_several_hosts(gateway, upstream, tmp_path):
    with RedisServer(tmp_path) as redis:
        text = f"""
services: {{up: "{upstream.url}"}}
stores: {{redis: {{url: "{redis.url}", deadline: 5s, timeout: 10s}}}}
consumers: [{{name: ada, signing_keys: [{{id: k1, secret: {SECRET}}}]}}]
routes: [{{path: /x, service: up, policies: [{{hmac: {{replay_store: redis}}}}, identity]}}]
"""
        one, other = gateway(text), gateway(text)
        headers = {**signed(path="/x"), "Host": "example.com"}

        def send(running):
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            with running.client() as client:
                return client.request(f"GET /x HTTP/1.1\r\n{lines}\r\n".encode())

        assert send(one).status == 200 and upstream.requests[-1].get("X-User-Id") == "ada"
        assert upstream.requests[-1].get("Signature") is None
        for running in (one, other):
            answer = send(running)
            assert answer.status == 401 and b"request_replayed" in answer.body
        headers = {**signed(path="/x", nonce=None), "Host": "example.com"}
        assert b"nonce" in send(one).body
        redis.kill()
        headers = {**signed(path="/x"), "Host": "example.com"}
        answer = send(one)
        assert answer.status == 503 and b"authorizer_unavailable" in answer.body
        assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "what",
    [
        lambda: resolve("hmac").Options.model_validate({"components": ["@method"]}),
        lambda: resolve("hmac").Options.model_validate({"components": ["@path", "date"]}),
        lambda: Consumer(name="x", signing_keys=[{"id": "a", "secret": "short"}]),
        lambda: Trial("hmac", {}, BuildContext(consumers=[Consumer(name="x")])),
        lambda: Trial("hmac", {}, BuildContext(consumers=[SIGNERS[0], SIGNERS[0]])),
    ],
)
def test_what_hmac_does_not_take(what):
    with pytest.raises(ValueError):
        what()


# ------------------------------------------------------------------ mtls


def fingerprint(pair):
    import hashlib
    from pathlib import Path

    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(pair.cert).read_text())).hexdigest()


def test_certificates_are_consumers(upstream, tmp_path):
    pki = Authority(tmp_path)
    leaf, ada, bob, eve = pki.leaf("a.example"), pki.client("ada"), pki.client("bob"), pki.client("eve")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = {
        "server": {"listeners": [{"bind": f"127.0.0.1:{port}", "tls": {
            "certificates": [{"cert": leaf.cert, "key": leaf.key}], "client_ca": pki.cert, "client_auth": "request",
        }}]},
        "services": {"up": upstream.url},
        "consumers": [
            {"name": "ada", "certificates": [f"fingerprint:{fingerprint(ada)}"]},
            {"name": "bob", "certificates": ["subject:CN=bob"]},
        ],
        "routes": [
            {"path": "/x", "service": "up", "policies": ["mtls", "identity"]},
            {"path": "/open", "service": "up", "policies": [{"mtls": {"optional": True}}, "identity"]},
            {"path": "/free/*", "service": "up", "policies": [{"mtls": {"excluded_paths": ["/free/a/*"]}}]},
        ],
    }  # fmt: skip

    def ask(path, pair=None):
        context = ssl.create_default_context(cafile=pki.cert)
        if pair is not None:
            context.load_cert_chain(pair.cert, pair.key)
        raw = socket.create_connection(("127.0.0.1", port), timeout=30)
        with contextlib.closing(raw), context.wrap_socket(raw, server_hostname="a.example") as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n".encode())
            data = b""
            while chunk := sock.recv(65536):
                data += chunk
        return int(data.split()[1]), data

    with GatewayProcess(config):
        assert ask("/x", ada)[0] == 200 and upstream.requests[-1].get("X-User-Id") == "ada"
        assert ask("/x", bob)[0] == 200 and upstream.requests[-1].get("X-User-Id") == "bob"
        status, data = ask("/x", eve)
        assert status == 401 and b"invalid_certificate" in data and b"WWW-Authenticate: Mutual" in data
        status, data = ask("/x")
        assert status == 401 and b"unauthorized" in data
        assert ask("/open")[0] == 200 and upstream.requests[-1].get("X-User-Id") is None
        assert ask("/open", eve)[0] == 401
        assert ask("/free/a/b")[0] == 200 and ask("/free/b")[0] == 401


def test_certificates_that_name_two():
    one = Consumer(name="a", certificates=["DNS:x.example"])
    with pytest.raises(ValueError, match="same certificate"):
        Trial("mtls", {}, BuildContext(consumers=[one, one.model_copy(update={"name": "b"})]))
    with pytest.raises(ValueError, match="certificate"):
        Trial("mtls", {}, BuildContext(consumers=[Consumer(name="a")]))
    for name in ("x", "fingerprint:abc", "DNS:", 7):
        with pytest.raises(ValidationError):
            Consumer(name="a", certificates=[name])
    spaced = Consumer(name="a", certificates=["fingerprint:" + ":".join(["AB"] * 32)])
    assert spaced.certificates == ("fingerprint:" + "ab" * 32,)


def test_credentials_that_nobody_has_are_told():
    """Consumers of a store have API keys alone; a gateway that would refuse everybody is no configuration."""
    text = """
stores: {redis: {url: "redis://127.0.0.1:1/0"}}
api_keys: {store: redis, on_failure: closed}
services: {up: "http://127.0.0.1:9"}
consumers: [{name: ada}]
routes:
  - {path: /a, service: up, policies: [basic_auth]}
  - {path: /b, service: up, policies: [{any_of: [key_auth, mtls]}, hmac]}
"""
    config, problems = check(text, resolver=RESOLVER, env={})
    told = {(one.code, one.path, one.line) for one in problems if "those of the store" in one.message}
    within = "routes[1].policies[0].any_of.policies[1].mtls"
    assert config is None and told == {
        ("missing_key", "routes[0].policies[0]", 7), ("missing_key", within, 8),
        ("missing_key", "routes[1].policies[1]", 8),
    }  # fmt: skip
    assert check(text.replace("{name: ada}", "{name: ada, plan: gold}"), resolver=RESOLVER, env={})[0] is None
    given = """{name: ada, password: "$2b$12$C6UzMDM.H6dfI/f/IKcEeO7ZBpQ5jNhjOZqFhWAdKSpyLkRJqLp2i",
      certificates: ["subject:CN=ada"], signing_keys: [{id: k, secret: "a secret of more than 32 bytes it is"}]}"""
    config, problems = check(text.replace("{name: ada}", given), resolver=RESOLVER, env={})
    assert config is not None and not problems


def test_a_store_that_is_not_there_is_told():
    text = f"""
services: {{a: http://127.0.0.1:9001}}
consumers: [{{name: ada, signing_keys: [{{id: k1, secret: {SECRET}}}]}}]
routes: [{{path: /x, service: a, policies: [{{any_of: [{{hmac: {{replay_store: redis}}}}]}}]}}]
"""
    config, problems = check(text, resolver=RESOLVER, env={})
    assert config is None and problems[0].code == "missing_key" and "redis" in str(problems[0])
