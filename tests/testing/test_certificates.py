"""The test authority makes what a real TLS library takes and refuses."""

import ssl
from pathlib import Path

import pytest

from fastgw.testing.certificates import Authority


@pytest.fixture
def pki(tmp_path):
    return Authority(tmp_path)


def server(pair, pki=None, crl=None):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    if pki is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(pki.cert)
    if crl is not None:
        context.load_verify_locations(crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def client(pki, pair=None):
    context = ssl.create_default_context(cafile=pki.cert)
    if pair is not None:
        context.load_cert_chain(pair.cert, pair.key)
    return context


def handshake(server_context, client_context, name):
    """Between two contexts, in memory: both sides done, or the SSLError of one."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client_context.wrap_bio(to_client, to_server, server_hostname=name),
        server_context.wrap_bio(to_server, to_client, server_side=True),
    ]
    done = set()
    for _ in range(10):
        for number, side in enumerate(sides):
            try:
                side.do_handshake()
                done.add(number)
            except ssl.SSLWantReadError:
                continue
        if len(done) == 2:
            return sides[0]
    raise AssertionError("the handshake does not end")


@pytest.mark.parametrize("kind", ["ecdsa", "rsa", "ed25519"])
def test_a_leaf_is_trusted_for_its_names(pki, kind):
    pair = pki.leaf("a.example", "*.b.example", "127.0.0.1", kind=kind)
    for name in ("a.example", "x.b.example", "127.0.0.1"):
        handshake(server(pair), client(pki), name)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(server(pair), client(pki), "c.example")


def test_an_intermediate_sends_its_chain(pki):
    pair = pki.intermediate().leaf("a.example")
    handshake(server(pair), client(pki), "a.example")


@pytest.mark.parametrize(("make", "reason"), [("expired", "expired"), ("not_yet", "not yet valid")])
def test_wrong_dates_are_refused(pki, make, reason):
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        handshake(server(getattr(pki, make)("a.example")), client(pki), "a.example")


def test_a_key_of_another_certificate_is_refused(pki):
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        server(pki.mismatched("a.example"))


def test_clients_with_certificates_and_those_revoked(pki, tmp_path):
    good, bad = pki.client("good"), pki.client("bad")
    stranger = Authority(tmp_path / "other").client("stranger")
    context = server(pki.leaf("a.example"), pki, pki.crl(bad))
    handshake(context, client(pki, good), "a.example")
    for refused, reason in ((bad, "revoked"), (stranger, "unable to get local issuer"), (None, "did not return")):
        with pytest.raises(ssl.SSLError, match=reason):
            handshake(context, client(pki, refused), "a.example")


def test_a_renewal_takes_the_place_of_the_files(pki):
    pair = pki.leaf("a.example")
    renewed = pki.leaf("a.example", file="new", days=80)
    pair.replace(renewed)
    found = handshake(server(pair), client(pki), "a.example").getpeercert(binary_form=True)
    assert found == ssl.PEM_cert_to_DER_cert(Path(renewed.cert).read_text())
