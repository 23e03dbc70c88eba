"""`identity_token`: tells the upstream who calls by a token that the gateway signs (RFC 7519)."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator

from fastgw._core.exchange import Exchange, Problem
from fastgw.config.fields import Duration, HeaderName, wrong
from fastgw.config.schema.base import key
from fastgw.policies._oauth import Expiring
from fastgw.policies._parts import listed
from fastgw.policies._signing import PrivateKey, signer_of
from fastgw.policies._tokens import claim
from fastgw.policies.base import BuildContext, Policy, PolicyError

OWN = frozenset(["iss", "sub", "aud", "exp", "iat", "nbf", "jti"])


class IdentityTokenOptions(PrivateKey):
    """What the token says, and where it goes."""

    issuer: str = key(doc="Its `iss`: the gateway.", min_length=1, max_length=500, example="https://gateway.internal")
    audience: str | None = key(None, "Its `aud`: the service.", min_length=1, max_length=500, example="orders")
    lifetime: Duration = key(60.0, "How long it is good.", ge=2, le=3600)
    header: HeaderName = key(
        "X-Identity-Token", "Where it goes, by itself; what the client sends there is removed. In `Authorization` it "
        "is `Bearer …`."
    )  # fmt: skip
    claims: Annotated[tuple[str, ...], BeforeValidator(listed)] = key(
        (), "Claims of the caller's own token that are taken over; dots go into objects.", max_length=50,
        example=["scope", "tenant"],
    )  # fmt: skip
    anonymous: bool = key(False, "Requests of nobody go on, without a token; otherwise they are 401.")
    cache_size: int = key(10_000, "Tokens of one worker that are used again until half their life; 0 signs each.",
                          ge=0, le=1_000_000)  # fmt: skip

    @model_validator(mode="after")
    def _fits(self) -> IdentityTokenOptions:
        try:
            signer_of(self)
        except PolicyError as error:
            raise wrong("bad_value", str(error), "a private key in PEM") from None
        for name in self.claims:
            if name in OWN:
                raise wrong("conflict", f"`{name}` is the gateway's own claim", "another claim")
        return self


class IdentityToken(Policy):
    """A short token, signed by the gateway, with the consumer as `sub`, its groups and chosen claims.

    The service checks it with the keys that the policy `jwks` publishes, and so knows that the request came by the
    gateway. 401 unauthorized when nobody is known and `anonymous` is false. Order: after what finds out who calls.
    Failure: closed.
    """

    name = "identity_token"
    Options = IdentityTokenOptions
    options: IdentityTokenOptions

    @classmethod
    def needs_identity(cls, options: IdentityTokenOptions) -> bool:
        return not options.anonymous

    def __init__(self, options: IdentityTokenOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.signer = signer_of(options)
        self.signed: Expiring[str] = Expiring(options.cache_size)
        self.scheme = "Bearer " if options.header.lower() == "authorization" else ""

    def request(self, exchange: Exchange) -> Problem | None:
        options = self.options
        consumer = exchange.consumer
        if consumer is None:
            exchange.request.remove(options.header)
            if options.anonymous:
                return None
            return Problem(401, "unauthorized", "Nobody is known who calls.", headers={"WWW-Authenticate": "Bearer"})
        told = self.told(exchange)
        name = (consumer.name, consumer.groups, repr(told))
        token = self.signed.get(name)
        if token is None:
            token = self.token(consumer.name, consumer.groups, told)
            self.signed.put(name, token, options.lifetime / 2)
        exchange.request.set(options.header, self.scheme + token)
        return None

    def told(self, exchange: Exchange) -> dict[str, Any]:
        claims = exchange.claims
        if claims is None:
            return {}
        found = ((name, claim(claims, name)) for name in self.options.claims)
        return {name: value for name, value in found if value is not None}

    def token(self, name: str, groups: tuple[str, ...], told: dict[str, Any]) -> str:
        options = self.options
        now = int(time.time())
        claims: dict[str, Any] = {**told, "iss": options.issuer, "sub": name, "iat": now,
                                  "exp": now + int(options.lifetime), "jti": secrets.token_urlsafe(16)}  # fmt: skip
        if options.audience is not None:
            claims["aud"] = options.audience
        if groups:
            claims["groups"] = list(groups)
        return self.signer.sign(claims)
