"""The rooms `tls` of a listener and of a service: certificates, versions, ciphers, who must show a certificate.

Files are only named here; `config.tls` reads them, so that what is wrong with one is told at its key.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationInfo, WithJsonSchema, model_validator

from fastgw.config.fields import Duration, Secret, shown, wrong
from fastgw.config.schema.address import HOST_NAME, BindAddress, is_ip
from fastgw.config.schema.base import Room, key

"""The protocols this version can speak; the others are part of the format."""
GROUPS = frozenset({
    "x25519", "x448", "p-256", "prime256v1", "secp256r1", "p-384", "secp384r1", "p-521", "secp521r1",
    "ffdhe2048", "ffdhe3072", "ffdhe4096", "ffdhe6144", "ffdhe8192",
})  # fmt: skip
HYBRID_GROUPS = frozenset({"x25519mlkem768", "secp256r1mlkem768", "secp384r1mlkem1024"})
"""Known from OpenSSL 3.5 on."""
# RFC 8446 appendix B.4: there are no others
CIPHERSUITES = (
    "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256",
)  # fmt: skip
MAX_PATH = 4096


def parse_file(value: object, info: ValidationInfo) -> str:
    """A path, absolute or beside the configuration file; `file:` before it changes nothing."""
    if not isinstance(value, str):
        raise wrong("wrong_type", f"{shown(value)} is not the name of a file", "a path")
    name = str(value).removeprefix("file:")
    name = name.removeprefix("//") if name.startswith("///") else name
    if not name or "\0" in name or len(name) > MAX_PATH:
        raise wrong("bad_value", f"{shown(value)} is not the name of a file", "a path")
    base = (info.context or {}).get("base") if isinstance(info.context, dict) else None
    return os.path.join(base or os.getcwd(), name)


FilePath = Annotated[str, BeforeValidator(parse_file), WithJsonSchema({"type": "string"})]
"""An absolute path; written relative to the configuration file."""


def parse_version(value: object) -> object:
    """`1.2` without quotes is a number in YAML."""
    return str(value) if isinstance(value, float) else value


Version = Annotated[
    Literal["1.2", "1.3"], BeforeValidator(parse_version), WithJsonSchema({"enum": ["1.2", "1.3", 1.2, 1.3]})
]


def parse_list(value: object) -> object:
    """OpenSSL's own form, `A:B:C`, is a list too."""
    return [item for item in str(value).split(":") if item] if isinstance(value, str) else value


NameList = Annotated[
    tuple[str, ...],
    BeforeValidator(parse_list),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


def dns_name(value: str) -> str:
    """Lower case, as A-labels (RFC 5890): `BÜCHER.example` → `xn--bcher-kva.example`. ValueError when it is none."""
    wildcard = "*." if value.startswith("*.") else ""
    rest = value.removeprefix("*.").removesuffix(".")
    name = rest if rest.isascii() else rest.encode("idna").decode()
    if not HOST_NAME.match(name) or len(name) > 253:
        raise ValueError(f"{value!r} is not a host name")
    return wildcard + name.lower()


def parse_server_name(value: object) -> str:
    text = str(value) if isinstance(value, str) else ""
    if is_ip(text):
        return str(ipaddress.ip_address(text))
    try:
        if text.startswith("*"):
            raise ValueError
        return dns_name(text)
    except ValueError:
        raise wrong("bad_value", f"{shown(value)} is not a host name", "a host name or an IP address") from None


ServerName = Annotated[str, BeforeValidator(parse_server_name), WithJsonSchema({"type": "string"})]


def parse_self_signed(value: object) -> object:
    """true → no further names, false → None, a list of names → the list."""
    if isinstance(value, bool):
        return () if value else None
    return [value] if isinstance(value, str) else value


SelfSigned = Annotated[
    tuple[ServerName, ...] | None,
    BeforeValidator(parse_self_signed),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "string"}}]}),
]


class Certificate(Room):
    """A certificate with its key. Several for one name with keys of different kinds serve side by side."""

    cert: FilePath = key(doc="File with the certificate, then its chain, PEM.", example="edge.crt")
    passphrase: Secret | None = key(None, "What the key is encrypted with.", example="${EDGE_KEY_PASSPHRASE}")
    ocsp: FilePath | None = key(
        None, "File with an OCSP response, DER or PEM, that is stapled to the handshake.", example="edge.ocsp"
    )
    default: bool = key(False, "Whether clients get it whose name no certificate has; without it, the first one.")
    # last, because its name hides the function that makes keys
    key: FilePath = key(doc="File with the private key, PEM.", example="edge.key")


class Tickets(Room):
    """Session tickets: a client that comes back saves a round of the handshake (RFC 5077, RFC 8446 §2.2)."""

    enabled: bool = key(True, "Whether they are given.")
    rotate: Duration = key(12 * 3600.0, "How long one key encrypts new tickets.", ge=60, le=7 * 86400)
    keep: int = key(3, "Keys that are kept to read older tickets, the newest included.", ge=1, le=16)


class Hsts(Room):
    """`Strict-Transport-Security` on every answer (RFC 6797)."""

    max_age: Duration = key(doc="How long browsers come by https only.", example="365d", ge=0)
    include_subdomains: bool = key(False, "Whether that holds for the names below too.")
    preload: bool = key(False, "Whether browsers may ship with it; takes months to undo.")


class Handshake(Room):
    """What a handshake may cost. Further ones wait for nothing, they are closed."""

    timeout: Duration = key(10.0, "From the connection to the end of the handshake; then it is closed.", ge=0.1, le=600)
    per_address: int = key(64, "Handshakes under way of one client address, in one worker.", ge=1, le=1000000)
    in_flight: int = key(1024, "Handshakes under way in one worker.", ge=1, le=1000000)


class RedirectHttp(Room):
    """A second, plain listener that answers 308 to https. A bare address is the short form of `{bind: address}`."""

    bind: BindAddress = key(doc="Where it listens.", example="0.0.0.0:8080")
    port: int | None = key(
        None,
        "The port of the https URL, when clients see another one than the listener's.",
        ge=1,
        le=65535,
        example=443,
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"bind": value} if isinstance(value, (str, int)) else value


class ListenerTls(Room):
    """How a listener speaks TLS."""

    certificates: tuple[Certificate, ...] = key(
        (), "Chosen by the name the client asks for (SNI): exact, then wildcard.", max_length=10000
    )
    self_signed: SelfSigned = key(
        None,
        "In the place of `certificates`, for development: one that is made here, for localhost and the names of a "
        "list. Given to the program as the list, or None.",
        max_length=100,
        example=True,
    )
    unknown_sni: Literal["default", "refuse"] = key(
        "default", "When no certificate has the name: `default` gives the default one, `refuse` ends the handshake."
    )
    alpn: tuple[Literal["h2", "http/1.1"], ...] = key(
        ("h2", "http/1.1"),
        "Protocols that are offered, the best first; `h2` where the listener speaks HTTP/2.",
        min_length=1,
        max_length=2,
    )
    profile: Literal["modern", "intermediate"] = key(
        "intermediate",
        "Versions, ciphers and groups as Mozilla recommends them; `modern` is TLS 1.3 only. Other keys overrule it.",
    )
    min_version: Version | None = key(
        None, "The oldest TLS version that is spoken; by default the profile's (1.2, `modern` 1.3).", example="1.2"
    )
    max_version: Version | None = key(None, "The newest one; by default 1.3.", example="1.3")
    ciphers: NameList = key(
        (),
        "Ciphers of TLS 1.2 in OpenSSL's words, a list or `A:B`; by default the profile's.",
        max_length=100,
        example=["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"],
    )
    ciphersuites: NameList = key(
        (), "Cipher suites of TLS 1.3; by default the profile's.", max_length=10, example=["TLS_AES_128_GCM_SHA256"]
    )
    groups: NameList = key(
        (), "Groups of the key exchange; by default the profile's.", max_length=20, example=["X25519", "prime256v1"]
    )
    client_auth: Literal["none", "request", "require"] = key(
        "none",
        "Certificates of clients: `request` checks one that is shown, `require` ends the handshake without one.",
    )
    client_ca: FilePath | None = key(None, "File with the authorities of clients' certificates, PEM.", example="ca.crt")
    crl: FilePath | None = key(None, "File with the authorities' revocation lists, PEM.", example="ca.crl")
    tickets: Tickets = key(Tickets(), "Session tickets.")
    handshake: Handshake = key(Handshake(), "What a handshake may cost.")
    hsts: Hsts | None = key(None, "`Strict-Transport-Security` on every answer.")
    redirect_http: RedirectHttp | None = key(
        None, "A plain address whose requests are sent here with 308.", example="0.0.0.0:8080"
    )


class UpstreamTls(Room):
    """How https endpoints of a service are spoken to. Left out, their certificates are checked all the same."""

    verify: bool = key(True, "Whether the upstream's certificate is checked. Without, anybody can be the upstream.")
    server_name: ServerName | None = key(
        None, "The name that is asked for (SNI) and checked; by default the endpoint's host.", example="users.internal"
    )
    ca: FilePath | None = key(
        None, "File with the authorities that are trusted, PEM; by default the system's.", example="internal-ca.crt"
    )
    cert: FilePath | None = key(
        None, "File with the certificate that is shown to the upstream, then its chain, PEM.", example="gateway.crt"
    )
    passphrase: Secret | None = key(None, "What the key is encrypted with.", example="${GATEWAY_KEY_PASSPHRASE}")
    min_version: Version = key("1.2", "The oldest TLS version that is spoken.")
    session_reuse: bool = key(True, "Whether a new connection goes on with the session of an earlier one.")
    # last, because its name hides the function that makes keys
    key: FilePath | None = key(None, "File with the private key of `cert`, PEM.", example="gateway.key")
