"""Reading certificates: whatever a file holds, there is an answer, and the TLS library has the last word."""

import base64
import random
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from fastgw.config.certificates import CertificateFiles, load, load_authorities, load_revocations
from fastgw.testing.certificates import Authority

MUTATIONS = 250


@pytest.fixture
def pki(tmp_path):
    return Authority(tmp_path / "pki")


def mutations(source, seed):
    """The file with some bytes of its DER changed, or with its end cut off."""
    chance = random.Random(seed)
    raw = Path(source).read_bytes()
    lines = raw.splitlines() if raw.startswith(b"-----") else []
    der = base64.b64decode(b"".join(lines[1:-1])) if lines else raw
    for _ in range(MUTATIONS):
        changed = bytearray(der)
        for _ in range(chance.choice((1, 1, 2, 4))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        if chance.random() < 0.1:
            del changed[chance.randrange(len(changed)) :]
        yield b"\n".join((lines[0], base64.encodebytes(changed), lines[-1])) if lines else bytes(changed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
@pytest.mark.parametrize("what", ["cert", "key", "ocsp", "client_ca", "crl"])
def test_a_damaged_file_is_a_finding_or_still_good(pki, tmp_path, what, kind):
    pair = pki.leaf("a.example", "127.0.0.1", kind=kind)
    files = {"cert": pair.cert, "key": pair.key, "ocsp": pki.ocsp(pair), "client_ca": pki.cert, "crl": pki.crl(pair)}
    authorities = Path(pki.cert).read_bytes()
    damaged = str(tmp_path / "damaged")
    refused = 0
    for content in mutations(files[what], what):
        Path(damaged).write_bytes(content)
        if what == "client_ca":
            found, findings = load_authorities(damaged, what)
        elif what == "crl":
            found, findings = load_revocations(damaged, authorities)
        else:
            three = {**files, what: damaged}
            found, findings = load(CertificateFiles(three["cert"], three["key"], None, three["ocsp"]))
        errors = [finding for finding in findings if finding.severity == "error"]
        assert bool(found) == (not errors)
        refused += bool(errors)
    assert refused > MUTATIONS / 10


def test_what_openssl_refuses_is_told_before_a_worker_meets_it(pki, monkeypatch):
    def refuse(context, path):
        assert b"PRIVATE KEY" in Path(path).read_bytes()
        raise ssl.SSLError(1, "[SSL: EE_KEY_TOO_SMALL] ee key too small (_ssl.c:1)")

    pair = pki.leaf("a.example")
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", refuse)
    found, (finding,) = load(CertificateFiles(pair.cert, pair.key))
    assert found is None
    assert (finding.code, finding.path) == ("bad_certificate", ("cert",))
    assert finding.message.startswith("OpenSSL does not take the certificate: ")


def test_a_key_with_its_curve_before_it_and_a_file_with_both(pki, tmp_path):
    """As `openssl ecparam -genkey` writes keys, and HAProxy wants its files."""
    pair = pki.leaf("a.example")
    curve = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    both = tmp_path / "both.pem"
    both.write_text(curve + Path(pair.key).read_text() + Path(pair.cert).read_text())
    found, findings = load(CertificateFiles(str(both), str(both)))
    assert findings == []
    assert found == load(CertificateFiles(pair.cert, pair.key))[0]


def test_a_damaged_rsa_key_is_refused(pki):
    """It still has the modulus of the certificate, but a prime that is none of it."""
    pair = pki.leaf("a.example", kind="rsa")
    whole = serialization.load_pem_private_key(Path(pair.key).read_bytes(), None)
    numbers = whole.private_numbers()
    bad = rsa.RSAPrivateNumbers(
        numbers.p, numbers.q, numbers.d + 2, numbers.dmp1 + 2, numbers.dmq1 + 2, numbers.iqmp, numbers.public_numbers
    ).private_key(unsafe_skip_rsa_key_validation=True)
    Path(pair.key).write_bytes(
        bad.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    found, (finding,) = load(CertificateFiles(pair.cert, pair.key))
    assert found is None
    assert (finding.path, finding.message) == (("key",), "the private key is damaged: it signs nothing")


def test_a_chain_is_kept_in_its_order(pki):
    pair = pki.intermediate().leaf("a.example")
    found, findings = load(CertificateFiles(pair.cert, pair.key))
    assert findings == []
    assert found.chain_pem == Path(pair.cert).read_bytes()


def test_times_are_those_of_the_caller(pki):
    pair = pki.leaf("a.example", days=60)
    files = CertificateFiles(pair.cert, pair.key)
    end = pair.certificate.not_valid_after_utc.timestamp()
    assert [f.severity for f in load(files, end - 13 * 86400)[1]] == ["warning"]
    assert load(files, end - 15 * 86400)[1] == []
    assert [f.code for f in load(files, end + 1)[1]] == ["expired"]
