"""`oauth2_introspection`: who calls, by a token that only its issuer can read (RFC 7662)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator

from fastgw._core.exchange import Exchange, Hook, Problem
from fastgw._core.verified import TokenAuth, Verified
from fastgw.config.fields import Duration, HeaderName, Size
from fastgw.config.registry import Reference
from fastgw.config.schema.base import Room, key
from fastgw.policies._oauth import Expiring, Flights, OAuthClient, Refused, Unreachable, post, unavailable
from fastgw.policies._parts import listed
from fastgw.policies._tokens import Rules, claim, identity, same, unauthorized
from fastgw.policies._verifying import busy
from fastgw.policies.base import BuildContext, Policy

Texts = Annotated[tuple[str, ...], BeforeValidator(listed)]


class Remembered(Room):
    """Answers are remembered, so that the issuer is not asked for every request."""

    size: int = key(10_000, "How many per worker; 0 asks every time.", ge=0, le=10_000_000)
    ttl: Duration = key(
        60.0, "How long a good token is remembered at most: so late may its revocation be noticed.", ge=0, le=86400
    )
    negative_ttl: Duration = key(10.0, "How long a token that is not good is remembered.", ge=0, le=3600)


class IntrospectionOptions(OAuthClient):
    """Where tokens are looked up, and which are accepted."""

    path: str = key("/introspect", "The path of the endpoint.", pattern=r"^/[!-~]*$", max_length=1000)
    issuer: Texts = key((), "Accepted `iss` of the answer, one or a list; left out, any.", max_length=100)
    audience: Texts = key((), "Accepted `aud` of the answer, one or a list; left out, any.", max_length=100)
    required_scopes: Texts = key((), "Scopes a token must have, all of them (403 otherwise).", max_length=100,
                                 example=["read:orders"])  # fmt: skip
    user_claim: str = key("sub", "The member of the answer that names the caller.", max_length=200)
    user_header: HeaderName = key("X-User-Id", "Tells the upstream who calls. What the client sends is removed.")
    scopes_header: HeaderName = key(
        "X-User-Scopes", "Tells the upstream the scopes, with spaces. What the client sends is removed."
    )
    forward_token: bool = key(False, "Let the upstream see the token.")
    excluded_paths: Texts = key((), "Paths that need no token: exact, or `/prefix/*`.", max_length=1000)
    max_size: Size = key(4096, "A larger token is refused unread.", ge=16, le=16384)
    max_pending: int = key(100, "Questions of one worker that may be under way; more are 503.", ge=1, le=10_000)
    cache: Remembered = key(Remembered(), "Remembered answers.")


class OAuth2Introspection(Policy):
    """Asks the authorization server what a bearer token is worth, and remembers the answer within its `exp`.

    401 when it is not active (unauthorized, invalid_token), 403 when it lacks a scope (insufficient_scope), 503
    when the server cannot be asked (authorizer_unavailable) or too many questions are under way
    (verification_busy). Order: before everything that asks who calls. Failure: closed.
    """

    name = "oauth2_introspection"
    Options = IntrospectionOptions
    identifies = True
    options: IntrospectionOptions

    @classmethod
    def references(cls, options: IntrospectionOptions) -> Iterable[Reference]:
        return [Reference("service", options.service, ("service",))]

    def __init__(self, options: IntrospectionOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.rules = Rules(
            required_claims={},
            required_scopes=options.required_scopes,
            scope_claims=("scope", "scopes", "scp"),
            user_claim=options.user_claim,
            user_header=options.user_header,
            scopes_header=options.scopes_header,
        )
        self.refused: Expiring[Problem] = Expiring(options.cache.size)
        self.flights: Flights[dict[str, Any]] = Flights(options.max_pending)

    def hook(self) -> Hook:
        options = self.options
        return TokenAuth(
            self.verify,
            options.cache.size,
            options.max_size,
            options.user_header.encode(),
            options.scopes_header.encode(),
            options.forward_token,
            [path.encode() for path in options.excluded_paths],
            name=self.name,
        )

    def verify(
        self, token: bytes, found: Verified | None, exchange: Exchange
    ) -> Verified | Problem | Awaitable[Verified | Problem]:
        known = self.refused.get(token)
        if known is not None:
            return known
        try:
            text = token.decode("ascii")
        except ValueError:
            return unauthorized("invalid_token", "The token is malformed.")
        if self.flights.full and not self.flights.under_way(token):
            return busy()
        form = {"token": text, "token_type_hint": "access_token"}
        try:
            task = self.flights.go(token, lambda: post(exchange, self.options, self.options.path, form))
        except Unreachable:
            return unavailable("The authorization server")
        return self.verdict(token, task)

    async def verdict(self, token: bytes, task: asyncio.Task[dict[str, Any]]) -> Verified | Problem:
        try:
            answer = await asyncio.shield(task)
        except (Refused, Unreachable):
            # also a refusal: it is the gateway that was not let in, which says nothing of the token
            return unavailable("The authorization server")
        result = self.judge(answer)
        if isinstance(result, Problem):
            self.refused.put(token, result, self.options.cache.negative_ttl)
        return result

    def judge(self, answer: dict[str, Any]) -> Verified | Problem:
        options = self.options
        # RFC 7662 §2.2: the only member that must be there, and only `true` is yes
        if answer.get("active") is not True:
            return unauthorized("invalid_token", "The token is not active.")
        now = time.time()
        for name, word in (("exp", "token_expired"), ("nbf", "invalid_token")):
            at = answer.get(name)
            if at is None:
                continue
            if isinstance(at, bool) or not isinstance(at, (int, float)) or at != at:
                return unauthorized("invalid_token", "The token is not valid.")
            if (now >= at) if name == "exp" else (now < at):
                return unauthorized(word, "The token has expired." if name == "exp" else "The token is not valid yet.")
        wanted = ("iss", options.issuer, "of another issuer"), ("aud", options.audience, "for another audience")
        for name, accepted, text in wanted:
            if accepted and not any(same(claim(answer, name), one) for one in accepted):
                return unauthorized("invalid_token", f"The token is {text}.")
        found = identity(answer, self.rules)
        if isinstance(found, Problem):
            return found
        # remembered no longer than `ttl`, whatever its `exp` says
        until = int((now + options.cache.ttl) * 1e9)
        bound = until if found.until == 0 else min(until, found.until)
        return Verified(found.consumer, found.claims, found.lines, bound, 0, found.refusal)
