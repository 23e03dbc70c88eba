"""Secrets in files of their own: taken anew when they change, from systemd, and never shown."""

import asyncio
import contextlib
import os
import pickle
import time

import pytest

from fastgw.config import Config, check
from fastgw.config.fields import SecretMissing, file_stamp
from fastgw.policies import RESOLVER
from fastgw.server.secret_sources import SecretSources
from fastgw.server.secrets import SecretWatch
from fastgw.testing import GatewayProcess
from tests.upstreams.keepers import FakeSecrets, FakeVault

TEXT = """
services: {a: http://127.0.0.1:9001}
routes: [{path: /x, service: a, policies: [{jwt: {secret: "SECRET"}}]}]
"""


def checked(secret):
    return check(TEXT.replace("SECRET", secret), resolver=RESOLVER, env={})


def test_credentials_of_systemd(tmp_path, monkeypatch):
    (tmp_path / "jwt").write_text("planted-credential-of-32-bytes-and-more\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    config, problems = checked("credential:jwt")
    assert problems == []
    assert config.routes[0].policies[0].options.secret.reveal() == "planted-credential-of-32-bytes-and-more"
    assert config.secret_files == ((str(tmp_path / "jwt"), file_stamp(str(tmp_path / "jwt"))),)
    for name, words in (("none", "can not be read"), ("../jwt", "is not the name"), ("", "is not the name")):
        assert words in str(checked(f"credential:{name}")[1][0])
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert "CREDENTIALS_DIRECTORY" in str(checked("credential:jwt")[1][0])


def test_when_it_is_time(tmp_path):
    secret, file = tmp_path / "secret", tmp_path / "gateway.yaml"
    secret.write_text("one")
    file.write_text("x: 1")
    config = Config(file=str(file), stamp=file_stamp(str(file)))
    config.secret_files = ((str(secret), file_stamp(str(secret))),)
    watch = SecretWatch(lambda: config, None)
    assert [watch.look() for _ in range(3)] == [False] * 3
    secret.write_text("two!")
    assert [watch.look() for _ in range(4)] == [False, True, False, False]       # still for a look; tried once
    secret.unlink()
    assert [watch.look() for _ in range(3)] == [False, True, False]
    file.write_text("x: 22")
    secret.write_text("three")
    assert [watch.look() for _ in range(4)] == [False] * 4                       # the file waits for its reload
    config.stamp = file_stamp(str(file))
    assert watch.look()
    config.secret_files = ()
    assert not watch.look()


def test_nothing_happens_without_a_file():
    config = Config()
    config.secret_files = (("/nonexistent/secret", (1, 2, 3)),)
    watch = SecretWatch(lambda: config, None)
    assert [watch.look() for _ in range(3)] == [False] * 3


SECRETS = {
    "admin": "planted-admin-token",
    "jwt": "planted-jwt-secret-0123456789abcdef",
    "hmac": "planted-hmac-secret-0123456789abcdef-0",
    "password": "$argon2id$v=19$m=64,t=1,p=1$cGxhbnRlZHBsYW50ZWQ$cGxhbnRlZHBsYW50ZWRwbGFudGVkcGxhbnRlZA",
    "hash": "ab" * 32,
    "vault": "planted-vault-secret-0123456789abcdef",
    "kubernetes": "planted-kubernetes-secret-0123456789ab",
    "secret_id": "planted-secret-id",
    "account": "planted-account-token",
}
CONFIG = {
    "admin": {"token": SECRETS["admin"]},
    "services": {"up": "http://127.0.0.1:1"},
    "consumers": [{
        "name": "ada", "keys": ["sha256:" + SECRETS["hash"]], "password": "file:password",
        "signing_keys": [{"id": "k", "secret": "file:hmac"}],
    }],
    "routes": [
        {"path": "/jwt", "service": "up", "policies": [{"jwt": {"secret": "file:jwt"}}]},
        {"path": "/vault", "service": "up", "policies": [{"jwt": {"secret": "vault:apps/edge#jwt"}}]},
        {"path": "/cluster", "service": "up", "policies": [{"jwt": {"secret": "kubernetes:edge/jwt#secret"}}]},
        {"path": "/any", "service": "up", "policies": [{"any_of": ["key_auth", "basic_auth", "hmac"]}]},
        {"path": "/within", "service": "up", "policies": [{"any_of": [{"jwt": {"secret": SECRETS["jwt"]}}]}]},
        {"path": "/denied", "service": "up", "policies": ["key_auth", {"acl": {"allow": {"groups": ["x"]}}}]},
    ],
}  # fmt: skip
TOKEN = {"Authorization": f"Bearer {SECRETS['admin']}"}


@pytest.fixture
def keepers():
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("args", [(), ("--single",)])
def test_planted_secrets_are_nowhere_and_change_without_a_reload(args, keepers):
    import jwt

    vault, cluster = FakeVault(), FakeSecrets()
    keepers.enter_context(vault)
    keepers.enter_context(cluster)
    vault.put("apps/edge", jwt=SECRETS["vault"])
    cluster.secrets["edge", "jwt"] = {"secret": SECRETS["kubernetes"]}
    elsewhere = {
        "refresh": "1s",
        "vault": {"address": vault.address, "auth": {
            "method": "approle", "role_id": "role-1", "secret_id": SECRETS["secret_id"],
        }},
        "kubernetes": {"address": cluster.address, "token": SECRETS["account"]},
    }  # fmt: skip
    gateway = GatewayProcess(CONFIG | {"secrets": elsewhere}, args=args)
    for name in ("jwt", "hmac", "password"):
        (gateway.folder / name).write_text(SECRETS[name] + "\n")
    sent = "planted-password-of-a-client", "planted-key-of-a-client"

    def ask(path, headers=""):
        with gateway.client() as client:
            return client.request(f"GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode())

    with gateway:
        shown = []
        for path in ("/jwt", "/vault", "/cluster", "/any", "/within", "/denied"):
            for headers in (
                "", "Authorization: Bearer a.b.c\r\n", f"X-API-Key: {sent[1]}\r\n",
                "Authorization: Basic YWRhOnBsYW50ZWQtcGFzc3dvcmQtb2YtYS1jbGllbnQ=\r\n",
                'Signature-Input: a=("@method" "@path");keyid="k";created=1\r\nSignature: a=:AAAA:\r\n',
            ):  # fmt: skip
                answer = ask(path, headers)
                assert answer.status == 401
                shown += [repr(answer), answer.body.decode()]
        for path in ("/config", "/routes", "/services", "/metrics", "/keys", "/consumers"):
            status, body = gateway.admin(path, headers=TOKEN)
            assert status == 200
            shown.append(body)
        # a secret that changes is in force without anybody's doing
        fresh = "planted-fresh-secret-0123456789abcdef"
        token = jwt.encode({"sub": "ada"}, fresh, "HS256")
        bearer = f"Authorization: Bearer {token}\r\n"
        assert ask("/jwt", bearer).status == 401
        (gateway.folder / "jwt.new").write_text(fresh)
        os.rename(gateway.folder / "jwt.new", gateway.folder / "jwt")
        end = time.monotonic() + 60
        while ask("/jwt", bearer).status == 401:
            assert time.monotonic() < end, gateway.stderr
        # in Vault and in Kubernetes too
        token = jwt.encode({"sub": "ada"}, SECRETS["vault"], "HS256")
        assert ask("/vault", f"Authorization: Bearer {token}\r\n").status != 401
        for path in ("/vault", "/cluster"):
            assert ask(path, bearer).status == 401
        vault.put("apps/edge", jwt=fresh)
        cluster.secrets["edge", "jwt"] = {"secret": fresh}
        end = time.monotonic() + 60
        while 401 in (ask("/vault", bearer).status, ask("/cluster", bearer).status):
            assert time.monotonic() < end, gateway.stderr
        # who keeps them goes: what they said last stays, over a reload that somebody wants too
        vault.broken = 503
        end = time.monotonic() + 60
        while 'fastgw_secret_failures_total{secret="apps/edge",source="vault"} 0.0' in (
            text := gateway.admin("/metrics", headers=TOKEN)[1]
        ):
            assert time.monotonic() < end, text
        shown.append(text)
        assert 'fastgw_secret_age_seconds{secret="apps/edge",source="vault"}' in text
        assert gateway.admin("/config/reload", "POST", headers=TOKEN)[0] == 200
        assert ask("/vault", bearer).status != 401
        # and one that is none changes nothing
        (gateway.folder / "password").write_text("planted-plain-password")
        end = time.monotonic() + 60
        while "is not hashed" not in gateway.stderr:
            assert time.monotonic() < end, gateway.stderr
        assert ask("/jwt", bearer).status != 401
        shown += [gateway.stdout, gateway.stderr, gateway.admin("/config", headers=TOKEN)[1]]
    everything = "\n".join(shown)
    assert '"secret":"***"' in everything
    for secret in (*SECRETS.values(), *vault.tokens, *sent, fresh, "planted-plain-password"):
        assert secret not in everything


ELSEWHERE = """
secrets: {refresh: 1s, vault: {address: "%s", timeout: 1s, auth: {method: token, token: root-of-the-test}}}
services: {up: "http://127.0.0.1:1"}
%s
routes:
  - {path: /open, policies: [{respond: {body: a}}]}
  - {path: /vault, service: up, policies: [{jwt: {secret: "vault:apps/edge#jwt"}}]}
"""
PLANTED = "planted-vault-secret-0123456789abcdef"


def checked_elsewhere(text, sources):
    return check(text, resolver=RESOLVER, env={}, secrets=sources.reader())


def test_what_is_not_there_is_said_where_it_is_written():
    with FakeVault() as vault:
        vault.put("apps/edge", other=PLANTED, number=7)
        text = ELSEWHERE % (vault.address, "")
        for written, words in (
            ("vault:apps/edge#jwt", "no field 'jwt'"), ("vault:apps/none#jwt", "404"), ("vault:a#", "is not how"),
            ("vault:apps/edge#number", "is not text"), ("kubernetes:a#b", "no `secrets.kubernetes`"),
        ):  # fmt: skip
            config, problems = checked_elsewhere(text.replace("vault:apps/edge#jwt", written), SecretSources())
            assert config is None and words in str(problems[0]) and ":7:" in str(problems[0])
            assert PLANTED not in str(problems)
        config, problems = checked_elsewhere(text.replace("root-of-the-test", "vault:a#b"), SecretSources())
        assert config is None and "cannot be read before" in str(problems[0])
        config, problems = check(text, resolver=RESOLVER, env={})
        assert config is None and "nobody is asked here" in str(problems[0])


def test_who_does_not_answer_is_asked_once_and_what_may_wait_waits():
    with FakeVault() as vault:
        vault.broken = 503
        admin = 'admin: {token: "vault:apps/edge#admin"}'
        config, problems = checked_elsewhere(ELSEWHERE % (vault.address, admin), SecretSources())
        assert [problem.severity for problem in problems] == ["warning", "warning"]
        assert all("503 (it is sealed)" in problem.message and problem.line for problem in problems)
        assert len(vault.asked) == 1
        assert [may_wait for _, may_wait in config.secrets_missing] == [False, True]
        secret = config.routes[1].policies[0].options.secret
        assert secret and str(secret) == "***"
        with pytest.raises(SecretMissing, match="vault:apps/edge#jwt"):
            secret.reveal()
        assert pickle.loads(pickle.dumps(secret)).missing == secret.missing


def test_when_it_is_time_elsewhere(tmp_path):
    async def run(vault):
        file = tmp_path / "gateway.yaml"
        file.write_text(ELSEWHERE % (vault.address, ""))
        sources = SecretSources()
        config, _ = check(str(file), resolver=RESOLVER, env={}, secrets=sources.reader())
        watch = SecretWatch(lambda: config, None, sources)

        async def look():
            sources.next = 0.0
            return await watch.look_elsewhere()

        assert [await look() for _ in range(2)] == [False] * 2
        vault.put("apps/edge", jwt=PLANTED + "-new")
        assert [await look() for _ in range(3)] == [True, False, False]              # tried once
        vault.put("apps/edge", other="x")
        assert not await look() and sources.states()[0].failures == 1                # the last good value stays
        vault.broken = 500
        assert not await look() and sources.states()[0].failures == 2
        assert sources.states()[0].age >= 0
        reader = sources.reader()
        ((ref, stamp),) = config.secret_refs
        text, fresh, warning = reader.read(ref, config.secrets)
        assert text == PLANTED + "-new" and fresh != stamp and "its last value is used" in warning
        vault.broken = None
        vault.put("apps/edge", jwt=PLANTED + "-newer")
        file.write_text("x: 1")
        assert not await look()                                                      # the file waits for its reload
        assert PLANTED not in repr(vars(sources)) + repr(config.secret_refs)

    with FakeVault() as vault:
        vault.put("apps/edge", jwt=PLANTED)
        asyncio.run(run(vault))


def test_what_nobody_looked_after_is_not_taken_for_the_last_value():
    with FakeVault() as vault:
        vault.put("apps/edge", jwt=PLANTED)
        sources = SecretSources()
        text = ELSEWHERE % (vault.address, "")
        assert checked_elsewhere(text, sources)[1] == []
        vault.broken = 500
        assert "its last value is used" in checked_elsewhere(text, sources)[1][0].message
        for document in sources.documents.values():
            document.confirmed -= 3600
        assert checked_elsewhere(text, sources)[0].secrets_missing


def test_a_start_without_vault_closes_what_needs_it_until_it_is_there():
    import jwt

    vault = FakeVault()
    vault.start()
    vault.stop()
    gateway = GatewayProcess(ELSEWHERE.replace("services:", "server: {workers: 1, listeners: [{bind: '127.0.0.1:"
        "${FASTGW_PORT}'}]}\nadmin: {bind: '127.0.0.1:${FASTGW_ADMIN_PORT}'}\nservices:", 1) % (vault.address, ""))

    def ask(path, headers=""):
        with gateway.client() as client:
            return client.request(f"GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode())

    with gateway:
        assert ask("/open").status == 200
        refused = ask("/vault")
        assert refused.status == 503 and b"policy_unavailable" in refused.body
        assert "vault:apps/edge#jwt cannot be read" in gateway.stderr
        vault.put("apps/edge", jwt=PLANTED)
        with vault:
            token = jwt.encode({"sub": "ada"}, PLANTED, "HS256")
            deadline = time.monotonic() + 60
            while ask("/vault").status != 401:
                assert time.monotonic() < deadline, gateway.stderr
                time.sleep(0.05)
            assert ask("/vault", f"Authorization: Bearer {token}\r\n").status != 401
        assert PLANTED not in gateway.stderr + gateway.stdout


def test_a_start_without_what_the_admin_listener_needs_is_none():
    from fastgw.config import ConfigError
    from fastgw.server.compiled import compile_config

    vault = FakeVault()
    vault.start()
    vault.stop()
    with pytest.raises(ConfigError, match="vault:apps/edge#admin cannot be read"):
        compile_config(ELSEWHERE % (vault.address, 'admin: {token: "vault:apps/edge#admin"}'), 1, None, None)
    with pytest.raises(ConfigError, match="vault:apps/edge#jwt cannot be read"):
        compile_config(ELSEWHERE % (vault.address, ""), 2, None, None)
