"""The rooms `consumers`, `plans` and `api_keys`: who asks, and by which keys."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ValidationInfo, WithJsonSchema, model_validator

from fastgw.config.fields import Duration, Name, Secret, shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.stores import OnFailure


def parse_key_hash(value: object) -> str:
    """`sha256:` and 64 hex digits → the digits, lower case. The value is never shown."""
    text = str(value).strip() if isinstance(value, str) else ""
    digest = text[7:].lower()
    if not text.startswith("sha256:"):
        raise wrong(
            "bad_value",
            "the key is not hashed",
            "sha256: and 64 hex digits; printf %s KEY | sha256sum makes them",
        )
    if len(digest) != 64 or any(c not in "0123456789abcdef" for c in digest):
        raise wrong("bad_value", "the hash does not have 64 hex digits", "sha256: and 64 hex digits")
    return digest


KeyHash = Annotated[
    str,
    BeforeValidator(parse_key_hash),
    WithJsonSchema({"type": "string", "pattern": r"^\s*sha256:[0-9a-fA-F]{64}\s*$|\$\{"}),
]


def parse_moment(value: object) -> datetime:
    """RFC 3339; without a zone it is UTC. YAML reads an unquoted one by itself."""
    found = value
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(str(value).strip())
        except ValueError:
            found = None
    if not isinstance(found, datetime):
        raise wrong("bad_value", f"{shown(value)} is not a moment", "a date and time such as 2027-01-31T00:00:00Z")
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


Moment = Annotated[
    datetime, BeforeValidator(parse_moment), WithJsonSchema({"type": "string", "format": "date-time"})
]
"""A moment with a zone; written as RFC 3339."""

SCOPE = frozenset(chr(c) for c in range(0x21, 0x7F)) - {'"', "\\"}


def parse_scope(value: object) -> str:
    """RFC 6749 §3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E )."""
    if not isinstance(value, str) or not 1 <= len(value) <= 200 or not SCOPE.issuperset(value):
        raise wrong("bad_value", f"{shown(value)} is not a scope", "printable text without spaces, quotes and \\")
    return str(value)


Scope = Annotated[str, BeforeValidator(parse_scope), WithJsonSchema({"type": "string"})]
"""One scope of RFC 6749."""


class ConsumerKey(Room):
    """One API key. The hash alone is the short form of `{hash: HASH}`."""

    hash: KeyHash = key(
        doc="SHA-256 of the key, `sha256:` and 64 hex digits (`fastgw keys hash` makes it). Given to the program as "
        "the digits alone.",
        example="sha256:" + "0" * 64,
    )
    id: Name | None = key(
        None, "What it is called in logs and in `fastgw keys list`; by default the consumer's name and its number.",
        example="mobile-2027",
    )  # fmt: skip
    expires: Moment | None = key(None, "From then on it is refused (`key_expired`).", example="2027-01-31T00:00:00Z")
    scopes: tuple[Scope, ...] | None = key(
        None, "What it may do, in the place of what its consumer may.", max_length=1000, example=["orders:read"]
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"hash": value} if isinstance(value, str) else value


class Plan(Room):
    """What many consumers have in common."""

    scopes: tuple[Scope, ...] = key(
        (), "What its consumers may do, beside what they may by themselves.", max_length=1000, example=["orders:read"]
    )
    metadata: dict[str, str | int | float | bool] = key({}, "Anything worth knowing of it.", max_length=100)


ARGON2 = re.compile(
    r"\$argon2(id|i|d)\$v=19\$m=(\d{1,7}),t=(\d{1,2}),p=(\d{1,2})\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{16,172}\Z"
)
BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}\Z")
MOST_MEMORY, MOST_ROUNDS = 1 << 20, 16


class ConsumerSecret(Secret):
    """The policies that look at consumers stay closed while one of these is missing."""

    __slots__ = ()

    may_wait = True


def check_password(value: Secret) -> Secret:
    """The hash of a password, with a cost that a gateway can bear. It is never shown."""
    if value.missing:
        return value
    text = value.reveal()
    argon2, bcrypt = ARGON2.match(text), BCRYPT.match(text)
    if argon2 is None and bcrypt is None:
        raise wrong("bad_value", "the password is not hashed", "Argon2 or bcrypt; `fastgw keys password` makes one")
    if (argon2 and int(argon2[2]) > MOST_MEMORY) or (bcrypt and int(bcrypt[1]) > MOST_ROUNDS):
        raise wrong("out_of_range", "the hash costs too much", "at most 1 GiB (Argon2), 16 rounds (bcrypt)")
    return value


PasswordHash = Annotated[ConsumerSecret, AfterValidator(check_password)]
CERTIFICATE = re.compile(r"(?:fingerprint:[0-9a-f]{64}|(?:DNS|URI|email|IP|subject):.{1,1000})\Z")


def parse_certificate(value: object) -> str:
    """`fingerprint:` and SHA-256 in hex, with or without colons, `DNS:…`, `URI:…`, `email:…`, `IP:…`, `subject:…`."""
    text = str(value).strip() if isinstance(value, str) else ""
    kind, colon, rest = text.partition(":")
    if kind == "fingerprint":
        text = kind + colon + rest.replace(":", "").lower()
    if not CERTIFICATE.match(text):
        raise wrong(
            "bad_value", f"{shown(value)} does not name a certificate",
            "fingerprint:SHA256, DNS:name, URI:spiffe://…, email:…, IP:… or subject:CN=…",
        )  # fmt: skip
    return text


Certificate = Annotated[str, BeforeValidator(parse_certificate), WithJsonSchema({"type": "string"})]


SigningAlgorithm = Literal["ed25519", "ecdsa-p256-sha256", "ecdsa-p384-sha384", "rsa-pss-sha512", "rsa-v1_5-sha256"]


def read_signing_key(pem: str) -> tuple[Any, tuple[str, ...]]:
    """A public key, and the algorithms of RFC 9421 §6.2.2 that it fits. ValueError, which never quotes it."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if "PRIVATE KEY-----" in pem:
        raise ValueError("it is a private key; its owner keeps that, and gives the public one")
    try:
        public = load_pem_public_key(pem.encode())
    except Exception:
        raise ValueError("it is no public key in PEM") from None
    if isinstance(public, ed25519.Ed25519PublicKey):
        return public, ("ed25519",)
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, (ec.SECP256R1, ec.SECP384R1)):
        return public, ("ecdsa-p256-sha256" if isinstance(public.curve, ec.SECP256R1) else "ecdsa-p384-sha384",)
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size < 2048:
            raise ValueError(f"it has {public.key_size} bits; RSA needs 2048 at least")
        return public, ("rsa-pss-sha512", "rsa-v1_5-sha256")
    raise ValueError("it is of a kind that no algorithm here uses")


class SigningKey(Room):
    """A secret, or the public half of a key, that a consumer signs requests with; see the policy `hmac`."""

    id: Name = key(doc="The `keyid` of its signatures.", example="mobile-2027")
    secret: ConsumerSecret | None = key(
        None, "What is shared, 32 bytes at least; not hashed. It signs with hmac-sha256.", example="${APP_SECRET}"
    )
    public_key: ConsumerSecret | None = key(
        None, "In the place of a secret: the public key in PEM, or its file.", example="file:mobile.pem"
    )
    algorithm: SigningAlgorithm | None = key(
        None, "The only algorithm the public key is used with; left out, what fits it (RSA: rsa-pss-sha512)."
    )

    @model_validator(mode="after")
    def _fits(self) -> SigningKey:
        if (self.secret is None) == (self.public_key is None):
            raise wrong("conflict", "a signing key has either a `secret` or a `public_key`", "one of them")
        if self.secret is not None:
            if self.algorithm is not None:
                raise wrong("conflict", "`algorithm` stands beside a `secret`, which signs with hmac-sha256",
                            "a `public_key`, or no algorithm")  # fmt: skip
            if not self.secret.missing and len(self.secret.reveal().encode()) < 32:
                raise wrong("bad_value", "the secret is too short", "32 bytes at least (RFC 2104 §3)")
        elif self.public_key is not None and not self.public_key.missing:
            try:
                self.loaded()
            except ValueError as error:
                raise wrong("bad_value", f"the public key: {error}", "one that fits the algorithm") from None
        return self

    def loaded(self) -> tuple[str, Any]:
        """The algorithm and the public key. ValueError says why there is none."""
        assert self.public_key is not None
        public, able = read_signing_key(self.public_key.reveal())
        if self.algorithm is not None and self.algorithm not in able:
            raise ValueError(f"it does not fit {self.algorithm}")
        return self.algorithm or able[0], public


class Consumer(Room):
    """Someone who asks: a name for access logs, limits and groups."""

    name: Name = key(doc="Its name.", example="mobile-app")
    groups: tuple[Name, ...] = key((), "Groups it is in.", max_length=1000, example=["partners"])
    plan: Name | None = key(None, "Its plan, one of `plans`.", example="gold")
    scopes: tuple[Scope, ...] | None = key(
        None, "What it may do; see the policy `authorize`.", max_length=1000, example=["orders:read"]
    )
    keys: tuple[ConsumerKey, ...] = key((), "Its API keys, hashed.", max_length=1000)
    password: PasswordHash | None = key(
        None, "The hash of its password, for `basic_auth`: Argon2 or bcrypt (`fastgw keys password`).",
        example="file:ada.hash",
    )  # fmt: skip
    certificates: tuple[Certificate, ...] = key(
        (), "Client certificates, for `mtls`: by fingerprint, alternative name or subject.", max_length=100,
        example=["fingerprint:" + "0" * 64, "URI:spiffe://example.org/ada", "subject:CN=ada"],
    )  # fmt: skip
    signing_keys: tuple[SigningKey, ...] = key(
        (), "Secrets, or public keys, of its signatures, for `hmac`.", max_length=100
    )
    metadata: dict[str, str | int | float | bool] = key({}, "Anything worth knowing of it.", max_length=100)


def parse_place(value: object, info: ValidationInfo) -> str:
    """A path → the same, absolute: relative ones begin where the configuration is."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise wrong("bad_value", f"{shown(value)} is not a path", "the path of a file")
    base = (info.context or {}).get("base") if isinstance(info.context, dict) else None
    return str(Path(base or ".", str(value)).absolute())


Place = Annotated[str, BeforeValidator(parse_place), WithJsonSchema({"type": "string"})]
"""The absolute path of a file."""


class ApiKeys(Room):
    """Keys that are created, listed, rotated and revoked while the gateway runs, for consumers of the file."""

    file: Place | None = key(
        None,
        "Where the gateway keeps them, hashed; it owns the file, and makes it when the first key is created. Left "
        "out, keys stand in `consumers` alone.",
        example="keys.json",
    )
    store: Literal["redis"] | None = key(
        None, "In the place of `file`: keys, and consumers and plans beside those of this file, are in this store, for "
        "all hosts that use it.",
    )  # fmt: skip
    on_failure: OnFailure | None = key(
        None, "With `store`, which needs it: when it could not be asked for `max_stale`, `closed` refuses its keys "
        "(503), `open` goes on with what was known last.", example="closed",
    )  # fmt: skip
    poll: Duration = key(
        1.0, "How often the store, or the file, is looked at: a key that another host revoked holds so long at most.",
        ge=0.1, le=60,
    )  # fmt: skip
    max_stale: Duration = key(30.0, "With `store`: so long may it be out of reach.", ge=1, le=86400)
    prefix: str = key(
        "fgw", "What keys begin with, so that they are recognised where they should not be.",
        pattern=r"^[A-Za-z0-9]{1,16}$", example="acme",
    )  # fmt: skip
    lifetime: Duration | None = key(
        None, "How long a new key holds when nothing else is said; null: until it is revoked.", gt=0, example="90d"
    )
    overlap: Duration = key(86400.0, "How long the old key holds after a rotation.", ge=0)
    max_keys: int = key(10_000, "More are not created.", ge=1, le=100_000)

    @model_validator(mode="after")
    def _one_place(self) -> ApiKeys:
        if self.file is not None and self.store is not None:
            raise wrong("conflict", "`file` and `store` exclude each other", "one of them")
        if self.store is not None and self.on_failure is None:
            raise wrong("missing_key", "a `store` needs `on_failure`", "closed, or open")
        if self.store is not None and self.max_stale <= self.poll:
            raise wrong("bad_value", "`max_stale` is not longer than `poll`", "some times `poll`")
        return self
