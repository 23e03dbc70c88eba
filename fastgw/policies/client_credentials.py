"""`client_credentials`: the gateway's own token for a service (RFC 6749 §4.4)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator

from fastgw._core.exchange import Exchange, Problem
from fastgw.config.fields import Duration, HeaderName
from fastgw.config.registry import Reference
from fastgw.config.schema.base import key
from fastgw.policies._oauth import Flights, OAuthClient, Refused, Unreachable, post, token_of, unavailable
from fastgw.policies._parts import listed
from fastgw.policies.base import BuildContext, Policy

logger = logging.getLogger("fastgw.oauth")
PAUSE = 1.0
"""Seconds after a failure in which nobody asks again."""
UNSAID = 60.0
"""Seconds a token is used whose server does not say how long it is good."""


class ClientCredentialsOptions(OAuthClient):
    """Where the token is got, and where it goes."""

    path: str = key("/token", "The path of the token endpoint.", pattern=r"^/[!-~]*$", max_length=1000)
    scopes: Annotated[tuple[str, ...], BeforeValidator(listed)] = key(
        (), "Scopes that are asked for.", max_length=100, example=["inventory:read"]
    )
    audience: str | None = key(None, "The `audience` that is asked for, where the server wants one.", max_length=500)
    header: HeaderName = key("Authorization", "Where it goes, as `Bearer …`; what the client sent there is removed.")
    early: Duration = key(30.0, "So long before its end the next one is got.", ge=0, le=3600)


class ClientCredentials(Policy):
    """Puts a token of the gateway's own on each request to the upstream; got once, and again before it ends.

    Order: after everything that looks at the client's Authorization. Failure: closed. Without a token that is good:
    503 authorizer_unavailable.
    """

    name = "client_credentials"
    Options = ClientCredentialsOptions
    options: ClientCredentialsOptions

    @classmethod
    def references(cls, options: ClientCredentialsOptions) -> Iterable[Reference]:
        return [Reference("service", options.service, ("service",))]

    def __init__(self, options: ClientCredentialsOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.flights: Flights[dict[str, Any]] = Flights(1)
        self.value = ""
        self.renew = self.until = self.not_before = 0.0
        self.form = {"grant_type": "client_credentials"}
        if options.scopes:
            self.form["scope"] = " ".join(options.scopes)
        if options.audience is not None:
            self.form["audience"] = options.audience

    def request(self, exchange: Exchange) -> Problem | Awaitable[Problem | None] | None:
        now = time.monotonic()
        if now < self.renew:
            exchange.request.set(self.options.header, self.value)
            return None
        if now < self.until:                         # good for a while yet: the next one comes beside
            self.ask(exchange, now)
            exchange.request.set(self.options.header, self.value)
            return None
        task = self.ask(exchange, now)
        return unavailable("The authorization server") if task is None else self.wait(exchange, task)

    def ask(self, exchange: Exchange, now: float) -> asyncio.Task[dict[str, Any]] | None:
        if now < self.not_before and not self.flights.under_way("token"):
            return None
        begins = not self.flights.under_way("token")
        try:
            task = self.flights.go("token", lambda: post(exchange, self.options, self.options.path, self.form))
        except Unreachable as error:
            self.failed(error)
            return None
        if begins:
            task.add_done_callback(self.got)
        return task

    def failed(self, error: Exception) -> None:
        self.not_before = time.monotonic() + PAUSE
        logger.warning("client_credentials: %s gives no token: %s", self.options.service, error)

    def got(self, task: asyncio.Task[dict[str, Any]]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        try:
            if error is not None:
                raise error
            token, seconds = token_of(task.result())
        except (Refused, Unreachable) as why:
            self.failed(why)
            return
        except BaseException as why:
            self.failed(Unreachable(type(why).__name__))
            return
        now = time.monotonic()
        seconds = seconds or UNSAID
        self.value = f"Bearer {token}"
        self.until = now + seconds
        self.renew = now + max(seconds - self.options.early, seconds / 2)

    async def wait(self, exchange: Exchange, task: asyncio.Task[dict[str, Any]]) -> Problem | None:
        await asyncio.wait([task])
        if time.monotonic() >= self.until:
            return unavailable("The authorization server")
        exchange.request.set(self.options.header, self.value)
        return None
