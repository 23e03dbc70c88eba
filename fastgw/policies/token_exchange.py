"""`token_exchange`: a token of outside becomes one of inside (RFC 8693)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from fastgw._core.exchange import Exchange, Problem
from fastgw.config.fields import Duration, Size
from fastgw.config.registry import Reference
from fastgw.config.schema.base import Room, key
from fastgw.policies._oauth import (
    TOKEN_CHARACTERS,
    Expiring,
    Flights,
    OAuthClient,
    Refused,
    Unreachable,
    post,
    token_of,
    unavailable,
)
from fastgw.policies._parts import listed
from fastgw.policies._tokens import unauthorized
from fastgw.policies._verifying import busy
from fastgw.policies.base import BuildContext, Policy

GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
TYPE = "urn:ietf:params:oauth:token-type:"
EARLY = 5.0
"""Seconds before its end a token is given out no more: it has a way to go."""


class Exchanged(Room):
    """Exchanged tokens are remembered."""

    size: int = key(10_000, "How many per worker; 0 asks every time.", ge=0, le=10_000_000)
    ttl: Duration = key(300.0, "How long one is used at most.", ge=0, le=86400)
    negative_ttl: Duration = key(10.0, "How long a refusal is remembered.", ge=0, le=3600)


class TokenExchangeOptions(OAuthClient):
    """What is asked for in the place of the client's token."""

    path: str = key("/token", "The path of the token endpoint.", pattern=r"^/[!-~]*$", max_length=1000)
    audience: str | None = key(None, "For whom the new token is to be.", max_length=500, example="inventory")
    resource: str | None = key(None, "The URI of the service it is to be used at.", max_length=2000)
    scopes: Annotated[tuple[str, ...], BeforeValidator(listed)] = key(
        (), "Scopes it is to have.", max_length=100, example=["inventory:read"]
    )
    subject_type: Literal["access_token", "id_token", "jwt"] = key("access_token", "What the client's token is.")
    requested_type: Literal["access_token", "jwt"] | None = key(None, "What the new one is to be.")
    max_size: Size = key(8192, "A larger token is refused unread.", ge=16, le=65536)
    max_pending: int = key(100, "Questions of one worker that may be under way; more are 503.", ge=1, le=10_000)
    cache: Exchanged = key(Exchanged(), "Remembered tokens.")


class TokenExchange(Policy):
    """The bearer token of the request is exchanged at the authorization server; the upstream sees the new one only.

    401 when there is no token (unauthorized), 403 when the server refuses to exchange it (forbidden), 503 when it
    cannot be asked (authorizer_unavailable) or too many questions are under way (verification_busy). Order: after
    `jwt` with `forward_token: true`, which has verified it. Failure: closed.
    """

    name = "token_exchange"
    Options = TokenExchangeOptions
    options: TokenExchangeOptions

    @classmethod
    def references(cls, options: TokenExchangeOptions) -> Iterable[Reference]:
        return [Reference("service", options.service, ("service",))]

    def __init__(self, options: TokenExchangeOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.known: Expiring[str | Problem] = Expiring(options.cache.size)
        self.flights: Flights[dict[str, Any]] = Flights(options.max_pending)
        wanted = {
            "grant_type": GRANT,
            "subject_token_type": TYPE + options.subject_type,
            "requested_token_type": TYPE + options.requested_type if options.requested_type else None,
            "audience": options.audience,
            "resource": options.resource,
            "scope": " ".join(options.scopes) or None,
        }
        self.form = {name: value for name, value in wanted.items() if value is not None}

    def request(self, exchange: Exchange) -> Problem | Awaitable[Problem | None] | None:
        lines = exchange.request.get_all("authorization")
        if len(lines) != 1 or lines[0][:7].lower() != "bearer ":
            return unauthorized("unauthorized", "A bearer token is required.")
        token = lines[0][7:].strip()
        if not 0 < len(token) <= self.options.max_size or not TOKEN_CHARACTERS.issuperset(token):
            return unauthorized("invalid_token", "The token is malformed.")
        known = self.known.get(token)
        if known is not None:
            return self.use(exchange, known)
        if self.flights.full and not self.flights.under_way(token):
            return busy()
        form = {**self.form, "subject_token": token}
        try:
            task = self.flights.go(token, lambda: post(exchange, self.options, self.options.path, form))
        except Unreachable:
            return unavailable("The authorization server")
        return self.wait(exchange, token, task)

    async def wait(
        self, exchange: Exchange, token: str, task: asyncio.Task[dict[str, Any]]
    ) -> Problem | None:
        options = self.options.cache
        try:
            value, seconds = token_of(await asyncio.shield(task))
        except Refused as refused:
            if refused.ours:
                return unavailable("The authorization server")
            problem = Problem(403, "forbidden", "The token may not be exchanged for one of this service.")
            self.known.put(token, problem, options.negative_ttl)
            return problem
        except Unreachable:
            return unavailable("The authorization server")
        # one whose end is not told is used for this request alone
        self.known.put(token, value, min(seconds - EARLY, options.ttl))
        return self.use(exchange, value)

    def use(self, exchange: Exchange, found: str | Problem) -> Problem | None:
        if isinstance(found, Problem):
            return found
        exchange.request.set("Authorization", f"Bearer {found}")
        return None
