"""The second level of the cache: answers in Redis, for all hosts that share it.

    PREFIX:cache:FORMAT:{NAME}        a hash of one answer; NAME is the SHA-256 of its name in the memory
    PREFIX:cache:FORMAT:{NAME}:lease  who fetches it

A look-up is one round trip: the answer, or the lease for fetching it, and what was purged meanwhile (`purges.py`). Each
answer says up to where the stream of purges had been read when the service was asked for it. What was purged since does
not count, so that a purge need not find and delete it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastgw import __version__
from fastgw._core.cache_access import Access, Hit
from fastgw.config.schema.cache import SecondLevel
from fastgw.store.base import StoreError
from fastgw.store.purges import BEGINNING, SOME, Id, PurgeLog, SharedPurge, added, host_name, id_of, stream_of
from fastgw.store.redis import SWAP, RedisStore, Script
from fastgw.store.tiers import Found, Kept, Tier

try:
    import zstandard
except ImportError:                                  # an extra of the gateway
    zstandard = None                                 # type: ignore[assignment]

logger = logging.getLogger("fastgw.cache")

PLAIN, ZLIB, ZSTD = 0, 1, 2
SMALLEST = 512
"""Bytes; what is less is not compressed."""
ASIDE = 65536
"""Bytes; what is more is compressed in another thread, and read in one from four times as many on."""
FORMAT = hashlib.sha256(f"1 {__version__}".encode()).hexdigest()[:8]
"""Heads are kept in the form of this version: others have keys of their own."""
INFO = struct.Struct("!qqqQQ")
"""Stored, fresh until, kept until, and the purge it is newer than."""
BODY = struct.Struct("!BQ16s")
"""Of a body: compression, size, digest."""
META = 64
K_VARIANTS, KINDS, MAX_NAMES = 2, (1, 2), 4096
FIRST_LOOK, LONGEST_LOOK = 0.005, 0.05
PASS_MS = 1000
"""So long nobody waits for what another host could not keep."""
SKEW = 1_000_000_000
"""ns that the clocks of two hosts may differ by, for purges of this host that the others were not told of yet."""

LOOK = Script("""
if ARGV[3] ~= '' and redis.call('HGET', KEYS[1], 'v') == ARGV[3] then redis.call('DEL', KEYS[1]) end
local found = redis.call('HMGET', KEYS[1], 'v', 'i', 'm', 't', 'h', 'd', 'b')
if found[2] then return found end
if ARGV[2] == '0' then return 0 end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[2]) == 'pass' then return 0 end
return 2
""")
"""The answer; or 0: none; 1: none, and the lease is ours; 2: none, and somebody fetches it."""

KEEP = Script("""
local whole = #ARGV == 8
if not whole then
  local there = redis.call('HGET', KEYS[1], 'd')
  if not there or string.sub(there, 2) ~= string.sub(ARGV[6], 2) then return 0 end
end
redis.call('HSET', KEYS[1], 'v', ARGV[2], 'i', ARGV[3], 'm', ARGV[4], 'h', ARGV[5])
if whole then redis.call('HSET', KEYS[1], 'd', ARGV[6], 't', ARGV[7], 'b', ARGV[8]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
""")
"""A whole answer; or, without tags and body, new times and a new head where the same body is there."""


def squeezed(data: bytes) -> tuple[int, bytes]:
    """How it is compressed, and that."""
    if len(data) < SMALLEST:
        return PLAIN, data
    if zstandard is not None:
        kind, small = ZSTD, zstandard.ZstdCompressor(level=3).compress(data)
    else:
        kind, small = ZLIB, zlib.compress(data, 3)
    return (kind, small) if len(small) < len(data) else (PLAIN, data)


def unsqueezed(kind: int, data: bytes, size: int) -> bytes:
    """ValueError when it is not of that size, or cannot be read."""
    found = data
    try:
        if kind == ZSTD:
            if zstandard is None:
                raise ValueError("zstandard is not installed")
            found = zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
        elif kind == ZLIB:
            found = zlib.decompressobj().decompress(data, size + 1)
    except Exception as error:                       # each library has its own
        raise ValueError(type(error).__name__) from None
    if kind > ZSTD or len(found) != size:
        raise ValueError("another size")
    return found


def packed(body: bytes, whole: bool) -> tuple[bytes, bytes]:
    """What is to be known of a body, and (of a whole answer) the body itself."""
    kind, small = squeezed(body) if whole else (PLAIN, b"")
    return BODY.pack(kind, len(body), hashlib.blake2b(body, digest_size=16).digest()), small


@dataclass(slots=True)
class Record:
    """An answer as it lies in Redis."""

    version: bytes
    body_kind: int
    size: int
    times: tuple[int, int, int]
    since: Id
    meta: bytes
    tags: tuple[bytes, ...]
    head: bytes
    body: bytes

    @classmethod
    def read(cls, given: list[bytes | None]) -> Record:
        """ValueError for what is none. Nothing of it is believed that is not looked at."""
        if any(part is None for part in given):
            raise ValueError("a part is missing")
        version, info, meta, tags, head, about, body = (bytes(part or b"") for part in given)
        try:
            stored, expires, keep_until, number, part = INFO.unpack(info)
            kind, size, _ = BODY.unpack(about)
        except struct.error:
            raise ValueError("no times") from None
        if len(meta) != META or meta[1] not in KINDS or len(head) < 5:
            raise ValueError("no head")
        plain = unsqueezed(head[0], head[5:], min(int.from_bytes(head[1:5], "big"), 131072))
        if meta[1] == K_VARIANTS and len(plain) > MAX_NAMES:
            raise ValueError("too many names")
        found = tuple(tags.split(b"\n")) if tags else ()
        return cls(version, kind, size, (stored, expires, keep_until), (number, part), meta, found, plain, body)


@dataclass(slots=True, eq=False)
class Look:
    """A look-up under way, over all its round trips."""

    name: bytes
    key: bytes
    told: Found | None
    place: str
    lease: str
    token: bytes
    wants: bool                                      # the lease
    pause: float = FIRST_LOOK
    again: int = 0
    timer: asyncio.TimerHandle | None = None
    left: int = 0                                    # answers that are still to come
    reply: Any = None
    rows: list[Any] = field(default_factory=list)
    after: Id = BEGINNING                            # so far the stream had been read when it was asked
    error: StoreError | None = None

    def tell(self, found: bool | None) -> None:
        told, self.told = self.told, None
        if told is not None:
            told(found)


class RedisTier(Tier):
    """`redis` in `cache.second_level`. It sees to its deadlines itself: each round trip has that of the store, and what
    another host fetches is waited for as long as the flight lasts."""

    level = "redis"
    seconds = None

    def __init__(self, options: SecondLevel, store: RedisStore, access: Access) -> None:
        self.options = options
        self.store = store
        self.access = access
        self.log = PurgeLog()
        self.stream = stream_of(store.options.prefix)
        self.by = host_name(access)
        self.looks: dict[bytes, Look] = {}           # by the key of the flight
        self.leases: dict[bytes, tuple[str, bytes]] = {}
        self.coming_keys: set[bytes] = set()
        self.catching: asyncio.Task[None] | None = None
        self.purged = self.waited = self.leased = self.read_bytes = 0
        with contextlib.suppress(RuntimeError):      # no loop runs yet: with the first look-up
            self.catch_up()

    # ------------------------------------------------------------------ where things are

    def place(self, name: bytes) -> str:
        return self.store.key(f"cache:{FORMAT}:{{{hashlib.sha256(name).hexdigest()}}}")

    def lease(self, name: bytes, key: bytes) -> str:
        own = "" if key == name else f":{hashlib.sha256(key).hexdigest()}"
        return f"{self.place(name)}:lease{own}"

    # ------------------------------------------------------------------ the purges

    def catch_up(self) -> None:
        if self.catching is None:
            self.catching = asyncio.get_running_loop().create_task(self.read_all())

    async def read_all(self) -> None:
        """The whole stream; the first one who comes begins it. Without it nothing in Redis can be trusted."""
        try:
            at: Id | None = None
            while True:
                begin = "-" if at is None else f"({at[0]}-{at[1]}"
                rows = await self.store.execute(self.stream, "XRANGE", self.stream, begin, "+", "COUNT", SOME)
                if not rows and at is None:
                    await self.store.execute(self.stream, *added(self.stream, self.by, SharedPurge(none=True)))
                    continue
                if at is None:
                    self.log.first = id_of(rows[0])
                if rows:
                    at = id_of(rows[-1])
                    self.log.take(rows, time.monotonic_ns())
                if len(rows) < SOME:
                    return
        except StoreError:
            self.log.forget()                        # the next look-up tries again
        finally:
            self.catching = None

    def read_on(self, rows: list[Any], after: Id) -> bool:
        """What a look-up brought of the stream, from what had been read last on: were that not there any more, it would
        have been cut or lost. False: something is missing, and all of it has to be read anew."""
        log = self.log
        if log.position is None or self.catching is not None:
            return False
        if not rows or id_of(rows[0]) != after or len(rows) >= SOME:
            log.forget()
            return False
        log.take(rows, time.monotonic_ns())
        return True

    # ------------------------------------------------------------------ a look-up

    def seek(self, name: bytes, key: bytes, asked: int, told: Found) -> bool:
        if self.log.position is None or self.catching is not None:
            self.catch_up()
            return False
        wants = self.options.lease > 0
        place = self.place(name)
        look = Look(name, key, told, place, self.lease(name, key), secrets.token_bytes(12), wants)
        self.ask(look, b"")
        self.looks[key] = look
        return True

    def ask(self, look: Look, bad: bytes) -> None:
        """One round trip: in a Cluster two, at once. StoreError when it is known at once that nothing will answer."""
        look.after = after = self.log.position or BEGINNING
        lease_ms = int(self.options.lease * 1000) if look.wants else 0
        look.left, look.error = 2, None
        store = self.store
        store.run(LOOK, (look.place, look.lease), (look.token, lease_ms, bad), partial(self.heard, look, "reply"))
        words = ("XRANGE", self.stream, f"{after[0]}-{after[1]}", "+", "COUNT", SOME)
        try:
            store.submit(self.stream, words, partial(self.heard, look, "rows"))
        except StoreError as error:
            asyncio.get_running_loop().call_soon(self.heard, look, "rows", None, error)

    def heard(self, look: Look, where: str, reply: Any, error: StoreError | None) -> None:
        setattr(look, where, reply)
        look.error = look.error or error
        if where == "reply" and reply == 1:
            self.hold(look)
        elif where == "reply" and error is not None and look.wants:
            self.release(look.lease, look.token, False)      # it may have been given to us all the same
        look.left -= 1
        if look.left:
            return
        if look.told is None:                        # the flight was over meanwhile
            self.looks.pop(look.key, None) if self.looks.get(look.key) is look else None
            return
        if look.error is not None:
            self.end(look, None)
        elif not self.read_on(look.rows, look.after):
            self.catch_up()
            self.end(look, None)
        elif isinstance(look.reply, list):
            self.weigh(look, look.reply)
        elif look.reply == 2:
            self.wait(look)
        else:
            self.end(look, False)

    def hold(self, look: Look) -> None:
        """The lease is ours. Where the flight is over, it is given back."""
        if look.told is None:
            self.release(look.lease, look.token, False)
        else:
            self.leased += 1
            self.leases[look.key] = look.lease, look.token

    def end(self, look: Look, found: bool | None) -> None:
        if self.looks.get(look.key) is look:
            del self.looks[look.key]
        look.tell(found)

    def wait(self, look: Look) -> None:
        """Another host fetches it: until it is there, its lease is over, or our flight."""
        if look.pause == FIRST_LOOK:
            self.waited += 1
        look.timer = asyncio.get_running_loop().call_later(look.pause, self.look_again, look, b"")
        look.pause = min(look.pause * 2, LONGEST_LOOK)

    def look_again(self, look: Look, bad: bytes) -> None:
        look.timer = None
        if look.told is not None:
            try:
                self.ask(look, bad)
            except StoreError:
                self.end(look, None)

    def weigh(self, look: Look, given: list[bytes | None]) -> None:
        """An answer: may it be used?"""
        now = time.time_ns()
        try:
            record = Record.read(given)
            doom = self.log.doom(look.name, record.tags, record.since)
        except ValueError as error:
            logger.warning("an answer in Redis cannot be read: %s", error)
            self.useless(look, given[0] or b"")
            return
        if doom:
            self.purged += 1
        if doom or record.times[2] <= now or record.size > self.options.max_answer:
            self.useless(look, record.version)
            return
        if doom is False:
            record.times = record.times[0], 0, record.times[2]
        if record.size > 4 * ASIDE and record.body_kind != PLAIN:
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(None, unsqueezed, record.body_kind, record.body, record.size)
            work.add_done_callback(lambda done: self.put(look, record, done.result if not done.cancelled() else None))
        else:
            self.put(look, record, partial(unsqueezed, record.body_kind, record.body, record.size))

    def put(self, look: Look, record: Record, body: Callable[[], bytes] | None) -> None:
        stored, expires, keep_until = record.times
        now, wall = time.monotonic_ns(), time.time_ns()
        own = max(1, now - max(0, wall - stored) - SKEW)
        try:
            raw = body() if body is not None else None
        except ValueError as error:
            logger.warning("an answer in Redis cannot be read: %s", error)
            raw = None
        if raw is None:
            self.useless(look, record.version)
            return
        self.read_bytes += len(record.body)
        result = self.access.put(
            look.name, raw, head=record.head, meta=record.meta, tags=record.tags,
            times=(min(stored, wall), expires, keep_until), asked=now, own=own,
        )  # fmt: skip
        self.end(look, result == "ok")

    def useless(self, look: Look, version: bytes) -> None:
        """What lies there is of no use: it goes, and who comes first fetches it."""
        if look.again or look.told is None:
            self.end(look, False)
            return
        look.again = 1
        self.look_again(look, version)

    # ------------------------------------------------------------------ the lease

    def closed(self, key: bytes, refused: bool) -> None:
        look = self.looks.pop(key, None)
        if look is not None:
            look.told = None
            if look.timer is not None:
                look.timer.cancel()
        if key not in self.coming_keys:
            self.let_go(key, refused)

    def coming(self, kept: Kept) -> None:
        if kept.key is not None:
            self.coming_keys.add(kept.key)

    def over(self, kept: Kept) -> None:
        if kept.key is not None:
            self.coming_keys.discard(kept.key)
            self.let_go(kept.key, False)

    def let_go(self, key: bytes, refused: bool) -> None:
        held = self.leases.pop(key, None)
        if held is not None:
            self.release(*held, refused)

    def release(self, lease: str, token: bytes, refused: bool) -> None:
        """Without success it ends by itself."""
        try:
            end = (b"pass", PASS_MS) if refused else (b"", 0)
            self.store.run(SWAP, (lease,), (token, *end), lambda reply, error: None)
        except (StoreError, RuntimeError):
            return

    # ------------------------------------------------------------------ storing

    async def keep(self, kept: Kept, hit: Hit) -> int:
        stored, expires, keep_until = hit.times
        ttl = (keep_until - time.time_ns()) // 1_000_000
        since = self.log.known(kept.asked)
        if ttl < 1000 or since is None or hit.size > self.options.max_answer:
            return 0
        meta, head, whole = hit.meta, hit.head, kept.tags is not None
        if hit.size > ASIDE:
            work = asyncio.get_running_loop().run_in_executor(None, packed, hit.read(), whole)
            about, body = await work
        else:
            about, body = packed(hit.read(), whole)
        kind, small = squeezed(head)
        head = bytes((kind,)) + len(head).to_bytes(4, "big") + small
        words = [ttl, secrets.token_bytes(8), INFO.pack(stored, expires, keep_until, *since), meta, head, about]
        if kept.tags is not None:
            words += (b"\n".join(kept.tags), body)
        done = await self.store.evaluate(KEEP, (self.place(kept.name),), *words)
        return len(head) + len(body) if done else 0

    def state(self) -> dict[str, Any]:
        return {
            "ready": self.log.position is not None and self.catching is None, "paused": self.store.state().paused,
            "compression": "zlib" if zstandard is None else "zstd", "purged": self.purged, "leases": self.leased,
            "waited": self.waited, "read_bytes": self.read_bytes,
        }  # fmt: skip
