"""Secrets in files of their own: taken anew when they change, from systemd, and never shown."""

import os

import pytest

from fastgw.config import Config, check
from fastgw.config.fields import file_stamp
from fastgw.policies import RESOLVER
from fastgw.server.secrets import SecretWatch
from fastgw.testing import GatewayProcess

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
        {"path": "/any", "service": "up", "policies": [{"any_of": ["key_auth", "basic_auth", "hmac"]}]},
        {"path": "/within", "service": "up", "policies": [{"any_of": [{"jwt": {"secret": SECRETS["jwt"]}}]}]},
        {"path": "/denied", "service": "up", "policies": ["key_auth", {"acl": {"allow": {"groups": ["x"]}}}]},
    ],
}  # fmt: skip
TOKEN = {"Authorization": f"Bearer {SECRETS['admin']}"}


@pytest.mark.parametrize("args", [(), ("--single",)])
def test_planted_secrets_are_nowhere_and_change_without_a_reload(args):
    import time

    import jwt

    gateway = GatewayProcess(CONFIG, args=args)
    for name in ("jwt", "hmac", "password"):
        (gateway.folder / name).write_text(SECRETS[name] + "\n")
    sent = "planted-password-of-a-client", "planted-key-of-a-client"

    def ask(path, headers=""):
        with gateway.client() as client:
            return client.request(f"GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode())

    with gateway:
        shown = []
        for path in ("/jwt", "/any", "/within", "/denied"):
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
        # and one that is none changes nothing
        (gateway.folder / "password").write_text("planted-plain-password")
        end = time.monotonic() + 60
        while "is not hashed" not in gateway.stderr:
            assert time.monotonic() < end, gateway.stderr
        assert ask("/jwt", bearer).status != 401
        shown += [gateway.stdout, gateway.stderr, gateway.admin("/config", headers=TOKEN)[1]]
    everything = "\n".join(shown)
    assert '"secret":"***"' in everything
    for secret in (*SECRETS.values(), *sent, fresh, "planted-plain-password"):
        assert secret not in everything
