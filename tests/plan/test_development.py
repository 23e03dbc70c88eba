"""Self-signed certificates: made once, kept for their owner alone, made anew when it is time."""

import os

import pytest
from cryptography import x509

from fastgw.plan import development
from fastgw.plan.development import RENEW, make, place_of, self_signed

NAMES = ("localhost", "127.0.0.1", "::1")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(development, "KEPT", {})
    return tmp_path / "cache"


def restart():
    """What this process remembers is gone."""
    development.KEPT.clear()


def test_it_is_made_once(cache):
    first = self_signed()
    assert first.names == tuple(name.encode() for name in NAMES)
    assert first.kind == "ecdsa"
    restart()
    assert self_signed() == first
    (file,) = cache.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert cache.stat().st_mode & 0o777 == 0o700


def test_other_names_are_another_one(cache):
    other = self_signed(("dev.example", "10.1.1.1"))
    assert other.names == (b"localhost", b"dev.example", b"127.0.0.1", b"::1", b"10.1.1.1")
    assert other.fingerprint != self_signed().fingerprint
    assert len(list(cache.iterdir())) == 2


def test_one_that_others_could_see_is_not_used(cache, caplog):
    first = self_signed()
    place_of(NAMES).chmod(0o644)
    restart()
    assert self_signed().fingerprint != first.fingerprint
    assert "can be seen by others" in caplog.text
    assert place_of(NAMES).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_broken_file_is_replaced(cache, content):
    first = self_signed()
    place_of(NAMES).write_bytes(content)
    restart()
    second = self_signed()
    assert second.fingerprint != first.fingerprint
    restart()
    assert self_signed() == second


def test_it_is_made_anew_before_its_end(cache, monkeypatch):
    first = self_signed()
    monkeypatch.setattr(development.time, "time", lambda: first.not_after - RENEW + 1.0)
    assert self_signed().not_after > first.not_after


def test_without_a_place_it_lives_as_long_as_the_process(cache, caplog, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTGW_CACHE", str(tmp_path / "file"))
    first = self_signed()
    assert "is not kept over a restart" in caplog.text
    assert self_signed() == first
    assert os.listdir(tmp_path) == ["file"]


def test_a_user_without_a_home(monkeypatch, caplog):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(development, "KEPT", {})
    monkeypatch.delenv("FASTGW_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(development.Path, "home", nowhere)
    assert self_signed() == self_signed()
    assert "there is no home directory" in caplog.text


def test_an_authority_signs_leaves():
    ca, key = make((), authority=True)
    leaf, _ = make(("a.example",), issuer=(ca, key))
    leaf.verify_directly_issued_by(ca)
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
