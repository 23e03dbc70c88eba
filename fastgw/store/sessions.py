"""Sessions that are kept in a store: one record each, found by the id and opened by the secret that its cookie has.

    session/NAME/ID    JSON: user, claims, times (seconds since 1970), SHA-256 of the secret, and of the one before it
    PREFIX:sessions    in Redis, a sorted set of NAME/ID by their ends, so that they can be listed

An id may be shown; a secret is in the cookie alone. Every change is made to the record as it was read, so
that none brings back a session that was ended meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import orjson

from fastgw.store.base import Store
from fastgw.store.redis import RedisStore, Script

COOKIE = re.compile(r"([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})\Z")
GRACE = 60.0
"""Seconds in which the secret before a rotation still opens: requests that were under way."""
MAX_LISTED = 1000
SCANNED = 500

ENTER = Script("""
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[3])
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
return 1
""")


def hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Session:
    """`begun`, `seen`, `rotated`, `end` and `before_until` are seconds since 1970."""

    id: str
    user: str
    claims: dict[str, Any]
    digest: str
    begun: float
    seen: float
    rotated: float
    end: float
    before: str = ""
    before_until: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)


def read(raw: bytes) -> Session | None:
    try:
        return Session(**orjson.loads(raw))
    except (ValueError, TypeError):
        return None


class Sessions:
    """Those of one name, which share a cookie and its rules. Times are seconds; each call may raise StoreError."""

    def __init__(self, store: Store, name: str, idle: float, lifetime: float, rotate: float) -> None:
        self.store = store
        self.name = name
        self.idle = idle
        self.lifetime = lifetime
        self.rotate = rotate

    def place(self, name: str) -> str:
        return f"session/{self.name}/{name}"

    def ttl(self, session: Session, now: float) -> float:
        return max(0.001, min(self.idle, session.end - now))

    async def begin(self, user: str, claims: dict[str, Any], more: dict[str, Any] | None = None) -> tuple[Session, str]:
        """The session, and the value of its cookie."""
        now = time.time()
        secret = secrets.token_urlsafe(32)
        made = Session(
            secrets.token_urlsafe(16), user, claims, hashed(secret), now, now, now, now + self.lifetime, more=more or {}
        )
        await self.store.put(self.place(made.id), orjson.dumps(asdict(made)), self.ttl(made, now))
        if isinstance(self.store, RedisStore):
            index = self.store.key("sessions")
            await self.store.evaluate(ENTER, (index,), int(made.end) + 1, f"{self.name}/{made.id}", int(now))
        return made, f"{made.id}.{secret}"

    async def open(self, cookie: str) -> tuple[Session, bytes] | None:
        """The session of this cookie, and its record; None when there is none, or no more."""
        parts = COOKIE.match(cookie)
        if parts is None:
            return None
        raw = await self.store.get(self.place(parts[1]))
        session = None if raw is None else read(raw)
        if raw is None or session is None:
            return None
        now = time.time()
        digest = hashed(parts[2])
        now_good = hmac.compare_digest(digest, session.digest)
        good = now_good or (now < session.before_until and hmac.compare_digest(digest, session.before))
        return (session, raw) if good and now < min(session.end, session.seen + self.idle) else None

    def due(self, session: Session) -> bool:
        """Is it to be written that it was seen, or its secret to be changed?"""
        now = time.time()
        return now - session.seen > self.idle / 10 or self.turns(session, now)

    def turns(self, session: Session, now: float) -> bool:
        return bool(self.rotate) and now - session.rotated > self.rotate

    async def touch(self, session: Session, raw: bytes, cookie: str) -> tuple[Session, str | None]:
        """As it is now, and the new value of its cookie when it changed. Of several that do it at a time one does."""
        now = time.time()
        changed, value = replace(session, seen=now), None
        if self.turns(session, now) and hashed(cookie.partition(".")[2]) == session.digest:
            secret = secrets.token_urlsafe(32)
            value = f"{session.id}.{secret}"
            changed = replace(
                changed, digest=hashed(secret), rotated=now, before=session.digest, before_until=now + GRACE
            )
        return (changed, value) if await self.change(changed, raw) else (session, None)

    async def change(self, session: Session, raw: bytes) -> bool:
        """False when it is not any more as it was read."""
        now = time.time()
        return await self.store.swap(self.place(session.id), raw, orjson.dumps(asdict(session)), self.ttl(session, now))

    async def end(self, name: str) -> bool:
        """Was there one?"""
        gone = await self.store.delete(self.place(name))
        if isinstance(self.store, RedisStore):
            index = self.store.key("sessions")
            await self.store.execute(index, "ZREM", index, f"{self.name}/{name}")
        return gone


class SessionList:
    """All sessions in a Redis, for those who operate the gateway."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.index = store.key("sessions")

    async def rows(self, user: str | None = None) -> list[dict[str, Any]]:
        """At most MAX_LISTED, those that end last first; of one user, or of all."""
        now = time.time()
        await self.store.execute(self.index, "ZREMRANGEBYSCORE", self.index, "-inf", int(now))
        found: list[dict[str, Any]] = []
        at = 0
        while len(found) < MAX_LISTED:
            names = await self.store.execute(self.index, "ZREVRANGE", self.index, at, at + SCANNED - 1)
            if not names:
                break
            at += len(names)
            texts = [name.decode() for name in names]
            for text, raw in zip(texts, await asyncio.gather(*(self.store.get(f"session/{t}") for t in texts)),
                                 strict=True):  # fmt: skip
                session = None if raw is None else read(raw)
                if session is not None and user in (None, session.user):
                    found.append(row(text, session))
        return found[:MAX_LISTED]

    async def end(self, name: str, number: str) -> bool:
        return await Sessions(self.store, name, 1.0, 1.0, 0.0).end(number)


def row(text: str, session: Session) -> dict[str, Any]:
    """Nothing by which it could be used."""
    times = {word: round(getattr(session, word)) for word in ("begun", "seen", "end")}
    return {"id": text, "user": session.user, **times}
