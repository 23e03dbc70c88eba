"""Configuration → the TLS of listeners and services, as the workers get it."""

import pickle
import ssl

import pytest

from fastgw.config import load
from fastgw.plan import compile_spec
from fastgw.plan.tls import PROFILES
from fastgw.policies import RESOLVER
from fastgw.testing.certificates import Authority

NAME = "127.0.0.1:8443"


@pytest.fixture
def pki(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGW_CACHE", str(tmp_path / "cache"))
    return Authority(tmp_path)


def entry(pair, **more):
    return {"cert": pair.cert, "key": pair.key, **more}


def compiled(tls, services=None):
    listeners = [{"bind": NAME, "tls": tls}] if tls is not None else [NAME]
    services = services or {"up": "http://127.0.0.1:9001"}
    tree = {"server": {"listeners": listeners}, "services": services, "routes": [{"path": "/x", "service": "up"}]}
    return compile_spec(load(tree, resolver=RESOLVER, env={}))


def test_without_tls_there_is_none():
    spec = compiled(None)
    assert (spec.tls, spec.redirects, spec.services[0].tls) == ({}, {}, None)


def test_defaults(pki):
    spec = compiled({"certificates": [entry(pki.leaf("a.example"))]}).tls[NAME]
    assert (spec.min_version, spec.max_version) == (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    assert (spec.default, spec.unknown_sni, spec.alpn) == (0, "default", (b"h2", b"http/1.1"))
    assert (spec.client_auth, spec.client_ca, spec.crl, spec.hsts) == (0, b"", b"", b"")
    assert (spec.handshake_timeout_ns, spec.handshakes_per_address, spec.handshakes_in_flight) == (10**10, 64, 1024)
    assert (spec.ticket_rotate, spec.ticket_keep) == (12 * 3600, 3)
    assert [len(key) for key in spec.ticket_keys] == [80]


@pytest.mark.parametrize("profile", PROFILES)
def test_openssl_takes_the_profiles(pki, profile):
    spec = compiled({"self_signed": True, "profile": profile}).tls[NAME]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert spec.min_version == (0x0304 if profile == "modern" else 0x0303)
    assert (spec.ciphers == b"") == (profile == "modern")
    if spec.ciphers:
        context.set_ciphers(spec.ciphers.decode())
        names = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] == "TLSv1.2"]
        assert names == spec.ciphers.decode().split(":")
    # ssl takes one group at a time, and before Python 3.11.4 none that is not an EC curve
    for group in spec.groups.decode().split(":"):
        if group.startswith(("prime", "secp")):
            context.set_ecdh_curve(group)
    assert all(suite in {c["name"] for c in context.get_ciphers()} for suite in spec.ciphersuites.decode().split(":"))


def test_what_is_given_overrules_the_profile(pki):
    tls = {"self_signed": True, "profile": "modern", "min_version": "1.2", "groups": ["X25519"],
           "ciphersuites": ["TLS_AES_128_GCM_SHA256"]}  # fmt: skip
    spec = compiled(tls).tls[NAME]
    assert spec.min_version == 0x0303
    assert spec.ciphers                               # a version without a cipher would be none
    assert (spec.groups, spec.ciphersuites) == (b"X25519", b"TLS_AES_128_GCM_SHA256")
    assert compiled({"self_signed": True, "ciphers": "AESGCM:!aNULL"}).tls[NAME].ciphers == b"AESGCM:!aNULL"


def test_names_lead_to_one_certificate_of_each_kind(pki):
    pairs = [
        pki.leaf("a.example", "shared.example", "10.0.0.1"),
        pki.leaf("*.b.example", "shared.example", kind="rsa", file="rsa"),
        pki.leaf("shared.example", kind="rsa", file="late"),
        pki.leaf("d.example", kind="rsa", file="d-rsa"),
        pki.leaf("d.example", file="d-ecdsa"),
    ]
    entries = [entry(pair) for pair in pairs]
    spec = compiled({"certificates": entries}).tls[NAME]
    assert spec.by_name() == {
        b"a.example": (0,),
        b"shared.example": (0, 1),
        b"*.b.example": (1,),
        b"d.example": (3, 4),
    }
    assert (spec.default, spec.default_group()) == (0, (0,))
    entries[3]["default"] = True
    spec = compiled({"certificates": entries}).tls[NAME]
    assert (spec.default, spec.default_group()) == (3, (3, 4))


@pytest.mark.parametrize(
    ("hsts", "value"),
    [
        ({"max_age": "1d"}, b"max-age=86400"),
        ({"max_age": 0}, b"max-age=0"),
        ({"max_age": "365d", "include_subdomains": True}, b"max-age=31536000; includeSubDomains"),
        (
            {"max_age": "730d", "include_subdomains": True, "preload": True},
            b"max-age=63072000; includeSubDomains; preload",
        ),
    ],
)
def test_hsts(pki, hsts, value):
    assert compiled({"self_signed": True, "hsts": hsts}).tls[NAME].hsts == value


def test_a_redirect_is_a_listener_of_its_own(pki):
    spec = compiled({"self_signed": True, "redirect_http": {"bind": "127.0.0.1:8080", "port": 443}})
    ((place, redirect),) = spec.redirects.items()
    assert (place, redirect.listener, redirect.port) == ("127.0.0.1:8080", NAME, 443)


def test_clients(pki):
    tls = {"self_signed": True, "client_auth": "request", "client_ca": pki.cert, "crl": pki.crl()}
    spec = compiled(tls).tls[NAME]
    assert spec.client_auth == 1
    assert spec.client_ca.startswith(b"-----BEGIN CERTIFICATE-----")
    assert spec.crl.startswith(b"-----BEGIN X509 CRL-----")
    spec = compiled({**tls, "client_auth": "none"}).tls[NAME]
    assert (spec.client_auth, spec.client_ca, spec.crl) == (0, b"", b"")


def upstream(url="https://up.example", **tls):
    return compiled(None, {"up": {"endpoints": [url], **({"tls": tls} if tls else {})}}).services[0]


def test_upstreams_are_checked_by_default():
    service = upstream()
    assert service.endpoints[0].host == b"up.example"
    assert upstream("https://up.example:8443").endpoints[0].host == b"up.example:8443"
    assert upstream("https://up.example:80").endpoints[0].host == b"up.example:80"
    spec = service.tls
    assert (spec.verify, spec.server_name, spec.ca_pem, spec.min_version) == (True, b"", b"", 0x0303)
    assert (spec.alpn, spec.session_reuse) == ((b"http/1.1",), True)


def test_pools_are_separated_by_what_a_connection_proves(pki):
    mine, other = pki.client("mine"), pki.client("other")
    kinds = [
        {},
        {"verify": False},
        {"server_name": "a.example"},
        {"ca": pki.cert},
        {"min_version": "1.3"},
        {"session_reuse": False},
        {"cert": mine.cert, "key": mine.key},
        {"cert": other.cert, "key": other.key},
    ]
    identities = [upstream(**tls).tls.identity for tls in kinds]
    assert len(set(identities)) == len(kinds)
    assert upstream(**kinds[-1]).tls.identity == identities[-1]


def test_specs_travel_and_show_no_key(pki):
    mine = pki.client("mine")
    spec = compiled(
        {"certificates": [entry(pki.leaf("a.example"))]},
        {"up": {"endpoints": ["https://up.example"], "tls": {"cert": mine.cert, "key": mine.key}}},
    )
    again = pickle.loads(pickle.dumps(spec))
    assert (again.tls, again.services) == (spec.tls, spec.services)
    assert b"PRIVATE KEY" in again.services[0].tls.key_pem
    assert b"PRIVATE KEY" in again.tls[NAME].certificates[0].key_pem
    assert "PRIVATE" not in repr(again)
    assert repr(again.tls[NAME].ticket_keys[0]) not in repr(again)
