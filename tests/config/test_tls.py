"""What is wrong with certificates, keys and parameters is told at its place; what is right is read."""

import ssl
import textwrap
from pathlib import Path

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER
from fastgw.testing.certificates import Authority

TAIL = """
services: {up: "http://127.0.0.1:9001"}
routes: [{path: /x, service: up}]
"""


@pytest.fixture
def pki(tmp_path):
    return Authority(tmp_path)


def listener(tls, env=None):
    """(config, problems) of a file with one listener, whose `tls` is this text."""
    text = "server:\n  listeners:\n    - bind: 127.0.0.1:8443\n      tls:\n"
    return check(text + textwrap.indent(textwrap.dedent(tls).strip(), " " * 8) + TAIL, resolver=RESOLVER, env=env or {})


def service(tls, url="https://up.example"):
    text = f"services:\n  up:\n    endpoints: ['{url}']\n    tls:\n"
    text += textwrap.indent(textwrap.dedent(tls).strip(), " " * 6) + "\nroutes: [{path: /x, service: up}]\n"
    return check(text, resolver=RESOLVER, env={})


def told(problems):
    """`line:col severity[code] path below tls: message` of each."""
    return [
        f"{p.line}:{p.col} {p.severity}[{p.code}] {p.path.partition('tls')[2].lstrip('.')}: {p.message}"
        for p in problems
    ]


def one(problems):
    (text,) = told(problems)
    return text


# ------------------------------------------------------------------------------------------------- certificates


def test_certificates_are_read(pki):
    ecdsa = pki.leaf("a.example", "*.B.example", "127.0.0.1")
    rsa = pki.leaf("a.example", kind="rsa", file="rsa")
    staple = pki.ocsp(ecdsa)
    config, problems = listener(f"certificates:\n  - {ecdsa.yaml(ocsp=staple)}\n  - {rsa.yaml()}")
    assert problems == []
    first, second = config.tls.listeners["127.0.0.1:8443"].certificates
    assert (first.kind, first.names) == ("ecdsa", (b"a.example", b"*.b.example", b"127.0.0.1"))
    assert first.ocsp == Path(staple).read_bytes()
    assert first.not_after == int(ecdsa.certificate.not_valid_after_utc.timestamp())
    assert (second.kind, second.name) == ("rsa", "a.example")


def test_paths_are_beside_the_configuration(pki, tmp_path):
    pki.leaf("a.example")
    file = tmp_path / "gateway.yaml"
    tls = "{certificates: [{cert: a.example.crt, key: 'file:a.example.key'}]}"
    file.write_text(f"server: {{listeners: [{{bind: '127.0.0.1:8443', tls: {tls}}}]}}" + TAIL)
    config, problems = check(file, resolver=RESOLVER, env={})
    assert problems == []
    assert config.server.listeners[0].tls.certificates[0].cert == str(tmp_path / "a.example.crt")


def test_a_file_that_is_not_there(tmp_path):
    cert, key = told(listener(f"certificates: [{{cert: {tmp_path}/a.crt, key: {tmp_path}/a.crt}}]")[1])
    reason = f"'{tmp_path}/a.crt' can not be read: No such file or directory"
    assert cert == f"5:31 error[file_unreadable] certificates[0].cert: {reason}"
    assert key.endswith(f"error[file_unreadable] certificates[0].key: {reason}")


def test_files_that_hold_something_else(pki, tmp_path):
    pair = pki.leaf("a.example")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "broken").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "half").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    wrong = {
        (tmp_path / "text", pair.key): f"cert: '{tmp_path}/text' holds no certificate",
        (pair.key, pair.key): f"cert: '{pair.key}' holds a private key",
        (tmp_path / "broken", pair.key): f"cert: '{tmp_path}/broken' holds a certificate that can not be read",
        (pair.cert, pair.cert): f"key: '{pair.cert}' holds a certificate",
        (pair.cert, tmp_path / "half"): "key: the private key can not be read",
    }
    for (cert, private), message in wrong.items():
        config, problems = listener(f"certificates: [{{cert: '{cert}', key: '{private}'}}]")
        assert config is None
        assert f"error[bad_certificate] certificates[0].{message}" in one(problems)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        ("expired", "error[expired] certificates[0].cert: the certificate ended on "),
        ("not_yet", "error[expired] certificates[0].cert: the certificate is not valid before "),
        ("mismatched", "error[key_mismatch] certificates[0].key: the key does not belong to the certificate"),
    ],
)
def test_pairs_that_can_not_be_served(pki, make, expected):
    config, problems = listener(f"certificates: [{getattr(pki, make)('a.example').yaml()}]")
    assert config is None
    assert expected in one(problems)


def test_a_certificate_near_its_end_is_warned_of(pki):
    config, problems = listener(f"certificates: [{pki.leaf('a.example', days=5).yaml()}]")
    assert config is not None
    assert "warning[expired] certificates[0].cert: the certificate ends on" in one(problems)
    assert "in 4 days" in one(problems)


def test_weak_keys(pki):
    config, problems = listener(f"certificates: [{pki.leaf('a.example', kind='rsa', bits=1024).yaml()}]")
    assert config is None
    assert "error[weak_key] certificates[0].key: the key has 1024 bits" in one(problems)


def test_a_chain_in_the_wrong_order(pki, tmp_path):
    below = pki.intermediate()
    pair = below.leaf("a.example")
    leaf, chain = Path(pair.cert).read_text().split("-----END CERTIFICATE-----\n")[:2]
    end = "-----END CERTIFICATE-----\n"
    (tmp_path / "a.example.crt").write_text(chain + end + leaf + end)
    config, problems = listener(f"certificates: [{pair.yaml()}]")
    assert config is None
    mismatch = next(p for p in problems if p.code == "key_mismatch")
    assert mismatch.hint == "certificate 2 of the file does; it must be the first"


def test_encrypted_keys(pki):
    pair = pki.leaf("a.example", passphrase="open sesame")
    assert "error[missing_key] certificates[0].key: the private key is encrypted" in one(
        listener(f"certificates: [{pair.yaml()}]")[1]
    )
    config, problems = listener(f"certificates: [{pair.yaml(passphrase='${PASS}')}]", {"PASS": "wrong"})
    assert config is None
    assert "certificates[0].key: the passphrase does not open the private key" in one(problems)
    config, problems = listener(f"certificates: [{pair.yaml(passphrase='${PASS}')}]", {"PASS": "open sesame"})
    assert problems == []
    (spec,) = config.tls.listeners["127.0.0.1:8443"].certificates
    assert b"BEGIN PRIVATE KEY" in spec.key_pem
    shown = repr(config.tls) + repr(config.server)
    assert "PRIVATE" not in shown
    assert "sesame" not in shown


def test_one_name_twice(pki):
    pairs = [pki.leaf("a.example", "b.example"), pki.leaf("b.example", file="two"), pki.leaf("b.example", kind="rsa")]
    config, problems = listener("certificates: [" + ", ".join(pair.yaml() for pair in pairs) + "]")
    assert config is not None
    assert one(problems).endswith(
        "warning[duplicate_name] certificates[1]: certificates[0] has b.example too, with a key of the same kind, "
        "and is taken"
    )


def test_a_common_name_alone_is_warned_of(pki):
    config, problems = listener(f"certificates: [{pki.leaf('a.example', alternative=False).yaml()}]")
    assert config.tls.listeners["127.0.0.1:8443"].certificates[0].names == (b"a.example",)
    assert "warning[bad_certificate] certificates[0].cert: the certificate has a common name only" in one(problems)


def test_staples(pki):
    pair, other = pki.leaf("a.example"), pki.leaf("b.example")
    assert "warning[key_mismatch] certificates[0].ocsp: the OCSP response is about another" in one(
        listener(f"certificates: [{pair.yaml(ocsp=pki.ocsp(other))}]")[1]
    )
    assert "error[bad_certificate] certificates[0].ocsp:" in one(
        listener(f"certificates: [{pair.yaml(ocsp=pair.cert)}]")[1]
    )
    config, problems = listener(f"certificates: [{pair.yaml(ocsp=pki.ocsp(pair, days=-1))}]")
    assert "warning[expired] certificates[0].ocsp: the OCSP response ended" in one(problems)
    assert config.tls.listeners["127.0.0.1:8443"].certificates[0].ocsp == b""
    assert "warning[expired] certificates[0].ocsp: the OCSP response says that" in one(
        listener(f"certificates: [{pair.yaml(ocsp=pki.ocsp(pair, revoked=True))}]")[1]
    )


# ------------------------------------------------------------------------------------------------- clients


def test_client_authorities_and_revocations(pki, tmp_path):
    base = f"certificates: [{pki.leaf('a.example').yaml()}]\nclient_auth: require\n"
    config, problems = listener(base + f"client_ca: {pki.cert}\ncrl: {pki.crl(pki.client('bad'))}")
    assert problems == []
    material = config.tls.listeners["127.0.0.1:8443"]
    assert material.client_ca.startswith(b"-----BEGIN CERTIFICATE-----")
    assert material.crl.startswith(b"-----BEGIN X509 CRL-----")
    other = Authority(tmp_path / "other")
    wrong = {
        "": "6:22 error[missing_key] client_auth: nobody says which clients to trust",
        f"client_ca: {tmp_path}/none": "error[file_unreadable] client_ca:",
        f"client_ca: {pki.key}": "error[bad_certificate] client_ca:",
        f"client_ca: {pki.leaf('x').cert}": "warning[bad_certificate] client_ca: the authority is no authority",
        f"client_ca: {pki.cert}\ncrl: {pki.cert}": "error[bad_certificate] crl:",
        f"client_ca: {pki.cert}\ncrl: {other.crl()}": "error[key_mismatch] crl: the revocation list is not signed",
        f"client_ca: {pki.cert}\ncrl: {pki.crl(days=-1)}": "warning[expired] crl: the revocation list",
    }
    for more, expected in wrong.items():
        assert expected in one(listener(base + more)[1])


def test_client_keys_without_effect(pki):
    config, problems = listener(f"self_signed: true\nclient_ca: {pki.cert}")
    assert config is not None
    assert "warning[unused] client_ca: has no effect: no client is asked for a certificate" in one(problems)


# ------------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ("{}", "5:9 error[missing_key] : there is no certificate"),
        ("max_version: '1.2'\nmin_version: '1.3'", "5:22 error[conflict] max_version: is 1.2, and `min_version` asks"),
        ("max_version: 1.2\nprofile: modern", "error[conflict] max_version: is 1.2, and `profile` asks for 1.3"),
        ("min_version: 1.1", "error[bad_choice] min_version: '1.1' is not one of the choices"),
        ("ciphers: [ECDHE-RSA-AES128-GCM-SHA257]", "5:19 error[bad_choice] ciphers[0]: 'ECDHE-RSA-AES128-GCM-SHA257'"),
        ("ciphers: [AESGCM, '!aNULL', TLS_AES_128_GCM_SHA256]", "ciphers[2]: 'TLS_AES_128_GCM_SHA256' is of TLS 1.3"),
        ("ciphers: 'HIGH:nonsense'", "error[bad_choice] ciphers[1]: 'nonsense' is no cipher this OpenSSL has"),
        ("ciphers: [AESGCM, '!AES']", "error[bad_value] ciphers: leaves no cipher"),
        ("ciphers: ['aNULL@SECLEVEL=0']", "error[weak_key] ciphers: selects "),
        ("ciphersuites: [TLS_AES_128_GCM_SHA1]", "error[bad_choice] ciphersuites[0]: 'TLS_AES_128_GCM_SHA1' is no"),
        ("groups: [X25519, secp112r1]", "error[bad_choice] groups[1]: 'secp112r1' is no group this OpenSSL has"),
        ("hsts: {max_age: 1d, preload: true}", "error[conflict] hsts.preload: browsers do not take this site"),
        ("redirect_http: 127.0.0.1:8443", "error[conflict] redirect_http: 127.0.0.1:8443 is already at listeners[0]"),
        ("redirect_http: 127.0.0.1:9901", "error[conflict] redirect_http: 127.0.0.1:9901 is already at the admin"),
        ("profile: modern\nciphers: [AESGCM, '!aNULL']", "warning[unused] ciphers: has no effect"),
        ("max_version: 1.2\nciphersuites: [TLS_AES_128_GCM_SHA256]", "warning[unused] ciphersuites: has no effect"),
        ("tickets: {enabled: false, keep: 2}", "warning[unused] tickets.keep: has no effect"),
        ("tickets: {rotate: 1s}", "error[out_of_range] tickets.rotate: 1s is out of range"),
        ("handshake: {in_flight: 0}", "error[out_of_range] handshake.in_flight: 0 is out of range"),
    ],
)
def test_parameters(tls, expected):
    text = one(listener(tls if tls == "{}" else f"{tls}\nself_signed: true")[1])
    assert expected in text


def test_certificates_and_a_self_signed_one(pki):
    _, problems = listener(f"certificates: [{pki.leaf('a.example').yaml()}]\nself_signed: [dev.example]")
    assert "error[conflict] self_signed: there are `certificates` too" in one(problems)


def test_two_defaults(pki):
    entry = pki.leaf("a.example").yaml()[:-1] + ", default: true}"
    other = pki.leaf("b.example").yaml()[:-1] + ", default: true}"
    text = one(listener(f"certificates: [{entry}, {other}]")[1])
    assert "error[conflict] certificates[1].default: certificates[0] is the default already" in text


def test_what_is_taken(pki):
    config, problems = listener(
        """
        self_signed: [Dev.example, 10.0.0.1, BÜCHER.example]
        min_version: 1.2
        ciphers: ECDHE+AESGCM:!aNULL:@STRENGTH
        groups: X25519:P-256
        redirect_http: 8080
        """
    )
    assert problems == []
    tls = config.server.listeners[0].tls
    assert tls.self_signed == ("dev.example", "10.0.0.1", "xn--bcher-kva.example")
    assert tls.min_version == "1.2"
    assert tls.ciphers == ("ECDHE+AESGCM", "!aNULL", "@STRENGTH")
    assert (str(tls.redirect_http.bind), tls.redirect_http.port) == ("0.0.0.0:8080", None)


def test_groups_of_newer_libraries(monkeypatch):
    monkeypatch.setattr(ssl, "OPENSSL_VERSION_INFO", (3, 0, 0, 0, 0))
    assert "is no group this OpenSSL has" in one(listener("self_signed: true\ngroups: [X25519MLKEM768]")[1])
    monkeypatch.setattr(ssl, "OPENSSL_VERSION_INFO", (3, 5, 0, 0, 0))
    assert listener("self_signed: true\ngroups: [X25519MLKEM768]")[1] == []


# ------------------------------------------------------------------------------------------------- services


def test_upstreams(pki, tmp_path):
    mine = pki.client("gateway")
    config, problems = service(f"ca: {pki.cert}\ncert: {mine.cert}\nkey: {mine.key}\nserver_name: UP.example")
    assert problems == []
    assert config.services["up"].tls.server_name == "up.example"
    material = config.tls.services["up"]
    assert material.ca.startswith(b"-----BEGIN CERTIFICATE-----")
    assert b"PRIVATE KEY" in material.key
    assert "PRIVATE" not in repr(config.tls)
    wrong = {
        "verify: false": "warning[exposed] verify: anybody on the way can answer",
        f"ca: {tmp_path}/none": "error[file_unreadable] ca:",
        f"cert: {mine.cert}": "error[missing_key] cert: there is no `key` with it",
        f"key: {mine.key}": "error[missing_key] key: there is no `cert` with it",
        f"cert: {mine.cert}\nkey: {pki.key}": "error[key_mismatch] key: the key does not belong",
        "server_name: a b": "error[bad_value] server_name: 'a b' is not a host name",
        "min_version: 1.0": "error[bad_choice] min_version:",
    }
    for tls, expected in wrong.items():
        assert expected in one(service(tls)[1])


def test_https_needs_no_room(pki):
    config, problems = check("services: {up: 'https://up.example'}\nroutes: [{path: /x, service: up}]\n",
                             resolver=RESOLVER, env={})  # fmt: skip
    assert problems == []
    assert config.tls.services["up"].ca == b""


def test_tls_without_an_https_endpoint():
    config, problems = service("{}", url="http://up.example")
    assert config is not None
    assert "warning[unused] : has no effect: no endpoint is https" in one(problems)
    assert config.tls.services == {}
