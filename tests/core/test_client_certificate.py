"""What upstreams are told of a client's certificate can be read in one way only."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fastgw._core.client_certificate import LENGTH, client_certificate

KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(names, subject=(("mobile-app", NameOID.COMMON_NAME),)):
    name = x509.Name([x509.NameAttribute(kind, value) for value, kind in subject])
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key())
        .serial_number(0xAB12).not_valid_before(begin).not_valid_after(begin + datetime.timedelta(days=9))
    )  # fmt: skip
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return client_certificate(builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER))


def told(one):
    lines = one.lines.decode("ascii").split("\r\n")
    assert lines.pop() == ""
    return {name.removeprefix("X-Client-Cert-"): value for name, value in (line.split(": ", 1) for line in lines)}


def test_no_certificate():
    assert client_certificate(None) is None


def test_what_is_told():
    one = certificate([x509.DNSName("a.example"), x509.UniformResourceIdentifier("spiffe://example/app")])
    headers = told(one)
    assert headers["Subject"] == headers["Issuer"] == "CN=mobile-app"
    assert (headers["Serial"], headers["Fingerprint"]) == ("ab12", one.fingerprint)
    assert headers["San"] == "DNS:a.example,URI:spiffe://example/app"
    assert one.names == ("DNS:a.example", "URI:spiffe://example/app")
    assert told(certificate([]))["San"] == ""


def test_a_comma_in_a_name_begins_no_other_name():
    one = certificate([x509.UniformResourceIdentifier("spiffe://example/a,URI:spiffe://example/admin")])
    assert told(one)["San"] == "URI:spiffe://example/a%2CURI:spiffe://example/admin"
    assert len(one.names) == 1


def test_a_name_is_whole_or_not_there():
    long = "spiffe://example/" + "a" * LENGTH
    names = [x509.UniformResourceIdentifier(long), x509.DNSName("a.example")]
    assert told(certificate(names))["San"] == "DNS:a.example"
    units = [("u" * 64, NameOID.ORGANIZATIONAL_UNIT_NAME)] * 20
    assert told(certificate([], units))["Subject"] == ""


@pytest.mark.parametrize("value", ["a\r\nX-Admin: 1", "a\0b", "ü", "100%41"])
def test_no_byte_of_a_name_is_syntax(value):
    """Each character that is no visible ASCII is escaped, by RFC 4514 or here."""
    subject = told(certificate([], [(value, NameOID.COMMON_NAME)]))["Subject"]
    assert subject.startswith("CN=") and all(" " <= c <= "~" for c in subject)
    assert "%41" not in subject


def test_names_without_end():
    headers = told(certificate([x509.DNSName(f"{i}.example") for i in range(500)]))
    assert len(headers["San"]) <= LENGTH
    assert all(name.endswith(".example") for name in headers["San"].split(","))


def test_a_certificate_that_cannot_be_read_lets_nobody_in(tmp_path, monkeypatch):
    """OpenSSL takes it, the library that reads it for policies does not."""
    import asyncio
    import ssl

    import fastgw._core.client_certificate as module
    from fastgw import Gateway
    from fastgw.testing import free_port
    from fastgw.testing.certificates import Authority

    def unreadable(der):
        raise ValueError("no certificate")

    monkeypatch.setattr(module, "parsed", unreadable)
    pki = Authority(tmp_path)
    pair, mine, port = pki.leaf("localhost"), pki.client("app"), free_port()
    config = {
        "server": {"listeners": [{"bind": f"127.0.0.1:{port}", "tls": {
            "certificates": [{"cert": pair.cert, "key": pair.key}], "client_auth": "request", "client_ca": pki.cert}}]},
        "admin": {"enabled": False},
        "routes": [{"path": "/*", "policies": [{"respond": {"body": "in"}}]}],
    }  # fmt: skip

    async def ask(context):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        try:
            return await asyncio.wait_for(reader.read(), 5)
        except (ConnectionError, ssl.SSLError):
            return b""
        finally:
            writer.close()

    async def scenario():
        async with Gateway(config):
            context = ssl.create_default_context(cafile=pki.cert)
            assert (await ask(context)).endswith(b"in")
            context.load_cert_chain(mine.cert, mine.key)
            assert await ask(context) == b""

    asyncio.run(scenario())
