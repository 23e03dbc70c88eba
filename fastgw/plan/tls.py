"""What TLS of a listener and of a service is made of, as plain data for the workers. No repr shows a key."""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from fastgw.config import Config
from fastgw.config.material import CertificateSpec, ListenerMaterial, UpstreamMaterial, is_address
from fastgw.config.schema.services import Service
from fastgw.config.schema.tls import Hsts, ListenerTls, UpstreamTls

__all__ = [
    "CLIENT_AUTH", "PROFILES", "VERSIONS", "CertificateSpec", "RedirectSpec", "Tickets", "TlsSpec", "UpstreamTlsSpec",
    "compile_listeners", "compile_redirects", "compile_upstream", "new_ticket_key", "rotated",
]  # fmt: skip

VERSIONS = {"1.2": 0x0303, "1.3": 0x0304}
"""The numbers OpenSSL and the wire have for them (RFC 8446 §4.1.2)."""
UPSTREAM_ALPN = {"http/1.1": (b"http/1.1",), "h2c": (b"http/1.1",), "h2": (b"h2",), "auto": (b"h2", b"http/1.1")}
CLIENT_AUTH = {"none": 0, "request": 1, "require": 2}
TICKET_KEY = 80
"""Bytes of a ticket key: 16 of its name, 32 for the HMAC, 32 for AES-256."""


class Profile(NamedTuple):
    min_version: str
    ciphers: tuple[str, ...]
    ciphersuites: tuple[str, ...]
    groups: tuple[str, ...]


# Mozilla's guidelines for TLS on servers, version 6.0 (https://ssl-config.mozilla.org/guidelines/6.0.json)
SUITES = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
)  # fmt: skip
CLASSIC = ("X25519", "prime256v1", "secp384r1")
# OpenSSL refuses the whole list for one group it does not have; it has this one from 3.5 on
GROUPS = ("X25519MLKEM768", *CLASSIC) if ssl.OPENSSL_VERSION_INFO >= (3, 5) else CLASSIC
PROFILES = {
    "modern": Profile("1.3", (), SUITES, GROUPS),
    "intermediate": Profile("1.2", CIPHERS, SUITES, GROUPS),
}


@dataclass(frozen=True, slots=True)
class TlsSpec:
    """TLS of one listener.

    default               index of the certificate for clients whose name nobody has
    unknown_sni           "default" or "refuse"
    alpn                  the best first; () where what is inside is not ours to know
    min_version           0x0303 (1.2) or 0x0304 (1.3)
    ciphers               for SSL_CTX_set_cipher_list (TLS 1.2); b"" when only 1.3 is spoken
    ciphersuites          for SSL_CTX_set_ciphersuites (TLS 1.3)
    groups                for SSL_CTX_set1_groups_list
    client_auth           0 none, 1 request, 2 require
    client_ca, crl        PEM, or b""
    ticket_keys           newest first, each of 80 bytes; empty: no tickets
    ticket_rotate, _keep  seconds a key is the newest, keys that are kept
    hsts                  value of Strict-Transport-Security, or b""
    """

    certificates: tuple[CertificateSpec, ...]
    default: int
    unknown_sni: str
    alpn: tuple[bytes, ...]
    min_version: int
    max_version: int
    ciphers: bytes
    ciphersuites: bytes
    groups: bytes
    client_auth: int
    client_ca: bytes = field(repr=False)
    crl: bytes = field(repr=False)
    ticket_keys: tuple[bytes, ...] = field(repr=False)
    ticket_rotate: float
    ticket_keep: int
    handshake_timeout_ns: int
    handshakes_per_address: int
    handshakes_in_flight: int
    hsts: bytes

    def by_name(self) -> dict[bytes, tuple[int, ...]]:
        """DNS name or wildcard → the certificates for it: one of each key kind, the first that has the name."""
        found: dict[bytes, dict[str, int]] = {}
        for number, certificate in enumerate(self.certificates):
            for name in certificate.names:
                if not is_address(name):
                    found.setdefault(name, {}).setdefault(certificate.kind, number)
        return {name: tuple(kinds.values()) for name, kinds in found.items()}

    def default_group(self) -> tuple[int, ...]:
        """The default certificate, and those of other key kinds that have its first name too."""
        first = self.certificates[self.default]
        if not first.names:
            return (self.default,)
        others = self.by_name().get(first.names[0], ())
        return (self.default, *(n for n in others if self.certificates[n].kind != first.kind))


@dataclass(frozen=True, slots=True)
class Tickets:
    """What of a listener's TLS goes on where all else begins anew; as in `TlsSpec`."""

    client_auth: int
    client_ca: bytes = field(repr=False)
    crl: bytes = field(repr=False)
    ticket_keys: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class UpstreamTlsSpec:
    """TLS towards the https endpoints of one service.

    server_name   asked for (SNI) and checked; b"" is the endpoint's host
    ca_pem        b"" is the system's authorities
    identity      digest of all of it: connections are shared only where it is the same
    """

    verify: bool
    server_name: bytes
    ca_pem: bytes = field(repr=False)
    cert_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)
    alpn: tuple[bytes, ...]
    min_version: int
    session_reuse: bool
    identity: bytes


@dataclass(frozen=True, slots=True)
class RedirectSpec:
    """A plain listener that sends to https: the name of the TLS listener, and the port of the URL (0: its own)."""

    listener: str
    port: int


# ------------------------------------------------------------------------------------------------- listeners


def joined(words: tuple[str, ...]) -> bytes:
    return ":".join(words).encode()


def new_ticket_key() -> bytes:
    return os.urandom(TICKET_KEY)


def rotated(spec: TlsSpec) -> TlsSpec:
    """With a new ticket key; the oldest beyond `ticket_keep` is forgotten."""
    return replace(spec, ticket_keys=(new_ticket_key(), *spec.ticket_keys)[: spec.ticket_keep])


def ticket_keys(
    tls: ListenerTls, trust: tuple[int, bytes, bytes], before: TlsSpec | Tickets | None
) -> tuple[bytes, ...]:
    """The keys go on over configurations, but not over a change of who is trusted.

    A ticket says that its client has shown a certificate; nobody checks that one again (RFC 8446 §4.6.1).
    """
    if not tls.tickets.enabled:
        return ()
    if before is not None and before.ticket_keys and (before.client_auth, before.client_ca, before.crl) == trust:
        return before.ticket_keys[: tls.tickets.keep]
    return (new_ticket_key(),)


def hsts_of(hsts: Hsts | None) -> bytes:
    """RFC 6797 §6.1"""
    if hsts is None:
        return b""
    text = f"max-age={int(hsts.max_age)}"
    text += "; includeSubDomains" if hsts.include_subdomains else ""
    return (text + ("; preload" if hsts.preload else "")).encode()


def compile_listener(
    tls: ListenerTls, material: ListenerMaterial, before: TlsSpec | Tickets | None, http: bool = True
) -> TlsSpec:
    profile = PROFILES[tls.profile]
    certificates = material.certificates
    if tls.self_signed is not None:
        from fastgw.plan.development import self_signed

        certificates = (self_signed(tls.self_signed),)
    lowest = VERSIONS[tls.min_version or profile.min_version]
    # `min_version: 1.2` may overrule a profile that has no ciphers for it
    ciphers = tls.ciphers or profile.ciphers or CIPHERS
    auth = CLIENT_AUTH[tls.client_auth]
    client_ca, crl = (material.client_ca, material.crl) if auth else (b"", b"")
    return TlsSpec(
        certificates=certificates,
        default=next((n for n, certificate in enumerate(tls.certificates) if certificate.default), 0),
        unknown_sni=tls.unknown_sni,
        alpn=tuple(protocol.encode() for protocol in tls.alpn) if http else (),
        min_version=lowest,
        max_version=VERSIONS[tls.max_version or "1.3"],
        ciphers=joined(ciphers) if lowest < VERSIONS["1.3"] else b"",
        ciphersuites=joined(tls.ciphersuites or profile.ciphersuites),
        groups=joined(tls.groups or profile.groups),
        client_auth=auth,
        client_ca=client_ca,
        crl=crl,
        ticket_keys=ticket_keys(tls, (auth, client_ca, crl), before),
        ticket_rotate=tls.tickets.rotate,
        ticket_keep=tls.tickets.keep,
        handshake_timeout_ns=int(tls.handshake.timeout * 1e9),
        handshakes_per_address=tls.handshake.per_address,
        handshakes_in_flight=tls.handshake.in_flight,
        hsts=hsts_of(tls.hsts),
    )


def compile_listeners(config: Config, before: Mapping[str, TlsSpec | Tickets]) -> dict[str, TlsSpec]:
    """Listener's address → its TLS. `before` are those that run: their ticket keys go on."""
    return {
        name: compile_listener(
            listener.own_tls, config.tls.listeners[name], before.get(name), listener.protocol == "http"
        )
        for listener in config.server.listeners
        if listener.own_tls is not None and (name := str(listener.bind))
    }


def compile_redirects(config: Config) -> dict[str, RedirectSpec]:
    """Address of a plain listener → where it sends to."""
    return {
        str(tls.redirect_http.bind): RedirectSpec(str(listener.bind), tls.redirect_http.port or 0)
        for listener in config.server.listeners
        if (tls := listener.own_tls) is not None and tls.redirect_http is not None
    }


# ------------------------------------------------------------------------------------------------- services


def compile_upstream(service: Service, material: UpstreamMaterial | None) -> UpstreamTlsSpec | None:
    """None when no endpoint is https."""
    if material is None:
        return None
    tls = service.tls or UpstreamTls()
    spec = UpstreamTlsSpec(
        verify=tls.verify,
        server_name=(tls.server_name or "").encode(),
        ca_pem=material.ca,
        cert_pem=material.cert,
        key_pem=material.key,
        alpn=UPSTREAM_ALPN[service.protocol],
        min_version=VERSIONS[tls.min_version],
        session_reuse=tls.session_reuse,
        identity=b"",
    )
    return replace(spec, identity=identity_of(spec))


def identity_of(spec: UpstreamTlsSpec) -> bytes:
    digest = hashlib.sha256()
    for part in (
        b"%d %d %d" % (spec.verify, spec.min_version, spec.session_reuse),
        spec.server_name,
        spec.ca_pem,
        spec.cert_pem,
        spec.key_pem,
        b",".join(spec.alpn),
    ):
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()
