"""Certificates, keys, authorities, revocation lists and staples: files → checked bytes, or what is wrong with them.

    spec, findings = load(CertificateFiles("edge.crt", "edge.key"), now=time.time())

Nothing here raises for what a file holds. The path of a finding begins with the key it is about (`cert`, `key`,
`ocsp`, `client_ca`, `crl`, …); who asked puts the place of that key before it. Private keys are in no message.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509 import ocsp as ocsp_responses
from cryptography.x509.oid import NameOID

from fastgw.config.errors import Finding
from fastgw.config.fields import Secret
from fastgw.config.material import CertificateSpec, Kind
from fastgw.config.schema.tls import dns_name

MAX_FILE = 16 * 1024 * 1024
MAX_CHAIN = 20
SOON = 14 * 86400
"""Seconds before its end from which on a certificate is warned of."""
MIN_RSA = 2048
MIN_CURVE = 256
WEAK_HASHES = (hashes.MD5, hashes.SHA1)
UNREADABLE = (
    ValueError, TypeError, UnsupportedAlgorithm, InternalError, x509.InvalidVersion, x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)  # fmt: skip
"""What the library raises for things it reads; some of it only when a part is looked at."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where a certificate is. Absolute paths; `ocsp` may be None."""

    cert: str
    key: str
    passphrase: Secret | None = None
    ocsp: str | None = None

    def paths(self) -> tuple[str, ...]:
        return (self.cert, self.key) if self.ocsp is None else (self.cert, self.key, self.ocsp)


class Unusable(Exception):
    """What is wrong with one file."""

    def __init__(self, key: str, code: str, message: str, expected: str = "") -> None:
        super().__init__(message)
        self.finding = Finding(code, (key,), message, expected)


# ------------------------------------------------------------------------------------------------- files


def named(path: str) -> str:
    """A path as it is shown: its end is what matters."""
    return repr(path if len(path) <= 200 else "…" + path[-199:])


def read(path: str, key: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except OSError as error:
        reason = f"{named(path)} can not be read: {error.strerror}"
        raise Unusable(key, "file_unreadable", reason, "a file that can be read") from None
    except ValueError:
        raise Unusable(key, "file_unreadable", f"{named(path)} is not the name of a file") from None
    if len(data) > MAX_FILE:
        raise Unusable(key, "file_unreadable", f"{named(path)} is too large", "at most 16 MiB")
    return data


def read_certificates(path: str, key: str) -> list[x509.Certificate]:
    """All certificates of a PEM file, in its order."""
    data = read(path, key)
    if b"-----BEGIN CERTIFICATE-----" not in data:
        what = "a private key" if b"PRIVATE KEY-----" in data else "no certificate"
        message = f"{named(path)} holds {what}" if data else f"{named(path)} is empty"
        raise Unusable(key, "bad_certificate", message, "PEM: -----BEGIN CERTIFICATE-----")
    try:
        return x509.load_pem_x509_certificates(data)
    except UNREADABLE as error:
        message = f"{named(path)} holds a certificate that can not be read: {first_line(error)}"
        raise Unusable(key, "bad_certificate", message, "PEM: -----BEGIN CERTIFICATE-----") from None


def read_key(path: str, passphrase: Secret | None, key: str = "key") -> Any:
    """The private key of a PEM file."""
    data = read(path, key)
    if b"PRIVATE KEY-----" not in data:
        what = "a certificate" if b"-----BEGIN CERTIFICATE-----" in data else "no private key"
        message = f"{named(path)} holds {what}" if data else f"{named(path)} is empty"
        raise Unusable(key, "bad_certificate", message, "PEM: -----BEGIN PRIVATE KEY-----")
    encrypted = b"ENCRYPTED" in data
    secret = passphrase.reveal().encode() if passphrase is not None and encrypted else None
    if encrypted and not secret:
        raise Unusable(key, "missing_key", "the private key is encrypted, and there is no passphrase", "`passphrase`")
    try:
        # the primes of an RSA key are not tested, which takes 25 ms; `check_pair` signs with it instead
        return serialization.load_pem_private_key(data, secret, unsafe_skip_rsa_key_validation=True)
    except UNREADABLE:
        # the reason of a library could quote what it read
        reason = "the passphrase does not open the private key" if encrypted else "the private key can not be read"
        raise Unusable(key, "bad_certificate", reason, "RSA, ECDSA or Ed25519 in PEM") from None


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


# ------------------------------------------------------------------------------------------------- one certificate


def load(files: CertificateFiles, now: float | None = None) -> tuple[CertificateSpec | None, list[Finding]]:
    """The certificate (None when it can not be used) and all that is wrong with it, also warnings."""
    now = time.time() if now is None else now
    findings: list[Finding] = []
    chain: list[x509.Certificate] = []
    private: Any = None
    staple = b""
    try:
        chain = read_certificates(files.cert, "cert")
    except Unusable as error:
        findings.append(error.finding)
    try:
        private = read_key(files.key, files.passphrase)
    except Unusable as error:
        findings.append(error.finding)
    try:
        if chain:
            findings += check_chain(chain, now)
            findings += check_names(chain[0])
        if chain and private is not None:
            findings += check_pair(chain, private)
    except UNREADABLE as error:
        message = f"{named(files.cert)} holds a certificate that can not be read: {first_line(error)}"
        findings.append(Finding("bad_certificate", ("cert",), message, "an X.509 certificate"))
    if chain and files.ocsp is not None:
        try:
            staple, more = read_staple(files.ocsp, chain[0], now)
            findings += more
        except Unusable as error:
            findings.append(error.finding)
    if any(finding.severity == "error" for finding in findings):
        return None, findings
    spec = to_spec(chain, private, staple)
    findings += check_library(spec)
    return (None if any(finding.severity == "error" for finding in findings) else spec), findings


def check_library(spec: CertificateSpec) -> Iterator[Finding]:
    """OpenSSL, which will serve it, has the last word. It reads files only, so it gets one in memory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    fd = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as stream:
            stream.write(spec.chain_pem + spec.key_pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    except ssl.SSLError as error:
        reason = getattr(error, "reason", "") or first_line(error)
        yield Finding("bad_certificate", ("cert",), f"OpenSSL does not take the certificate: {reason}", "another one")
    finally:
        os.close(fd)


def to_spec(chain: Sequence[x509.Certificate], private: Any, staple: bytes = b"") -> CertificateSpec:
    """Of what has been checked."""
    return CertificateSpec(
        names=names_of(chain[0]),
        chain_pem=b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain),
        key_pem=private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        kind=kind_of(private) or "rsa",
        ocsp=staple,
        not_after=int(chain[0].not_valid_after_utc.timestamp()),
        fingerprint=chain[0].fingerprint(hashes.SHA256()).hex(),
    )


def kind_of(private: Any) -> Kind | None:
    if isinstance(private, (rsa.RSAPrivateKey, rsa.RSAPublicKey)):
        return "rsa"
    if isinstance(private, (ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey)):
        return "ecdsa"
    if isinstance(private, (ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey)):
        return "ed25519"
    return None


def public_of(one: x509.Certificate) -> Any:
    """Its public key; None when the library does not know the kind."""
    try:
        return one.public_key()
    except UNREADABLE:
        return None


def names_of(one: x509.Certificate) -> tuple[bytes, ...]:
    """DNS names and IP addresses of the subject's alternative names; without any, the common name."""
    found: dict[str, None] = {}
    try:
        extension = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        candidates = extension.get_values_for_type(x509.DNSName)
        addresses = extension.get_values_for_type(x509.IPAddress)
    except x509.ExtensionNotFound:
        common = one.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        candidates, addresses = [str(attribute.value) for attribute in common], []
    for name in candidates:
        try:
            found[dns_name(name)] = None
        except ValueError:
            continue
    for address in addresses:
        found[str(address)] = None
    return tuple(name.encode() for name in found)


def check_names(one: x509.Certificate) -> Iterator[Finding]:
    if not names_of(one):
        yield warning("cert", "bad_certificate", "the certificate has no name a client could ask for")
        return
    try:
        one.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        # RFC 9525 §6.3: the common name is no name of a server any more
        message = "the certificate has a common name only, which clients do not look at"
        yield warning("cert", "bad_certificate", message, "subject alternative names")


def check_pair(chain: Sequence[x509.Certificate], private: Any) -> Iterator[Finding]:
    if kind_of(private) is None:
        yield Finding("bad_certificate", ("key",), "the kind of the private key is not known", "RSA, ECDSA or Ed25519")
        return
    yield from check_strength("key", "the key", private)
    mine = spki(private.public_key())
    if spki(public_of(chain[0])) == mine:
        if isinstance(private, rsa.RSAPrivateKey) and not signs(private):
            yield Finding("bad_certificate", ("key",), "the private key is damaged: it signs nothing", "a whole one")
        return
    other = next((n for n, one in enumerate(chain) if spki(public_of(one)) == mine), None)
    hint = f"certificate {other + 1} of the file does; it must be the first" if other else ""
    yield Finding("key_mismatch", ("key",), "the key does not belong to the certificate", "the key of `cert`", hint)


def signs(private: rsa.RSAPrivateKey) -> bool:
    """Can what it signs be verified?"""
    try:
        signature = private.sign(b"fastgw", padding.PKCS1v15(), hashes.SHA256())
        private.public_key().verify(signature, b"fastgw", padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def spki(public: Any) -> bytes | None:
    if public is None:
        return None
    data: bytes = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return data


def check_strength(key: str, what: str, thing: Any) -> Iterator[Finding]:
    kind, bits = kind_of(thing), getattr(thing, "key_size", 256)
    least = {"rsa": MIN_RSA, "ecdsa": MIN_CURVE}.get(kind or "", 0)
    if bits < least:
        yield Finding("weak_key", (key,), f"{what} has {bits} bits", f"at least {least} bits")


def check_chain(chain: Sequence[x509.Certificate], now: float) -> Iterator[Finding]:
    if len(chain) > MAX_CHAIN:
        yield Finding("bad_certificate", ("cert",), f"there are {len(chain)} certificates", f"at most {MAX_CHAIN}")
        return
    for number, one in enumerate(chain):
        what = "the certificate" if number == 0 else f"certificate {number + 1} of the chain"
        yield from check_dates("cert", what, one, now)
        if number and (public := public_of(one)) is not None:
            yield from check_strength("cert", f"the key of {what}", public)
        self_issued = one.issuer == one.subject
        if not self_issued and isinstance(one.signature_hash_algorithm, WEAK_HASHES):
            name = one.signature_hash_algorithm.name.upper()
            yield Finding("weak_key", ("cert",), f"{what} is signed with {name}", "SHA-256 or better")
        if number and chain[number - 1].issuer != one.subject:
            message = f"{what} did not issue the one before it"
            yield warning("cert", "bad_certificate", message, "the certificate first, then each one's issuer")


def check_dates(key: str, what: str, one: x509.Certificate, now: float) -> Iterator[Finding]:
    begin, end = one.not_valid_before_utc, one.not_valid_after_utc
    if end.timestamp() <= now:
        yield Finding("expired", (key,), f"{what} ended on {day(end)}", "a new one")
    elif begin.timestamp() > now:
        yield Finding("expired", (key,), f"{what} is not valid before {day(begin)}", "one that is valid now")
    elif end.timestamp() - now < SOON:
        days = int((end.timestamp() - now) // 86400)
        yield warning(key, "expired", f"{what} ends on {day(end)}, in {days} days", "a new one")


def day(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def warning(key: str, code: str, message: str, expected: str = "") -> Finding:
    return Finding(code, (key,), message, expected, severity="warning")


# ------------------------------------------------------------------------------------------------- staples


def read_staple(path: str, leaf: x509.Certificate, now: float) -> tuple[bytes, list[Finding]]:
    """DER of an OCSP response for this certificate. Its signature is the client's to check."""
    data = read(path, "ocsp")
    der = from_pem(data) if data.startswith(b"-----BEGIN") else data
    try:
        response = ocsp_responses.load_der_ocsp_response(der or b"")
        successful = response.response_status is ocsp_responses.OCSPResponseStatus.SUCCESSFUL
        serial = response.serial_number if successful else None
        status = response.certificate_status if successful else None
        end = response.next_update_utc if successful else None
    except UNREADABLE:
        raise Unusable("ocsp", "bad_certificate", f"{named(path)} is no OCSP response", "DER or PEM") from None
    if not successful:
        raise Unusable("ocsp", "bad_certificate", f"the OCSP response says {response.response_status.name.lower()}")
    if serial != leaf.serial_number:
        # usual for a while after a renewal, which must not wait for it
        message = "the OCSP response is about another certificate; it is not stapled"
        return b"", [warning("ocsp", "key_mismatch", message, "that of `cert`")]
    if status is ocsp_responses.OCSPCertStatus.REVOKED:
        return der or b"", [warning("ocsp", "expired", "the OCSP response says that the certificate is revoked")]
    if end is not None and end.timestamp() <= now:
        # stapling an old response is worse than none: clients refuse it
        message = f"the OCSP response ended on {day(end)}; it is not stapled"
        return b"", [warning("ocsp", "expired", message, "a new one")]
    return der or b"", []


def from_pem(data: bytes) -> bytes | None:
    import base64
    import binascii

    lines = [line for line in data.splitlines() if line and not line.startswith(b"-----")]
    try:
        return base64.b64decode(b"".join(lines), validate=True)
    except binascii.Error:
        return None


# ------------------------------------------------------------------------------------------------- authorities


def load_authorities(path: str, key: str, now: float | None = None) -> tuple[bytes, list[Finding]]:
    """PEM of the certificates in a file of authorities; b"" when it can not be used."""
    now = time.time() if now is None else now
    try:
        found = read_certificates(path, key)
    except Unusable as error:
        return b"", [error.finding]
    findings: list[Finding] = []
    for number, one in enumerate(found, 1):
        what = f"authority {number}" if len(found) > 1 else "the authority"
        if public_of(one) is None:
            findings.append(Finding("bad_certificate", (key,), f"{what} has a key of a kind that is not known"))
        # an old authority beside valid ones is usual while they are exchanged
        for finding in check_dates(key, what, one, now):
            finding.severity = "warning" if len(found) > 1 else finding.severity
            findings.append(finding)
        if not is_authority(one):
            message = f"{what} is no authority, its certificate may not sign others"
            findings.append(warning(key, "bad_certificate", message, "basic constraints with CA:TRUE"))
    if any(finding.severity == "error" for finding in findings):
        return b"", findings
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in found), findings


def is_authority(one: x509.Certificate) -> bool:
    try:
        return one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, *UNREADABLE):
        return False


def load_revocations(
    path: str, authorities: bytes, now: float | None = None, key: str = "crl"
) -> tuple[bytes, list[Finding]]:
    """PEM of the revocation lists in a file, each signed by one of the authorities; b"" when it can not be used."""
    now = time.time() if now is None else now
    mark = b"-----BEGIN X509 CRL-----"
    try:
        data = read(path, key)
        if mark not in data:
            raise Unusable(key, "bad_certificate", f"{named(path)} holds no revocation list", f"PEM: {mark.decode()}")
        lists = [x509.load_pem_x509_crl(mark + part) for part in data.split(mark)[1:]]
    except Unusable as error:
        return b"", [error.finding]
    except UNREADABLE:
        message = f"{named(path)} holds a revocation list that can not be read"
        return b"", [Finding("bad_certificate", (key,), message, f"PEM: {mark.decode()}")]
    signers = x509.load_pem_x509_certificates(authorities) if authorities else []
    findings: list[Finding] = []
    for number, one in enumerate(lists, 1):
        what = f"revocation list {number}" if len(lists) > 1 else "the revocation list"
        if signers and not any(signed_by(one, signer) for signer in signers):
            message = f"{what} is not signed by an authority of `client_ca`"
            findings.append(Finding("key_mismatch", (key,), message, "the list of that authority"))
        end = one.next_update_utc
        if end is not None and end.timestamp() <= now:
            # every client is refused when the list is old (X509_V_ERR_CRL_HAS_EXPIRED)
            findings.append(warning(key, "expired", f"{what} ended on {day(end)}: clients are refused", "a new one"))
    if any(finding.severity == "error" for finding in findings):
        return b"", findings
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in lists), findings


def signed_by(one: x509.CertificateRevocationList, signer: x509.Certificate) -> bool:
    public = public_of(signer)
    try:
        return one.issuer == signer.subject and kind_of(public) is not None and one.is_signature_valid(public)
    except (InvalidSignature, *UNREADABLE):
        return False
