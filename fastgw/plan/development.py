"""Certificates for development: made here, trusted by nobody who does not choose to."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import logging
import os
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fastgw.config.certificates import CertificateFiles, load, to_spec
from fastgw.config.material import CertificateSpec

logger = logging.getLogger("fastgw.tls")

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
DAYS = 90
RENEW = 30 * 86400
"""Seconds before its end from which on a kept one is made anew."""


def general_name(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


def make(
    names: Iterable[str],
    *,
    days: float = DAYS,
    issuer: tuple[x509.Certificate, Any] | None = None,
    authority: bool = False,
    now: float | None = None,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate and its new P-256 key; signed by itself, or by `issuer` (certificate, key)."""
    names = tuple(names)
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key()
    common = "fastgw development CA" if authority else names[0]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])
    begin = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    signer, signing = issuer if issuer is not None else (None, private)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.subject if signer is not None else subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - timedelta(hours=1))
        .not_valid_after(begin + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not authority, key_cert_sign=authority, crl_sign=authority,
                content_commitment=False, key_encipherment=False, data_encipherment=False,
                key_agreement=False, encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
    )  # fmt: skip
    if not authority:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([general_name(name) for name in names]), critical=False
        ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(signing, hashes.SHA256()), private


def pem(one: x509.Certificate) -> bytes:
    return one.public_bytes(serialization.Encoding.PEM)


def key_pem(private: Any) -> bytes:
    data: bytes = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return data


def write_private(path: Path, data: bytes) -> None:
    """Whole or not at all, and for its owner alone."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:    # mkstemp makes it 0600
            stream.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def cache_dir() -> Path:
    """Where made certificates are kept: $FASTGW_CACHE, or fastgw in $XDG_CACHE_HOME (~/.cache). OSError: nowhere."""
    own = os.environ.get("FASTGW_CACHE")
    if own:
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fastgw")
    except RuntimeError:
        raise OSError(errno.ENOENT, "there is no home directory") from None


KEPT: dict[tuple[str, ...], CertificateSpec] = {}
"""Of this process: where nothing can be written, a reload finds the same one all the same."""


def self_signed(extra: tuple[str, ...] = ()) -> CertificateSpec:
    """The certificate for localhost and these names: the one of the last time while it is good, or a new one."""
    names = tuple(dict.fromkeys((*LOCAL_NAMES, *extra)))
    kept = KEPT.get(names)
    if kept is None or kept.not_after - time.time() < RENEW:
        kept = KEPT[names] = from_cache(names) or to_cache(names)
    return kept


def place_of(names: tuple[str, ...]) -> Path:
    """One file with certificate and key, so that no process ever finds half a pair."""
    return cache_dir() / f"self-signed-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:16]}.pem"


def from_cache(names: tuple[str, ...]) -> CertificateSpec | None:
    try:
        path = place_of(names)
        status = os.stat(path)
    except OSError:
        return None
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        logger.warning("%s can be seen by others; a new self-signed certificate is made", path)
        return None
    spec, _ = load(CertificateFiles(str(path), str(path)))
    return spec if spec is not None and spec.not_after - time.time() > RENEW else None


def to_cache(names: tuple[str, ...]) -> CertificateSpec:
    certificate, private = make(names)
    try:
        path = place_of(names)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, pem(certificate) + key_pem(private))
    except OSError as error:
        logger.warning("the self-signed certificate is not kept over a restart: %s", error)
    return to_spec([certificate], private)
