"""Vault and Kubernetes are asked as their documentation says; what they answer otherwise is told, never quoted."""

import asyncio

import pytest

from fastgw.config.schema.secrets import KubernetesSource, VaultSource
from fastgw.config.secret_refs import Unreadable, parse
from fastgw.testing.certificates import Authority
from fastgw.upstreams.discovery.base import SourceError
from fastgw.upstreams.secrets import open_provider
from tests.upstreams.keepers import FakeSecrets, FakeVault

TOKEN = {"method": "token", "token": "root-of-the-test"}
APPROLE = {"method": "approle", "role_id": "role-1", "secret_id": "planted-secret-id"}


def vault(fake, auth=TOKEN, **options):
    return open_provider("vault", VaultSource.model_validate({"address": fake.address, "auth": auth, **options}))


def read(provider, path="apps/edge", version=0):
    return asyncio.run(provider.read(path, version))


@pytest.fixture
def fake():
    with FakeVault() as fake:
        fake.put("apps/edge", jwt="one", other="x")
        fake.put("apps/edge", jwt="two")
        yield fake


def test_a_token_reads_the_newest_version_or_another(fake):
    provider = vault(fake)
    assert read(provider) == {"jwt": "two"}
    assert read(provider, version=1) == {"jwt": "one", "other": "x"}
    assert fake.paths() == ["/v1/auth/token/lookup-self", *["/v1/secret/data/apps/edge"] * 2]
    assert [query for _, _, query, *_ in fake.asked] == [{}, {}, {"version": "1"}]


def test_approle_and_kubernetes_log_in_once(fake, tmp_path):
    (tmp_path / "token").write_text("planted-account-jwt\n")
    kubernetes = {"method": "kubernetes", "role": "fastgw", "token_file": str(tmp_path / "token")}
    for auth, path in ((APPROLE, "approle"), (kubernetes, "kubernetes")):
        fake.asked.clear()
        provider = vault(fake, auth)
        assert read(provider) == read(provider) == {"jwt": "two"}
        assert fake.paths() == [f"/v1/auth/{path}/login", *["/v1/secret/data/apps/edge"] * 2]
    (tmp_path / "token").unlink()
    with pytest.raises(SourceError, match="service account"):
        read(vault(fake, kubernetes))


def test_a_lease_is_renewed_and_a_lost_token_asked_for_anew(fake):
    provider = vault(fake, APPROLE)
    read(provider)
    provider.renew_at = 0                            # two thirds of the lease are over
    read(provider)
    assert fake.paths()[-2:] == ["/v1/auth/token/renew-self", "/v1/secret/data/apps/edge"] and fake.logins == 1
    assert provider.renew_at > 0
    fake.tokens.clear()                              # revoked
    assert read(provider) == {"jwt": "two"} and fake.logins == 2
    provider.renew_at, provider.renewable = 0, False
    read(provider)
    assert fake.logins == 3
    fake.tokens.clear()
    provider.renew_at, provider.renewable = 0, True
    read(provider)
    assert fake.logins == 4, "what cannot be renewed is asked for anew"


def test_a_mount_and_a_namespace():
    with FakeVault(mount="kv/edge", namespace="teams/edge") as fake:
        fake.put("a", b="c")
        assert read(vault(fake, mount="kv/edge", namespace="teams/edge"), "a") == {"b": "c"}
        with pytest.raises(Unreadable, match="403"):
            read(vault(fake, mount="kv/edge"), "a")


def test_tls_by_the_ca_that_is_given(tmp_path):
    authority = Authority(tmp_path)
    pair = authority.leaf("127.0.0.1")
    with FakeVault(tls=(pair.cert, pair.key)) as fake:
        fake.put("a", b="c")
        assert read(vault(fake, ca=authority.cert), "a") == {"b": "c"}
        with pytest.raises(OSError, match="certificate verify failed"):
            read(vault(fake), "a")


@pytest.mark.parametrize("status, kind", [(400, Unreadable), (404, Unreadable), (429, SourceError), (500, SourceError),
                                          (503, SourceError), (307, SourceError)])  # fmt: skip
def test_answers_that_are_none(fake, status, kind):
    provider = vault(fake)
    read(provider)
    fake.broken = status
    with pytest.raises(kind) as told:
        read(provider)
    assert str(status) in str(told.value) and "planted" not in str(told.value)


def test_what_is_not_there(fake):
    for path, version in (("apps/none", 0), ("apps/edge", 9)):
        with pytest.raises(Unreadable, match="404"):
            read(vault(fake), path, version)
    fake.versions["apps/edge"].append(None)          # deleted
    with pytest.raises(Unreadable, match="404"):
        read(vault(fake))
    with pytest.raises(Unreadable, match="403"):
        read(vault(fake, {"method": "token", "token": "another"}))
    with pytest.raises(Unreadable, match="400"):
        read(vault(fake, APPROLE | {"secret_id": "another"}))


def test_kubernetes(tmp_path):
    with FakeSecrets() as fake:
        fake.secrets["edge", "jwt"] = {"secret": "one", "tls.key": "two"}
        options = {"address": fake.address, "namespace": "edge", "token": "planted-account-token"}
        provider = open_provider("kubernetes", KubernetesSource.model_validate(options))
        assert read(provider, "jwt") == {"secret": "one", "tls.key": "two"}
        with pytest.raises(Unreadable, match="404"):
            read(provider, "none")
        with pytest.raises(Unreadable, match="404"):
            read(provider, "other/jwt")
        fake.token = "rotated"
        with pytest.raises(Unreadable, match="401"):
            read(provider, "jwt")
        # in a pod all of it is known, and the token read for every call
        for name, text in (("token", "rotated"), ("namespace", "edge")):
            (tmp_path / name).write_text(text)
        provider = open_provider("kubernetes", KubernetesSource.model_validate({"address": fake.address}))
        provider.cluster.account = tmp_path
        assert read(provider, "jwt")["secret"] == "one"
        fake.broken = 500
        with pytest.raises(SourceError, match="500"):
            read(provider, "jwt")


@pytest.mark.parametrize("text", ["vault:", "vault:a", "vault:a#", "vault:/a#b", "vault:a/../b#c", "vault:a//b#c",
                                  "vault:a?version=0#b", "vault:a#b#c", "vault:a b#c", "kubernetes:a/b/c#d",
                                  "kubernetes:a?version=1#b", "vault:a?x=1#b"])  # fmt: skip
def test_references_that_are_not_written_right(text):
    with pytest.raises(ValueError):
        parse(text)


def test_references():
    assert parse("file:x") is None and parse("vaults:a#b") is None
    for text in ("vault:apps/edge#jwt", "vault:apps/edge?version=3#jwt", "kubernetes:edge/jwt#tls.key"):
        assert str(parse(text)) == text
