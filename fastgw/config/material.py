"""What the files of certificates held, checked: it stays with the `Config`, and the plan is compiled from it.

Plain data without a reference to the schema. No repr shows a private key.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["rsa", "ecdsa", "ed25519"]


@dataclass(frozen=True, slots=True)
class CertificateSpec:
    """A certificate ready to be served.

    names        DNS names in lower case as A-labels, wildcards `*.example.com`, and IP addresses as text
    chain_pem    the certificate, then its chain
    key_pem      PKCS #8, not encrypted; in no repr
    ocsp         DER of the response to staple, or b""
    not_after    end of validity, seconds since 1970
    fingerprint  SHA-256 of the certificate, hex
    """

    names: tuple[bytes, ...]
    chain_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)
    kind: Kind
    ocsp: bytes = field(repr=False)
    not_after: int
    fingerprint: str

    @property
    def name(self) -> str:
        """What it is called in logs and metrics: its first name, or the beginning of its fingerprint."""
        return self.names[0].decode() if self.names else self.fingerprint[:16]


def is_address(name: bytes) -> bool:
    """Is this one of the names of a certificate an IP address?"""
    try:
        ipaddress.ip_address(name.decode())
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class ListenerMaterial:
    """What the files of a listener held. `certificates` are in the order of the file."""

    certificates: tuple[CertificateSpec, ...] = ()
    client_ca: bytes = field(default=b"", repr=False)
    crl: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class UpstreamMaterial:
    """What the files of a service held, PEM."""

    ca: bytes = field(default=b"", repr=False)
    cert: bytes = field(default=b"", repr=False)
    key: bytes = field(default=b"", repr=False)


@dataclass(slots=True)
class Material:
    """What all files held: by the listener's address, by the service's name."""

    listeners: dict[str, ListenerMaterial] = field(default_factory=dict)
    services: dict[str, UpstreamMaterial] = field(default_factory=dict)
