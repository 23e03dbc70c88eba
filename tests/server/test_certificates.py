"""Files of certificates are looked at, taken into use when they are good, and left alone when they are not."""

import logging
import os
from pathlib import Path

import pytest

from fastgw.observe.metrics import View, render
from fastgw.server import plan_file
from fastgw.server.certificates import RENEW, CertificateWatch
from fastgw.server.compiled import Release, compile_config
from fastgw.server.shared import Slots
from fastgw.testing.certificates import Authority

NAME = "127.0.0.1:8443"
HOUR = 3600.0


@pytest.fixture
def pki(tmp_path):
    return Authority(tmp_path)


class Kept:
    """A configuration in force, and its watch. `look()` is what the agent does every few seconds."""

    def __init__(self, tls, services=None):
        self.now = 0.0
        tree = {
            "server": {"listeners": [{"bind": NAME, "tls": tls}] if tls else [NAME]},
            "services": services or {"up": "http://127.0.0.1:9001"},
            "routes": [{"path": "/x", "service": "up"}],
        }
        self.tree = tree
        self.compiled = compile_config(tree, 1, None, None)
        self.watch = CertificateWatch()
        self.watch.follow(self.compiled.config, self.compiled.spec.tls, self.now)
        while self.look():
            pass

    def look(self):
        change = self.watch.poll(self.now)
        if change is not None:
            self.compiled = self.compiled.refreshed(change.material, change.rotate)
            self.watch.taken(change, self.compiled.spec.tls, self.now)
        return change is not None

    def looks(self):
        """Twice: what has just been written is read when it is still the same."""
        return [self.look(), self.look()]

    @property
    def spec(self):
        return self.compiled.spec.tls[NAME]

    def fingerprints(self):
        return [one.fingerprint for one in self.spec.certificates]


def entry(pair, **more):
    return {"cert": pair.cert, "key": pair.key, **more}


def test_nothing_changes_when_no_file_does(pki):
    kept = Kept({"certificates": [entry(pki.leaf("a.example"))]})
    assert kept.compiled.spec.generation == 1
    assert kept.looks() == [False, False]


def test_a_renewed_certificate_is_taken_into_use(pki):
    pair, other = pki.leaf("a.example"), pki.leaf("b.example")
    kept = Kept({"certificates": [entry(pair), entry(other)]})
    before = kept.fingerprints()
    renewed = pki.leaf("a.example", file="new", days=80)
    pair.replace(renewed)
    assert kept.looks() == [False, True]
    assert kept.fingerprints()[0] != before[0]
    assert kept.fingerprints()[1] == before[1]
    assert kept.compiled.spec.generation == 2
    assert kept.watch.states()[0].not_after == int(renewed.certificate.not_valid_after_utc.timestamp())
    assert kept.looks() == [False, False]
    assert kept.watch.failures == 0


def test_what_changed_between_the_check_and_the_first_look_is_seen(pki):
    pair = pki.leaf("a.example")
    kept = Kept({"certificates": [entry(pair)]})
    before = kept.fingerprints()
    pki.leaf("a.example")
    watch = CertificateWatch()
    watch.follow(kept.compiled.config, kept.compiled.spec.tls, 0.0)
    assert [watch.poll(0.0) is None, watch.poll(0.0) is None] == [True, False]
    assert kept.fingerprints() == before


def test_a_pair_that_is_half_written_is_waited_for(pki):
    pair = pki.leaf("a.example")
    kept = Kept({"certificates": [entry(pair)]})
    new = pki.leaf("a.example", file="new")
    os.replace(new.cert, pair.cert)
    assert not kept.look()
    os.replace(new.key, pair.key)
    assert kept.looks() == [False, True]
    assert kept.watch.failures == 0


@pytest.mark.parametrize("make", ["expired", "mismatched"])
def test_a_bad_certificate_is_told_once_and_the_old_one_stays(pki, caplog, make):
    pair = pki.leaf("a.example")
    kept = Kept({"certificates": [entry(pair)]})
    before = kept.fingerprints()
    pair.replace(getattr(pki, make)("a.example"))
    with caplog.at_level(logging.ERROR, "fastgw.tls"):
        assert kept.looks() + kept.looks() == [False] * 4
    assert kept.fingerprints() == before
    assert kept.watch.failures == 1
    (line,) = caplog.messages
    assert line.startswith(f"listener {NAME}: {pair.cert}, {pair.key}: ")
    assert line.endswith("what was in use stays")
    assert kept.watch.states()[0].error in line
    pair.replace(pki.leaf("a.example", file="good"))
    assert kept.looks() == [False, True]
    assert kept.watch.states()[0].error == ""


def test_a_file_that_is_taken_away_and_comes_back(pki):
    pair = pki.leaf("a.example")
    kept = Kept({"certificates": [entry(pair)]})
    content = Path(pair.cert).read_bytes()
    os.unlink(pair.cert)
    assert kept.looks() == [False, False]
    assert kept.watch.failures == 1
    Path(pair.cert).write_bytes(content)
    assert kept.looks() == [False, False]            # the same certificate again
    assert kept.watch.states()[0].error == ""


def test_a_link_that_leads_elsewhere_is_a_change(pki, tmp_path):
    """As Kubernetes exchanges the files of a secret."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Authority(tmp_path / name).leaf("a.example")
    (tmp_path / "data").symlink_to("one")
    kept = Kept({"certificates": [{"cert": f"{tmp_path}/data/a.example.crt", "key": f"{tmp_path}/data/a.example.key"}]})
    before = kept.fingerprints()
    (tmp_path / "next").symlink_to("two")
    os.replace(tmp_path / "next", tmp_path / "data")
    assert kept.looks() == [False, True]
    assert kept.fingerprints() != before


def test_a_staple_does_not_hold_a_renewal_up(pki):
    pair = pki.leaf("a.example")
    kept = Kept({"certificates": [entry(pair, ocsp=pki.ocsp(pair))]})
    assert kept.spec.certificates[0].ocsp
    before = kept.fingerprints()
    pair.replace(pki.leaf("a.example", file="new"))
    Path(f"{pair.cert.removesuffix('.crt')}.ocsp").write_bytes(b"")
    assert kept.looks() == [False, True]
    assert kept.fingerprints() != before
    assert kept.spec.certificates[0].ocsp == b""


def test_revocations_are_taken_into_use_and_end_old_tickets(pki):
    """A ticket stands for a certificate that was shown: who is revoked may not come back by one."""
    client = pki.client("someone")
    tls = {
        "certificates": [entry(pki.leaf("a.example"))],
        "client_auth": "require",
        "client_ca": pki.cert,
        "crl": pki.crl(),
    }
    kept = Kept(tls)
    crl, keys = kept.spec.crl, kept.spec.ticket_keys
    pki.crl(client)
    assert kept.looks() == [False, True]
    assert kept.spec.crl != crl
    assert not set(kept.spec.ticket_keys) & set(keys)
    Path(pki.folder / "ca.crl").write_bytes(b"nothing")
    assert kept.looks() == [False, False]
    assert kept.spec.crl.startswith(b"-----BEGIN X509 CRL-----")
    assert kept.watch.failures == 1


def test_ticket_keys_are_rotated_and_the_last_ones_kept(pki):
    kept = Kept({"certificates": [entry(pki.leaf("a.example"))], "tickets": {"rotate": "1h", "keep": 3}})
    seen = [kept.spec.ticket_keys[0]]
    for hour in range(1, 5):
        kept.now = hour * HOUR - 1
        assert not kept.look()
        kept.now = hour * HOUR
        assert kept.look()
        seen.insert(0, kept.spec.ticket_keys[0])
        assert kept.spec.ticket_keys == tuple(seen[:3])
    assert len(set(seen)) == 5
    assert {len(one) for one in seen} == {80}


def test_ticket_keys_go_on_over_a_configuration_but_not_over_a_change_of_trust(pki):
    tls = {"certificates": [entry(pki.leaf("a.example"))]}
    kept = Kept(tls)
    again = compile_config(kept.tree, 2, None, None, kept.compiled.spec.tls)
    assert again.spec.tls[NAME].ticket_keys == kept.spec.ticket_keys
    kept.tree["server"]["listeners"][0]["tls"] = {**tls, "client_auth": "require", "client_ca": pki.cert}
    again = compile_config(kept.tree, 2, None, None, kept.compiled.spec.tls)
    assert not set(again.spec.tls[NAME].ticket_keys) & set(kept.spec.ticket_keys)
    kept.tree["server"]["listeners"][0]["tls"] = {**tls, "tickets": {"enabled": False}}
    assert compile_config(kept.tree, 2, None, None, kept.compiled.spec.tls).spec.tls[NAME].ticket_keys == ()


def test_a_reload_does_not_put_the_rotation_off(pki):
    kept = Kept({"certificates": [entry(pki.leaf("a.example"))], "tickets": {"rotate": "1h"}})
    kept.now = 0.75 * HOUR
    again = compile_config(kept.tree, 2, None, None, kept.compiled.spec.tls)
    kept.watch.follow(again.config, again.spec.tls, kept.now)
    kept.now = HOUR
    assert kept.look()


def test_certificates_for_upstreams_are_followed_too(pki, tmp_path):
    mine = pki.client("gateway")
    up = {"endpoints": ["https://up.example"], "tls": {"ca": pki.cert, "cert": mine.cert, "key": mine.key}}
    kept = Kept(None, {"up": up})
    before = kept.compiled.spec.services[0].tls
    mine.replace(pki.client("gateway", file="new"))
    assert kept.looks() == [False, True]
    after = kept.compiled.spec.services[0].tls
    assert after.cert_pem != before.cert_pem
    assert after.identity != before.identity
    mine.replace(pki.expired("gateway"))
    assert kept.looks() == [False, False]
    assert kept.watch.failures == 1


def test_a_self_signed_certificate_is_made_anew_before_its_end(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTGW_CACHE", str(tmp_path / "cache"))
    kept = Kept({"self_signed": True})
    assert kept.watch.poll(0.0) is None
    end = kept.spec.certificates[0].not_after
    assert kept.watch.poll(0.0, wall=end - RENEW - 1) is None
    assert kept.watch.poll(0.0, wall=end - RENEW + 1) is not None


def test_without_tls_there_is_nothing_to_look_at():
    kept = Kept(None)
    assert kept.watch.empty
    assert kept.watch.poll(0.0) is None


def test_a_release_is_refreshed_without_its_configuration(pki):
    kept = Kept({"certificates": [entry(pki.leaf("a.example"))]})
    release = Release.of(kept.compiled)
    try:
        fresh = release.refreshed(kept.compiled.config.tls, {NAME})
        try:
            spec = plan_file.read(fresh.plan)
            assert (fresh.generation, spec.generation) == (2, 2)
            assert spec.tls == fresh.tls
            assert spec.tls[NAME].ticket_keys[1:] == kept.spec.ticket_keys
            assert spec.chunks == kept.compiled.spec.chunks
            assert [route.path for route in fresh.config().routes] == ["/x"]
        finally:
            fresh.close()
    finally:
        release.close()


def test_no_key_is_in_a_repr(pki):
    kept = Kept({"certificates": [entry(pki.leaf("a.example"))]})
    shown = repr(kept.compiled) + repr(kept.watch.material) + repr(kept.spec)
    assert "PRIVATE" not in shown
    assert repr(kept.spec.ticket_keys[0]) not in shown


def test_the_ends_of_certificates_are_metrics(pki):
    pairs = [pki.leaf("a.example"), pki.leaf("a.example", kind="rsa", file="rsa"), pki.leaf("a.example", file="twice")]
    kept = Kept({"certificates": [entry(pair) for pair in pairs]})
    text = render(View(certificates=kept.watch.states(), certificate_failures=2)).decode()
    end = float(kept.spec.certificates[0].not_after)
    sample = f'fastgw_certificate_not_after_seconds{{kind="ecdsa",listener="{NAME}",name="a.example"}} '
    (line,) = [line for line in text.splitlines() if line.startswith(sample)]
    assert float(line.removeprefix(sample)) == end
    assert "fastgw_certificate_reload_failures_total 2.0" in text
    assert 59 < kept.watch.states()[0].days() < 61
    assert "fastgw_certificate" not in render(View()).decode()


def test_a_refresh_begins_no_counter_anew():
    """Slots that the generation before gave to new names are not given again."""
    before = Slots(2).next(1, ["a", "b"]).next(2, ["b"]).next(3, ["b", "c"])
    assert before.reused == [1]
    after = before.again(4)
    assert (after.names, after.removed, after.reused) == (before.names, before.removed, [])
    removed = before.next(4, ["c"])
    after = removed.again(5)
    assert (after.names, after.removed, after.reused) == (removed.names, removed.removed, [])
