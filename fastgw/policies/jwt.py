"""`jwt`: who calls, by a signed token (RFC 7519, RFC 8725, RFC 6750). Keys stand in the file, or are their issuer's."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Annotated

from pydantic import BeforeValidator, model_validator

from fastgw._core.exchange import Exchange, Hook, Problem
from fastgw._core.verified import TokenAuth, TokenCache, Verified
from fastgw.config.fields import Duration, HeaderName, SecretMissing, Size, wrong
from fastgw.config.registry import Reference
from fastgw.config.schema.base import Room, key
from fastgw.policies._issuers import IssuerOptions, Revocation, Revocations, Texts
from fastgw.policies._jwk import Algorithm, SigningKey, load_key
from fastgw.policies._keysets import Keys, Source, ring_of
from fastgw.policies._tokens import Issuer, Rules, UnknownKey, Verifier, unauthorized
from fastgw.policies._verifying import Verifying
from fastgw.policies.base import BuildContext, Policy, PolicyError, PolicySecret

Scalar = str | int | float | bool


def _claims(value: object) -> object:
    """A list of names means that they must be there, whatever their value."""
    return dict.fromkeys(value) if isinstance(value, (list, tuple)) else value


def lower(value: object) -> object:
    many = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(one.lower() if isinstance(one, str) else one for one in many)


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


class TokenPlace(Room):
    """Where the token is looked for: in the header, then in the cookie, then in the query."""

    header: bool = key(True, "In `Authorization: Bearer …`.")
    cookie: str | None = key(None, "In this cookie.", pattern=r"^[A-Za-z0-9._~-]{1,64}$", example="access_token")
    query: str | None = key(
        None, "In this parameter of the query. Tokens in URLs end up in logs and histories; prefer the others.",
        pattern=r"^[A-Za-z0-9._~-]{1,64}$", example="access_token",
    )  # fmt: skip

    @model_validator(mode="after")
    def _somewhere(self) -> TokenPlace:
        if not self.header and self.cookie is None and self.query is None:
            raise wrong("missing_key", "there is no place to look for a token", "`header`, `cookie` or `query`")
        return self


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
    issuers: tuple[IssuerOptions, ...] = key(
        (), "Whose tokens are accepted, by keys that are fetched from them. In the place of keys in the file.",
        max_length=20, example=[{"issuer": "https://id.example.com/"}],
    )  # fmt: skip
    token: TokenPlace = key(TokenPlace(), "Where the token is looked for.")
    types: Annotated[tuple[str, ...], BeforeValidator(lower)] = key(
        (), "Accepted `typ` of a token's header, such as `at+jwt`; left out, any (RFC 8725 §3.11).", max_length=20,
        example=["at+jwt"],
    )  # fmt: skip
    revocation: Revocation | None = key(None, "A list of tokens that are good no more.")
    issuer: Texts = key((), "Accepted `iss`, one or a list; left out, any.", max_length=100,
                        example="https://id.example.com/")  # fmt: skip
    audience: Texts = key((), "Accepted `aud`, one or a list; left out, a token with `aud` is accepted too.",
                          max_length=100, example="orders")  # fmt: skip
    leeway: Duration = key(0.0, "How far clocks may differ for `exp` and `nbf`.", ge=0, le=600, example="30s")
    required_claims: Annotated[dict[str, Scalar | tuple[Scalar, ...] | None], BeforeValidator(_claims)] = key(
        {},
        "Claims a token must have: a list of names, or names with the accepted value or values (403 "
        "otherwise). Dots go into objects: `realm.tenant`.",
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
        ways = self.secret is not None, self.public_key is not None, bool(self.keys), bool(self.issuers)
        if sum(ways) != 1:
            what = "more than one of" if any(ways) else "none of"
            raise wrong("conflict" if any(ways) else "missing_key",
                        f"{what} `secret`, `public_key`, `keys` and `issuers` is there", "one of them")  # fmt: skip
        if self.issuers and (self.issuer or self.algorithm is not None):
            raise wrong("conflict", "`issuers` stands beside `issuer` or `algorithm`", "them in each of `issuers`")
        names = [each.issuer for each in self.issuers]
        if len(set(names)) != len(names):
            raise wrong("duplicate_name", "two of `issuers` have the same name", "each issuer once")
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
        for each in () if self.issuers else self.keys or (self,):
            try:
                load_key(each.algorithm, each.secret, each.public_key)
            except SecretMissing:
                continue                             # looked at when it is there
            except PolicyError as error:
                raise wrong("bad_value", str(error), "a key of the algorithm's kind") from None
        return self


class Jwt(Policy):
    """Verifies `Authorization: Bearer …` and tells the rest of the chain and the upstream who calls.

    401 when there is no good token (unauthorized, invalid_token, token_expired, token_revoked), 403 when it
    lacks a claim or scope (forbidden, insufficient_scope), 503 while an issuer's keys were never fetched
    (keys_unavailable), while too many new tokens wait (verification_busy), and by `revocation.on_failure`.
    Order: before everything that asks who calls. Failure: closed.
    """

    name = "jwt"
    Options = JwtOptions
    identifies = True
    options: JwtOptions

    @classmethod
    def references(cls, options: JwtOptions) -> Iterable[Reference]:
        if options.revocation is not None:
            yield Reference("store", options.revocation.store, ("revocation", "store"))

    @classmethod
    def sources(cls, options: JwtOptions) -> Iterable[Source]:
        return [each.source for each in options.issuers]

    def __init__(self, options: JwtOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        fixed = () if options.issuers else options.keys or (options,)
        keys = [
            SigningKey(getattr(each, "kid", None), *load_key(each.algorithm, each.secret, each.public_key))
            for each in fixed
        ]
        ring = ring_of(context.shared)
        issuers = {
            each.issuer: Issuer(ring.of(each.source), each.audience, each.user_prefix) for each in options.issuers
        }
        self.verifier = Verifier(
            keys,
            Rules(
                issuers=options.issuer,
                audiences=options.audience,
                leeway=options.leeway,
                types=[typ.removeprefix("application/") for typ in options.types],
                required_claims=options.required_claims,
                required_scopes=options.required_scopes,
                scope_claims=(options.scope_claim,) if options.scope_claim else ("scope", "scopes", "scp"),
                user_claim=options.user_claim,
                user_header=options.user_header,
                scopes_header=options.scopes_header,
            ),
            issuers,
        )
        self.verifying: Verifying[Verified | Problem | UnknownKey] = context.shared.get_or_create(
            "verifying", Verifying
        )
        self.revocations: Revocations | None = None
        if options.revocation is not None:
            self.revocations = Revocations(options.revocation, context.store(options.revocation.store))
        self.cache: TokenCache | None = None
        for issuer in issuers.values():
            issuer.keys.listeners.add(self)

    def hook(self) -> Hook:
        options = self.options
        place = options.token
        native = TokenAuth(
            self.verify,
            options.cache.size,
            options.max_size,
            options.user_header.encode(),
            options.scopes_header.encode(),
            options.forward_token,
            [path.encode() for path in options.excluded_paths],
            place.cookie.encode() if place.cookie else None,
            place.query.encode() if place.query else None,
            place.header,
        )
        self.cache = native.cache
        return native

    def keys_gone(self, gone: set[SigningKey]) -> None:
        """Tokens signed with these are looked at anew."""
        if self.cache is not None:
            self.cache.drop(gone)

    # ------------------------------------------------------------------ a token that was not seen before

    def verify(
        self, token: bytes, found: Verified | None, exchange: Exchange
    ) -> Verified | Problem | Awaitable[Verified | Problem]:
        """`found` is there when only the list of revoked tokens has to be asked again."""
        if found is not None:
            return found if self.revocations is None else self.revocations.check(found)
        verdict = self.verifying.run(lambda: self.verifier.verify(token), exchange.client_ip)
        if isinstance(verdict, Problem) or (isinstance(verdict, Verified) and self.revocations is None):
            return verdict
        return self.later(token, verdict, exchange.client_ip)

    async def later(
        self, token: bytes, verdict: Verified | UnknownKey | Awaitable[Verified | Problem | UnknownKey], client: str
    ) -> Verified | Problem:
        result = await verdict if isinstance(verdict, Awaitable) else verdict
        if isinstance(result, UnknownKey):
            result = await self.with_new_keys(token, result.keys, client)
        if isinstance(result, Verified) and result.refusal is None and self.revocations is not None:
            return await self.revocations.check(result)
        return result

    async def with_new_keys(self, token: bytes, keys: Keys, client: str) -> Verified | Problem:
        """The issuer may have a key that is newer than what is known here: he is asked, once for all who wait."""
        unknown = unauthorized("invalid_token", "The token is signed by an unknown key.")
        if not keys.may_ask():
            return unknown
        await keys.refetch()
        verdict = self.verifying.run(lambda: self.verifier.verify(token), client)
        result = await verdict if isinstance(verdict, Awaitable) else verdict
        return unknown if isinstance(result, UnknownKey) else result
