"""Certificates for tests, made anew for each: an authority and what it signs, and everything that can be wrong.

    pki = Authority(folder)                                   # folder/ca.crt, folder/ca.key
    pair = pki.leaf("a.example", "*.b.example")               # folder/a.example.crt and .key: Pair(cert, key)
    rsa = pki.leaf("a.example", kind="rsa", file="a-rsa")     # kinds: "ecdsa" (P-256), "rsa" (2048 bits), "ed25519"
    old = pki.expired("a.example")                            # ended yesterday
    new = pki.not_yet("a.example")                            # begins tomorrow
    soon = pki.leaf("a.example", days=5)
    odd = pki.mismatched("a.example")                         # the key belongs to another certificate
    weak = pki.leaf("a.example", kind="rsa", bits=1024)
    locked = pki.leaf("a.example", passphrase="open sesame")  # the key is encrypted
    client = pki.client("mobile-app")                         # extended key usage: clients
    crl = pki.crl(client)                                     # folder/ca.crl revokes these pairs (none: an empty list)
    staple = pki.ocsp(pair)                                   # folder/a.example.ocsp, DER: good (revoked=True: revoked)
    below = pki.intermediate()                                # an Authority under this one; its leaves carry the chain
    other = Authority(folder / "other")                       # another authority altogether
    snippet = pair.yaml()                                     # {cert: …, key: …} for a configuration

    pki.cert is the path of the authority's certificate, for `client_ca`, `ca` or ssl.create_default_context(cafile=…).
    Names that are IP addresses become addresses; all paths are absolute. A second call with the same file name
    writes the files anew, which is what a renewal does; `Pair.replace(other)` moves other files into its place.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Kind = Literal["ecdsa", "rsa", "ed25519"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate (with its chain) and its key, as files."""

    cert: str
    key: str
    certificate: x509.Certificate

    def yaml(self, **more: str) -> str:
        """`{cert: …, key: …}`, one line; further keys of the entry (`ocsp`, `passphrase`) by name."""
        pairs = {"cert": self.cert, "key": self.key, **more}
        return "{" + ", ".join(f"{name}: '{value}'" for name, value in pairs.items()) + "}"

    def replace(self, other: Pair) -> None:
        """Puts another pair's files in the place of this one's, each at once (the key first)."""
        for old, new in ((self.key, other.key), (self.cert, other.cert)):
            temporary = Path(f"{old}.new")
            temporary.write_bytes(Path(new).read_bytes())
            os.replace(temporary, old)


def new_key(kind: Kind = "ecdsa", bits: int = 2048) -> Any:
    if kind == "rsa":
        return rsa.generate_private_key(65537, bits)
    return ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())


def general_name(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


def common(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def builder(subject: x509.Name, private: Any, begin: datetime, end: datetime, signing: Any) -> x509.CertificateBuilder:
    public = private.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
    )


def usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
        key_encipherment=not authority, data_encipherment=False, key_agreement=False, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip


def key_bytes(private: Any, passphrase: str = "") -> bytes:
    lock: Any = serialization.NoEncryption()
    if passphrase:
        lock = serialization.BestAvailableEncryption(passphrase.encode())
    data: bytes = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    return data


def pem(one: x509.Certificate) -> bytes:
    return one.public_bytes(serialization.Encoding.PEM)


class Authority:
    """A certificate authority in a folder, and what it signs. See the module's docstring."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        name: str = "fastgw test CA",
        *,
        file: str = "ca",
        parent: Authority | None = None,
    ) -> None:
        self.folder = Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.private: Any = new_key()
        self.chain: list[x509.Certificate] = []
        now = datetime.now(UTC)
        signing = parent.private if parent is not None else self.private
        begin, end = now - timedelta(days=30), now + timedelta(days=365)
        self.certificate: x509.Certificate = (
            builder(common(name), self.private, begin, end, signing)
            .issuer_name(parent.certificate.subject if parent is not None else common(name))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage(authority=True), critical=True)
            .sign(signing, hashes.SHA256())
        )
        if parent is not None:
            self.chain = [self.certificate, *parent.chain]
        self.cert = self.write(f"{file}.crt", pem(self.certificate))
        self.key = self.write(f"{file}.key", key_bytes(self.private, ""))
        self.crl_file = f"{file}.crl"

    # ------------------------------------------------------------------ what it signs

    def leaf(
        self,
        *names: str,
        kind: Kind = "ecdsa",
        bits: int = 2048,
        days: float = 60,
        begin: float = -1,
        passphrase: str = "",
        file: str = "",
        private: Any = None,
        client: bool = False,
        alternative: bool = True,
    ) -> Pair:
        """A certificate for these names. `begin` and `days` (from now) bound it; `alternative=False`: a CN only."""
        now = datetime.now(UTC)
        mine = new_key(kind, bits) if private is None else private
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        since, until = now + timedelta(days=begin), now + timedelta(days=days)
        wanted = (
            builder(common(names[0]), mine, since, until, self.private)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        )
        if alternative:
            subject = x509.SubjectAlternativeName([general_name(name) for name in names])
            wanted = wanted.add_extension(subject, critical=False)
        certificate = wanted.sign(self.private, hashes.SHA256())
        stem = file or names[0].replace("*", "_").replace(":", "_")
        return Pair(
            self.write(f"{stem}.crt", b"".join(pem(one) for one in (certificate, *self.chain))),
            self.write(f"{stem}.key", key_bytes(mine, passphrase)),
            certificate,
        )

    def expired(self, *names: str, file: str = "expired") -> Pair:
        return self.leaf(*names, begin=-20, days=-1, file=file)

    def not_yet(self, *names: str, file: str = "not-yet") -> Pair:
        return self.leaf(*names, begin=1, days=20, file=file)

    def mismatched(self, *names: str, file: str = "mismatched") -> Pair:
        """The key is one of its own."""
        pair = self.leaf(*names, file=file)
        self.write(f"{file}.key", key_bytes(new_key(), ""))
        return pair

    def client(self, name: str, *, file: str = "", days: float = 60) -> Pair:
        return self.leaf(name, client=True, file=file or f"client-{name}", days=days)

    def intermediate(self, name: str = "fastgw test intermediate", file: str = "intermediate") -> Authority:
        return Authority(self.folder, name, file=file, parent=self)

    def crl(self, *revoked: Pair, days: float = 7, file: str = "") -> str:
        """The path of a revocation list, PEM. `days` may be negative: a list that has ended."""
        now = datetime.now(UTC)
        wanted = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - timedelta(days=20))
            .next_update(now + timedelta(days=days))
        )
        for pair in revoked:
            serial = pair.certificate.serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - timedelta(days=1))
            wanted = wanted.add_revoked_certificate(entry.build())
        signed = wanted.sign(self.private, hashes.SHA256())
        return self.write(file or self.crl_file, signed.public_bytes(serialization.Encoding.PEM))

    def ocsp(self, pair: Pair, *, revoked: bool = False, days: float = 3, file: str = "") -> str:
        """The path of an OCSP response about a pair, DER."""
        now = datetime.now(UTC)
        status = ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.GOOD
        response = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                cert=pair.certificate,
                issuer=self.certificate,
                algorithm=hashes.SHA256(),
                cert_status=status,
                this_update=now - timedelta(days=5),
                next_update=now + timedelta(days=days),
                revocation_time=now - timedelta(days=1) if revoked else None,
                revocation_reason=None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, self.certificate)
            .sign(self.private, hashes.SHA256())
        )
        name = file or f"{Path(pair.cert).stem}.ocsp"
        return self.write(name, response.public_bytes(serialization.Encoding.DER))

    def write(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.write_bytes(data)
        if name.endswith(".key"):
            path.chmod(0o600)
        return str(path)
