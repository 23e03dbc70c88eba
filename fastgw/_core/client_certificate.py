"""What the certificate of a client says, as policies and upstreams are told."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

NAMES = 100
"""Alternative names that are told; a certificate with more is told without the rest."""
LENGTH = 1024
"""Bytes of one header's value."""
SAFE = "!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~ "
"""What needs no escape in a header's value: visible ASCII and the space, but not the escape itself."""


class ClientCertificate:
    """A certificate that was verified in the handshake.

    subject, issuer  RFC 4514 text, the most specific part first
    serial           hex, without leading zeros
    fingerprint      SHA-256 of the certificate, hex
    names            alternative names: `DNS:a.example`, `URI:spiffe://…`, `email:…`, `IP:…`
    not_after        seconds since 1970
    """

    __slots__ = ("fingerprint", "issuer", "lines", "names", "not_after", "serial", "subject")

    def __init__(self, der: bytes) -> None:
        certificate = x509.load_der_x509_certificate(der)
        self.subject = certificate.subject.rfc4514_string()
        self.issuer = certificate.issuer.rfc4514_string()
        self.serial = f"{certificate.serial_number:x}"
        self.fingerprint = certificate.fingerprint(SHA256()).hex()
        self.names = alternative_names(certificate)
        self.not_after = int(certificate.not_valid_after_utc.timestamp())
        self.lines = b"".join(
            b"X-Client-Cert-%s: %s\r\n" % (name, value.encode())
            for name, value in (
                (b"Subject", told(self.subject)),
                (b"Issuer", told(self.issuer)),
                (b"Serial", self.serial),
                (b"Fingerprint", self.fingerprint),
                (b"San", told_list(self.names)),
            )
        )

    def __repr__(self) -> str:
        return f"<ClientCertificate {self.subject}>"


def told(text: str) -> str:
    """As the value of a header; empty when it is too long: a part of a name is the name of somebody else."""
    value = quote(text, safe=SAFE)
    return value if len(value) <= LENGTH else ""


def told_list(names: tuple[str, ...]) -> str:
    """Those that fit, whole, with commas between them; one that is part of a name is `%2C`."""
    value = ""
    for name in names:
        longer = f"{value}," if value else ""
        longer += quote(name, safe=SAFE.replace(",", ""))
        if len(longer) <= LENGTH:
            value = longer
    return value


def alternative_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    kinds = (("DNS", x509.DNSName), ("URI", x509.UniformResourceIdentifier), ("email", x509.RFC822Name),
             ("IP", x509.IPAddress))  # fmt: skip
    names = [f"{word}:{value}" for word, kind in kinds for value in found.get_values_for_type(kind)]
    return tuple(names[:NAMES])


@lru_cache(maxsize=1024)
def parsed(der: bytes) -> ClientCertificate:
    return ClientCertificate(der)


def client_certificate(der: bytes | None) -> ClientCertificate | None:
    """None when the client has shown none. The same certificate is read once."""
    return parsed(der) if der else None
