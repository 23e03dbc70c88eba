"""Logins at a provider whose sessions are kept in a store: `oidc` with `session.store`.

The record has the tokens sealed, so that who reads the store cannot use them. They are refreshed ahead of their end by
one request of one worker of one host; the others go on with what there is.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, NamedTuple

from fastgw._core.exchange import Consumer, Problem
from fastgw.policies._oauth import Expiring, Flights, Refused, Unreachable, token_of
from fastgw.policies._session import Sealer
from fastgw.store import Store, StoreError
from fastgw.store.redis import RedisStore, Script
from fastgw.store.sessions import Session, Sessions, read

REFRESHES = 1000
"""Refreshes of one worker that may be under way."""
LOCK = 15.0
"""Seconds in which nobody else refreshes a session's tokens."""
TRIES = 5
MAX_OF_ONE = 1000

REMEMBER = Script("""
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
""")


class Known(NamedTuple):
    """`expires`: when the access token ends, seconds since 1970; 0: nobody said."""

    consumer: Consumer
    claims: dict[str, Any]
    session: Session
    token: str
    expires: float


class Logins:
    """`told(claims)` gives the consumer, or None. What is said by None is that there is no session (any more)."""

    def __init__(
        self, store: Store, sessions: Sessions, sealer: Sealer, ahead: float, interval: float,
        known: Expiring[Known | None], told: Callable[[dict[str, Any]], Consumer | None],
    ) -> None:  # fmt: skip
        self.store = store
        self.sessions = sessions
        self.sealer = sealer
        self.ahead = ahead
        self.interval = interval
        self.known = known
        self.told = told
        self.flights: Flights[Known | None] = Flights(REFRESHES)

    @staticmethod
    def place(cookie: str) -> bytes:
        return hashlib.sha256(cookie.encode()).digest()

    def tokens(self, session: Session) -> dict[str, Any]:
        return self.sealer.open(session.more.get("tokens", "")) or {}

    def aged(self, known: Known) -> bool:
        """Is its access token to be refreshed?"""
        return bool(known.expires and known.session.more.get("refresh")) and time.time() > known.expires - self.ahead

    def more(self, answer: dict[str, Any], before: dict[str, Any], sid: Any) -> dict[str, Any]:
        """What a record has beside the claims."""
        token, seconds = token_of(answer)
        refresh = answer.get("refresh_token")
        kept = {"access": token, "refresh": refresh if isinstance(refresh, str) else before.get("refresh"),
                "id_token": answer.get("id_token") or before.get("id_token")}  # fmt: skip
        expires = time.time() + seconds if seconds else 0.0
        again = kept["refresh"] is not None
        return {"tokens": self.sealer.seal(kept), "expires": expires, "refresh": again, "sid": sid}

    # ------------------------------------------------------------------ a session

    async def begin(
        self, consumer: Consumer, claims: dict[str, Any], answer: dict[str, Any], sub: str, sid: Any
    ) -> str:
        """The value of its cookie. StoreError, Unreachable (the tokens cannot be used)."""
        more = self.more(answer, {}, sid)
        session, cookie = await self.sessions.begin(consumer.name, claims, more)
        if isinstance(self.store, RedisStore):
            key = self.index(sub)
            await self.store.evaluate(REMEMBER, (key,), session.id, int(self.sessions.lifetime * 1000))
        return cookie

    async def look(self, cookie: str) -> tuple[Known, bytes] | None:
        found = await self.sessions.open(cookie)
        if found is None:
            return None
        session, raw = found
        if self.sessions.due(session):
            session, _ = await self.sessions.touch(session, raw, cookie)
            found = await self.sessions.open(cookie)
            if found is None:
                return None
            session, raw = found
        known = self.remember(cookie, session)
        return None if known is None else (known, raw)

    def remember(self, cookie: str, session: Session) -> Known | None:
        consumer = self.told(session.claims)
        if consumer is None:
            return None
        token = self.tokens(session).get("access", "")
        known = Known(consumer, session.claims, session, token, float(session.more.get("expires") or 0.0))
        self.known.put(self.place(cookie), known, min(self.interval, session.end - time.time()))
        return known

    # ------------------------------------------------------------------ its tokens

    async def may_refresh(self, known: Known) -> bool:
        """Of all workers and hosts one may."""
        return await self.store.put_new(self.lock(known), b"1", LOCK)

    async def stop_refresh(self, known: Known) -> None:
        await self.store.delete(self.lock(known))

    def lock(self, known: Known) -> str:
        return self.sessions.place(f"{known.session.id}/refresh")

    async def refresh(self, known: Known, cookie: str, asked: Awaitable[dict[str, Any]]) -> Known | None:
        """With the provider's answer. None: he said no, and the session has ended. Unreachable, StoreError."""
        try:
            answer = await asked
            more = self.more(answer, self.tokens(known.session), known.session.more.get("sid"))
        except Refused as refused:
            await self.stop_refresh(known)
            if refused.ours:
                raise Unreachable("the provider does not know the gateway") from None
            await self.end(known.session.id, cookie)
            return None
        except Unreachable:
            await self.stop_refresh(known)
            raise
        for _ in range(TRIES):                       # the record may be touched meanwhile
            found = await self.sessions.open(cookie)
            if found is None:
                return None
            session, raw = found
            changed = replace(session, more=more)
            if await self.sessions.change(changed, raw):
                await self.stop_refresh(known)
                return self.remember(cookie, changed)
        raise Unreachable("the session is changed all the time")

    async def end(self, name: str, cookie: str) -> None:
        await self.sessions.end(name)
        self.known.put(self.place(cookie), None, 1.0)      # in this worker at once, in others within `interval`

    # ------------------------------------------------------------------ ended by the provider

    def index(self, sub: str) -> str:
        assert isinstance(self.store, RedisStore)
        return self.store.key(f"sessions-of:{self.sessions.name}:{hashlib.sha256(sub.encode()).hexdigest()[:32]}")

    async def ended_by_provider(self, sub: str, sid: Any) -> int:
        """All sessions of this subject, or (`sid`) one; how many there were."""
        assert isinstance(self.store, RedisStore)
        key = self.index(sub)
        count = 0
        for raw in list(await self.store.execute(key, "SMEMBERS", key))[:MAX_OF_ONE]:
            name = raw.decode()
            if sid is not None and await self.sid_of(name) not in (sid, None):
                continue
            await self.store.execute(key, "SREM", key, name)
            count += await self.sessions.end(name)
        return count

    async def sid_of(self, name: str) -> Any:
        raw = await self.store.get(self.sessions.place(name))
        session = None if raw is None else read(raw)
        return None if session is None else session.more.get("sid")


def store_problem(error: StoreError) -> Problem:
    detail = f"Sessions cannot be looked up ({error.reason})."
    return Problem(503, "store_unavailable", detail, {"Retry-After": "1"}, side=2)
