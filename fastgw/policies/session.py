"""`session`: who calls, by a session cookie of the gateway's own."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Awaitable, Iterable
from typing import Any, Literal

import orjson
from pydantic import model_validator

from fastgw._core.exchange import Consumer, Exchange, Problem
from fastgw.config.fields import Duration, HeaderName, Name, wrong
from fastgw.config.registry import Reference
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.stores import StoreName
from fastgw.policies._credentials import Remembered, refused
from fastgw.policies._members import ANONYMOUS, Paths, consumer_of, named
from fastgw.policies._session import Sealer, cookies_of, hide_cookies
from fastgw.policies._tokens import Rules, identity
from fastgw.policies.base import BuildContext, Policy, PolicySecret
from fastgw.store import StoreError
from fastgw.store.sessions import Session, Sessions

logger = logging.getLogger("fastgw.session")
CHALLENGE = "Session"
MAX_CLAIMS = 4096
MAX_SEALED = 3800
REMEMBERED = 100_000
NO_STORE = ("Cache-Control", "no-store")


class SessionOptions(Room):
    """Where sessions are, how long they last, and who may begin one."""

    store: StoreName | None = key(
        None, "Sessions are kept here, the cookie only names one: they can be listed and ended (`redis`). `memory` is "
        "each worker's own: for a gateway with one worker.", example="redis",
    )  # fmt: skip
    secret: PolicySecret | None = key(
        None, "Instead of a `store`: the session is the cookie, encrypted with this, 32 characters or more. Nobody but "
        "its browser can end it before its time.", example="${SESSION_SECRET}",
    )  # fmt: skip
    old_secrets: tuple[PolicySecret, ...] = key((), "Secrets of before, which still open cookies.", max_length=5)
    name: Name = key("session", "Routes, and hosts, with this name and store share sessions.")
    cookie: str = key(
        "__Host-session", "The cookie's name. Browsers take one with `__Host-` from this host alone, over TLS.",
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
    )  # fmt: skip
    same_site: Literal["lax", "strict", "none"] = key("lax", "Whether the cookie comes along from other sites.")
    secure: bool = key(True, "The cookie goes over TLS alone. False is for development, with another `cookie` name.")
    idle: Duration = key(1800.0, "A session that is not used for so long ends.", ge=10, le=2592000, example="30m")
    lifetime: Duration = key(28800.0, "So long it lasts at most.", ge=10, le=31536000, example="8h")
    rotate: Duration = key(
        900.0, "With a `store`: how often the cookie's secret changes; the one before is good for a minute. 0: not.",
        ge=0, le=31536000,
    )  # fmt: skip
    interval: Duration = key(
        5.0, "How long a worker believes what the store said: a session that was ended elsewhere may last so long.",
        ge=0, le=300,
    )  # fmt: skip
    login: bool = key(
        False, "Let the service begin sessions: `login_header` of its answer has the claims. Only where it checks who "
        "somebody is.",
    )  # fmt: skip
    login_header: HeaderName = key(
        "X-Session-Login", "Of an answer: a JSON object with the claims of a new session. Clients never get it."
    )
    logout_header: HeaderName = key("X-Session-Logout", "Of an answer: ends the session, whatever its value.")
    user_claim: str = key("sub", "The claim that names who calls: the consumer.", max_length=200)
    optional: bool = key(
        False, "Requests without a session pass too, as the consumer `anonymous` where the file has one, or as nobody."
    )
    excluded_paths: Paths = key((), "Paths that need no session: exact, or `/prefix/*`.", max_length=1000,
                                example=["/login"])  # fmt: skip

    @model_validator(mode="after")
    def _fits(self) -> SessionOptions:
        if (self.store is None) == (self.secret is None):
            raise wrong("conflict", "a session is either in a `store` or in its cookie (`secret`)", "one of them")
        for secret in (*((self.secret,) if self.secret else ()), *self.old_secrets):
            if len(secret.reveal()) < 32:
                raise wrong("bad_value", "a session secret has less than 32 characters", "openssl rand -base64 32")
        if not self.secure and self.cookie.startswith(("__Host-", "__Secure-")):
            raise wrong("conflict", "browsers refuse `__Host-` without Secure", "another `cookie`, or `secure: true`")
        if not self.secure and self.same_site == "none":
            raise wrong("conflict", "browsers refuse SameSite=None without Secure", "`secure: true`")
        if self.lifetime < self.idle:
            raise wrong("bad_value", "`lifetime` is shorter than `idle`", "idle, or more")
        return self


class Known:
    """What a worker remembers of a session: who it is, and the record."""

    __slots__ = ("claims", "consumer", "session")

    def __init__(self, consumer: Consumer, claims: dict[str, Any], session: Session | None) -> None:
        self.consumer = consumer
        self.claims = claims
        self.session = session


class SessionPolicy(Policy):
    """Finds who calls by a session cookie: the consumer of the session's user, and its claims.

    A service behind a route with `login: true` begins a session by answering with `X-Session-Login: {"sub": "ada"}`,
    and any ends it with `X-Session-Logout: 1`; clients see neither, and services not the cookie. Each login has a new
    session. `GET /sessions` of the admin API lists those in Redis, `DELETE /sessions/{name}/{id}` ends one, and
    `DELETE /users/{user}/sessions` all of a user. 401 `unauthorized`; 503 `store_unavailable`. Order: before everything
    that asks who calls; think of `csrf`. Failure: closed.
    """

    name = "session"
    Options = SessionOptions
    identifies = True
    options: SessionOptions

    @classmethod
    def references(cls, options: SessionOptions) -> Iterable[Reference]:
        if options.store is not None:
            yield Reference("store", options.store, ("store",))

    def __init__(self, options: SessionOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.rules = Rules(required_claims={}, user_claim=options.user_claim)
        self.people = {one.name: one for one in context.consumers}
        self.anonymous = named(context, ANONYMOUS) if options.optional else None
        self.sessions: Sessions | None = None
        self.sealer: Sealer | None = None
        if options.store is not None:
            store = context.store(options.store)
            self.sessions = Sessions(store, options.name, options.idle, options.lifetime, options.rotate)
        elif options.secret is not None:
            texts = [one.reveal() for one in (options.secret, *options.old_secrets)]
            self.sealer = Sealer(texts, f"own session {options.name} {options.cookie}")
        # routes that share sessions share what a worker knows of them: one that is ended here is ended at once
        place = ("session", options.name, options.store, options.user_claim, context.stores.redis)
        self.known: Remembered = context.of_plan.get_or_create(place, lambda: Remembered(REMEMBERED))
        same_site = options.same_site.capitalize()
        self.attributes = f"; Path=/; HttpOnly; SameSite={same_site}{'; Secure' if options.secure else ''}"

    # ------------------------------------------------------------------ a request

    def request(self, exchange: Exchange) -> Any:
        options = self.options
        cookies = cookies_of(exchange, options.cookie)
        value = cookies.get(options.cookie)
        if cookies:
            hide_cookies(exchange, options.cookie)
        if value is None:
            return self.without(exchange)
        if self.sessions is None:
            return self.unsealed(exchange, value)
        found = self.known.find(hashlib.sha256(value.encode()).digest())
        if found is False or (found is not None and self.forgotten(found.session)):
            return self.without(exchange, clear=True)
        if found is not None and not self.sessions.due(found.session):
            return self.passed(exchange, found)
        return self.opened(exchange, self.sessions, value)

    def excluded(self, path: str) -> bool:
        return any(path == one or (one.endswith("/*") and path.startswith(one[:-1]))
                   for one in self.options.excluded_paths)  # fmt: skip

    def without(self, exchange: Exchange, clear: bool = False) -> Problem | None:
        """There is no session, or none any more."""
        gone = [("Set-Cookie", f"{self.options.cookie}=; Max-Age=0{self.attributes}")] if clear else []
        if self.options.optional or self.excluded(exchange.path):
            if self.anonymous is not None:
                exchange.consumer = self.anonymous
            if clear:
                exchange.vars[self.place] = gone[0][1]
            return None
        problem = refused("unauthorized", CHALLENGE, "There is no session, or it has ended.")
        problem.headers += [*gone, NO_STORE]
        return problem

    @property
    def place(self) -> str:
        """Of the cookie to be set, and the session, among the variables of an exchange."""
        return f"session {self.options.name}"

    def known_of(self, claims: dict[str, Any], session: Session | None) -> Known | None:
        told = identity(claims, self.rules)
        if isinstance(told, Problem) or told.consumer is None:
            return None
        given = self.people.get(told.consumer.name)
        consumer = told.consumer if given is None else consumer_of(
            given, self.context.plans, credential=told.consumer.credential, scopes=told.consumer.scopes)  # fmt: skip
        return Known(consumer, claims, session)

    def passed(self, exchange: Exchange, known: Known) -> None:
        exchange.consumer, exchange.claims = known.consumer, known.claims
        exchange.vars[f"{self.place} id"] = known.session

    async def opened(self, exchange: Exchange, sessions: Sessions, value: str) -> Problem | None:
        digest = hashlib.sha256(value.encode()).digest()
        try:
            found = await sessions.open(value)
            if found is None:
                self.known.keep(digest, self.options.interval, False)
                return self.without(exchange, clear=True)
            session, raw = found
            fresh = None
            if sessions.due(session):
                session, fresh = await sessions.touch(session, raw, value)
        except StoreError as error:
            return Problem(503, "store_unavailable", f"Sessions cannot be looked up ({error.reason}).",
                           {"Retry-After": "1"}, side=2)  # fmt: skip
        known = self.known_of(session.claims, session)
        if known is None:
            return self.without(exchange, clear=True)
        if fresh is not None:
            exchange.vars[self.place] = self.cookie(fresh, session.end - time.time())
        self.known.keep(digest, min(self.options.interval, session.end - time.time()), known)
        self.passed(exchange, known)
        return None

    def unsealed(self, exchange: Exchange, value: str) -> Problem | None:
        assert self.sealer is not None
        now = time.time()
        found = self.sealer.open(value)
        known = None
        if found is not None and now < min(found["end"], found["seen"] + self.options.idle):
            known = self.known_of(found["claims"], None)
        if found is None or known is None:
            return self.without(exchange, clear=True)
        if now - found["seen"] > self.options.idle / 10:
            sealed = self.sealer.seal({**found, "seen": now})
            exchange.vars[self.place] = self.cookie(sealed, found["end"] - now)
        self.passed(exchange, known)
        return None

    def cookie(self, value: str, seconds: float) -> str:
        return f"{self.options.cookie}={value}; Max-Age={max(1, int(seconds))}{self.attributes}"

    # ------------------------------------------------------------------ an answer

    def response_head(self, exchange: Exchange) -> Problem | Awaitable[Problem | None] | None:
        options, head = self.options, exchange.response
        login, logout = head.get(options.login_header), head.get(options.logout_header)
        head.remove(options.login_header)
        head.remove(options.logout_header)
        session: Session | None = exchange.vars.get(f"{self.place} id")
        if exchange.is_local:
            login = logout = None
        if login is not None and options.login:
            return self.begin(exchange, session, login)
        if logout is not None:
            return self.end(exchange, session)
        cookie = exchange.vars.get(self.place)
        if cookie is not None:
            head.add("Set-Cookie", cookie)
        return None

    async def begin(self, exchange: Exchange, before: Session | None, text: str) -> Problem | None:
        """A new session, never the one of before: nobody can have prepared it (session fixation)."""
        try:
            claims = orjson.loads(text) if len(text) <= MAX_CLAIMS else None
        except ValueError:
            claims = None
        known = self.known_of(claims, None) if isinstance(claims, dict) else None
        if known is None or not isinstance(claims, dict):
            logger.error("session: the service's %s has no claims of a user", self.options.login_header)
            return Problem(502, "upstream_protocol_error", "The service began no session that can be.", side=3)
        options, now = self.options, time.time()
        if self.sealer is not None:
            value = self.sealer.seal({"claims": claims, "seen": now, "end": now + options.lifetime})
            if len(value) > MAX_SEALED:
                logger.error("session: the claims of a session do not fit into a cookie; keep fewer, or use a `store`")
                return Problem(502, "upstream_protocol_error", "The session is too large.", side=3)
        else:
            assert self.sessions is not None
            try:
                if before is not None:
                    await self.sessions.end(before.id)
                _, value = await self.sessions.begin(known.consumer.name, claims)
            except StoreError as error:
                return Problem(503, "store_unavailable", f"The session cannot be kept ({error.reason}).", side=2)
        exchange.response.add("Set-Cookie", self.cookie(value, options.lifetime))
        exchange.response.set(*NO_STORE)
        return None

    async def end(self, exchange: Exchange, session: Session | None) -> Problem | None:
        if session is not None and self.sessions is not None:
            try:
                await self.sessions.end(session.id)
            except StoreError as error:
                return Problem(503, "store_unavailable", f"The session cannot be ended ({error.reason}).", side=2)
            self.forget(session.id)
        exchange.response.add("Set-Cookie", f"{self.options.cookie}=; Max-Age=0{self.attributes}")
        return None

    def forget(self, name: str) -> None:
        """At once in this worker, in others within `interval`."""
        self.known.keep(b"ended " + name.encode(), self.options.interval, True)

    def forgotten(self, session: Session) -> bool:
        return self.known.find(b"ended " + session.id.encode()) is not None
