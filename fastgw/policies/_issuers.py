"""What schemas say of issuers whose keys are fetched, and of the list of revoked tokens."""

from __future__ import annotations

import time
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from fastgw._core.exchange import Problem
from fastgw._core.verified import Verified
from fastgw.config.fields import Duration, shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.discovery import BesideFile
from fastgw.config.schema.stores import OnFailure
from fastgw.policies._jwk import PublicAlgorithm
from fastgw.policies._keysets import Source
from fastgw.policies._parts import listed
from fastgw.policies._tokens import unauthorized
from fastgw.store import Store, StoreError

Texts = Annotated[tuple[str, ...], BeforeValidator(listed)]
EVERY: tuple[PublicAlgorithm, ...] = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
)  # fmt: skip
EXPECTED_URL = "https://…, or http:// to this host"


def secure_url(value: object) -> str:
    """Keys that come over a line that others can write on are nobody's keys."""
    text = str(value) if isinstance(value, str) and value.isprintable() and " " not in value else ""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise wrong("bad_value", f"{shown(value)} is not a URL", EXPECTED_URL) from None
    local = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if not parts.hostname or parts.scheme not in ("https", "http") or (parts.scheme == "http" and not local):
        raise wrong("bad_value", f"{shown(value)} is not an https:// URL", EXPECTED_URL)
    if parts.username is not None or parts.fragment:
        raise wrong("bad_value", "the URL has a user or a fragment", EXPECTED_URL)
    return text


SecureUrl = Annotated[str, BeforeValidator(secure_url), WithJsonSchema({"type": "string", "format": "uri"})]


class IssuerOptions(Room):
    """Somebody whose tokens are good. His keys are fetched once per host, in the background, and kept fresh."""

    issuer: str = key(
        doc="The `iss` of his tokens. Without a `jwks_url` it is where OIDC discovery asks: "
        "`/.well-known/openid-configuration` below it.",
        min_length=1, max_length=2000, example="https://id.example.com/",
    )  # fmt: skip
    jwks_url: SecureUrl | None = key(
        None, "Where his keys are (RFC 7517), without discovery.", example="https://id.example.com/keys"
    )
    audience: Texts = key((), "Accepted `aud` of his tokens, in the place of the policy's.", max_length=100)
    algorithms: Annotated[tuple[PublicAlgorithm, ...], BeforeValidator(listed)] = key(
        EVERY,
        "Algorithms his keys may have. A key that names none has that of its kind; an RSA key the first of these "
        "that is for RSA, and no other.",
        min_length=1, max_length=20, example=["RS256", "ES256"],
    )  # fmt: skip
    user_prefix: str = key(
        "", "Stands before the names of his users, so that those of two issuers stay apart.", max_length=100,
        pattern=r"^[!-~]*$", example="partner:",
    )  # fmt: skip
    ca: BesideFile | None = key(
        None, "A file with the certificates that sign for his server; by default those of the host.",
        min_length=1, max_length=4096, example="id-ca.crt",
    )  # fmt: skip
    timeout: Duration = key(5.0, "So long may an answer take.", ge=0.05, le=60)
    refresh: Duration = key(
        900.0, "How often his keys are fetched; `max-age` of his answer makes it more often.", ge=1, le=86400
    )
    overlap: Duration = key(
        600.0, "How long a key stays good that he took away: tokens signed with it may be under way.", ge=0, le=86400
    )
    cooldown: Duration = key(
        10.0, "So long at least between two questions because of tokens whose key is not known.", ge=0.1, le=3600
    )
    keep: Duration | None = key(
        None, "How long the last keys are good while he does not answer (then 503); null: until he answers again.",
        ge=1, le=365 * 86400, example="1d",
    )  # fmt: skip

    @model_validator(mode="after")
    def _reachable(self) -> IssuerOptions:
        if self.jwks_url is None:
            secure_url(self.issuer)
        return self

    @property
    def source(self) -> Source:
        return Source(
            self.issuer, self.jwks_url, tuple(self.algorithms), self.ca, self.timeout, self.refresh, self.overlap,
            self.keep, self.cooldown,
        )  # fmt: skip


class Revocation(Room):
    """A token is refused when its `jti` is in a store. Whoever revokes puts it there:
    `SET fastgw:revoked:JTI 1 EX 3600`."""

    store: Literal["redis"] = key("redis", "Where the list is.")
    prefix: str = key("revoked:", "What stands before the `jti` in the key, after the store's own prefix.",
                      max_length=100, pattern=r"^[!-~]*$")  # fmt: skip
    on_failure: OnFailure = key(doc="When the store does not answer: `closed` refuses with 503, `open` lets pass.")
    interval: Duration = key(5.0, "How long a worker believes that a token is not revoked.", ge=0, le=3600)
    require_jti: bool = key(True, "A token without a `jti` could not be revoked and is refused.")


class Revocations:
    """Asks the store for one token."""

    def __init__(self, options: Revocation, store: Store) -> None:
        self.options = options
        self.store = store

    async def check(self, found: Verified) -> Verified | Problem:
        options = self.options
        jti = found.claims.get("jti")
        if jti is None and not options.require_jti:
            return found
        if not isinstance(jti, str) or not 0 < len(jti) <= 256:
            return unauthorized("invalid_token", "The token has no jti.")
        try:
            revoked = await self.store.get(options.prefix + jti) is not None
        except StoreError:
            if options.on_failure == "closed":
                detail = "Whether the token was revoked cannot be found out."
                return Problem(503, "store_unavailable", detail, headers={"Retry-After": "1"}, side=2)
            revoked = False
        if revoked:
            return unauthorized("token_revoked", "The token was revoked.")
        found.recheck = time.time_ns() + int(options.interval * 1e9)
        return found

