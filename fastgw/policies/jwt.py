"""`jwt`: who calls, by a signed token (RFC 7519, RFC 8725, RFC 6750). Keys stand in the file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, model_validator

from fastgw._core.exchange import Hook
from fastgw._core.verified import TokenAuth
from fastgw.config.fields import Duration, HeaderName, Size, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies._parts import listed
from fastgw.policies._tokens import Rules, SigningKey, Verifier, load_key
from fastgw.policies.base import BuildContext, Policy, PolicyError, PolicySecret

Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "ES256K", "EdDSA",
]  # fmt: skip

Texts = Annotated[tuple[str, ...], BeforeValidator(listed)]
Scalar = str | int | float | bool


def _claims(value: object) -> object:
    """A list of names means that they must be there, whatever their value."""
    return dict.fromkeys(value) if isinstance(value, (list, tuple)) else value


class Key(Room):
    """One key. Its algorithm is fixed here; what a token says of its algorithm must agree with it."""

    kid: str | None = key(None, "The key id a token names. Without it the key is for tokens that name none.",
                          max_length=256)  # fmt: skip
    algorithm: Algorithm = key(doc="The only algorithm this key is used with.", example="RS256")
    secret: PolicySecret | None = key(
        None, "The shared secret, for HS256, HS384 and HS512.", example="${JWT_SECRET}"
    )
    public_key: PolicySecret | None = key(
        None, "The public key in PEM, for the others.", example="file:issuer.pem"
    )

    @model_validator(mode="after")
    def _fits(self) -> Key:
        if (self.secret is None) == (self.public_key is None):
            raise wrong("conflict", "a key has either a `secret` or a `public_key`", "one of them")
        if self.algorithm.startswith("HS") != (self.secret is not None):
            kind = "`secret`" if self.algorithm.startswith("HS") else "`public_key`"
            raise wrong("conflict", f"{self.algorithm} does not fit the key", f"a {kind}")
        return self


class Cache(Room):
    """Tokens that were verified are remembered until they expire, so that a signature is checked once."""

    size: int = key(10_000, "How many per worker; 0 verifies every token every time.", ge=0, le=10_000_000)


class JwtOptions(Room):
    """Which tokens are accepted, and what is made of them."""

    secret: PolicySecret | None = key(None, "Shorthand for one HS key.", example="${JWT_SECRET}")
    public_key: PolicySecret | None = key(
        None, "Shorthand for one public key in PEM.", example="file:issuer.pem"
    )
    algorithm: Algorithm | None = key(
        None, "The algorithm of the shorthand. Left out: HS256 for `secret`, and what fits the `public_key`.",
        example="RS256",
    )  # fmt: skip
    keys: tuple[Key, ...] = key((), "Several keys, chosen by the token's `kid`.", max_length=100)
    issuer: Texts = key((), "Accepted `iss`, one or a list; left out, any.", max_length=100,
                        example="https://id.example.com/")  # fmt: skip
    audience: Texts = key((), "Accepted `aud`, one or a list; left out, a token with `aud` is accepted too.",
                          max_length=100, example="orders")  # fmt: skip
    leeway: Duration = key(0.0, "How far clocks may differ for `exp` and `nbf`.", ge=0, le=600, example="30s")
    required_claims: Annotated[dict[str, Scalar | tuple[Scalar, ...] | None], BeforeValidator(_claims)] = key(
        {},
        "Claims a token must have: a list of names, or names with the accepted value or values (403 "
        "otherwise).",
        max_length=100,
        example={"tenant": ["acme", "globex"]},
    )  # fmt: skip
    required_scopes: Texts = key((), "Scopes a token must have, all of them (403 otherwise).", max_length=100,
                                 example=["read:orders"])  # fmt: skip
    scope_claim: str | None = key(
        None, "The claim with the scopes, text or list. Left out, the first of `scope`, `scopes` and `scp`.",
        max_length=200,
    )  # fmt: skip
    user_claim: str = key(
        "sub", "The claim that names the caller: the consumer, and X-User-Id.", max_length=200
    )
    user_header: HeaderName = key(
        "X-User-Id", "Tells the upstream who calls. What the client sends is removed."
    )
    scopes_header: HeaderName = key(
        "X-User-Scopes", "Tells the upstream the scopes, with spaces. What the client sends is removed."
    )
    forward_token: bool = key(False, "Let the upstream see the token.")
    excluded_paths: Texts = key(
        (), "Paths that need no token: exact, or `/prefix/*`. Identity headers are removed there too.",
        max_length=1000, example=["/health", "/metrics"],
    )  # fmt: skip
    max_size: Size = key(8192, "A larger token is refused unread.", ge=128, le=65536, example="8KiB")
    cache: Cache = key(Cache(), "Remembered tokens.")

    @model_validator(mode="after")
    def _has_key(self) -> JwtOptions:
        given = (self.secret is not None) + (self.public_key is not None) + bool(self.keys)
        if given != 1:
            what = "more than one of" if given else "none of"
            raise wrong("conflict" if given else "missing_key",
                        f"{what} `secret`, `public_key` and `keys` is there", "one of them")  # fmt: skip
        if self.keys and self.algorithm is not None:
            raise wrong("conflict", "`algorithm` stands beside `keys`", "the algorithm in each key")
        if self.secret is not None and self.algorithm is not None and not self.algorithm.startswith("HS"):
            raise wrong("conflict", f"{self.algorithm} does not fit a `secret`", "HS256, HS384 or HS512")
        if self.public_key is not None and self.algorithm is not None and self.algorithm.startswith("HS"):
            # the classic confusion: a public key used as a shared secret
            raise wrong("conflict", f"{self.algorithm} does not fit a `public_key`", "RS…, PS…, ES… or EdDSA")
        kids = [each.kid for each in self.keys]
        if len(set(kids)) != len(kids):
            raise wrong(
                "duplicate_name", "two keys have the same `kid`, or both have none", "each `kid` once"
            )
        for path in self.excluded_paths:
            if not path.startswith("/") or "*" in path.removesuffix("/*"):
                raise wrong("bad_value", f"{path!r} is not a path to exclude", "/exact or /prefix/*")
        if self.user_header.lower() == self.scopes_header.lower():
            raise wrong("conflict", "`user_header` and `scopes_header` are the same", "two headers")
        for each in self.keys or (self,):
            try:
                load_key(each.algorithm, each.secret, each.public_key)
            except PolicyError as error:
                raise wrong("bad_value", str(error), "a key of the algorithm's kind") from None
        return self


class Jwt(Policy):
    """Verifies `Authorization: Bearer …` and tells the rest of the chain and the upstream who calls.

    401 when there is no good token (unauthorized, invalid_token, token_expired), 403 when it lacks a claim
    or scope (forbidden, insufficient_scope). Order: before everything that asks who calls. Failure: closed.
    """

    name = "jwt"
    Options = JwtOptions
    identifies = True
    options: JwtOptions

    def __init__(self, options: JwtOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        keys = [
            SigningKey(getattr(each, "kid", None), *load_key(each.algorithm, each.secret, each.public_key))
            for each in (options.keys or (options,))
        ]
        self.verifier = Verifier(
            keys,
            Rules(
                issuers=options.issuer,
                audiences=options.audience,
                leeway=options.leeway,
                required_claims=options.required_claims,
                required_scopes=options.required_scopes,
                scope_claims=(options.scope_claim,) if options.scope_claim else ("scope", "scopes", "scp"),
                user_claim=options.user_claim,
                user_header=options.user_header,
                scopes_header=options.scopes_header,
            ),
        )

    def hook(self) -> Hook:
        options = self.options
        return TokenAuth(
            self.verifier.verify,
            options.cache.size,
            options.max_size,
            options.user_header.encode(),
            options.scopes_header.encode(),
            options.forward_token,
            [path.encode() for path in options.excluded_paths],
        )
