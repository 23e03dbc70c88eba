"""Purges of the cache that hold for all hosts: a stream in Redis (`PREFIX:cache:purges`).

    Purge                what the admin API takes
    SharedPurge          what the stream carries: the same, and exact names
    Teller               writes what a worker purges
    PurgeLog             what a worker has read of it, to compare what lies in Redis with
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fastgw._core.cache_access import Access
from fastgw.store.base import StoreError
from fastgw.store.redis import RedisStore

logger = logging.getLogger("fastgw.cache")

KEPT = 10_000
"""Purges in the stream, at least."""
MAX_LOG = 20_000
"""Purges that a worker remembers."""
MAX_UNTOLD = 10_000
"""Names that wait to be told; of more, everything is purged."""
AGAIN = 0.5
"""Seconds until what could not be told is told again."""
SOME = 500
BEGINNING = (0, 1)
"""Before every entry of a stream."""

Id = tuple[int, int]
Key = tuple[bool, str, bytes]
"""Soft, kind, of what."""


class Purge(BaseModel):
    """What the admin API takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: str | None = Field(default=None, min_length=1, max_length=16_384)
    prefix: str | None = Field(default=None, min_length=1, max_length=16_384)
    tag: str | None = Field(default=None, min_length=1, max_length=4096)
    all: bool = False
    soft: bool = False

    @model_validator(mode="after")
    def _one(self) -> Purge:
        if self.kinds() != 1:
            raise ValueError("one of url, prefix, tag and all")
        for text in (self.url, self.prefix):
            if text is not None:
                key_of(text)
        if self.tag is not None:
            self.tag.encode("latin-1")
        return self

    def kinds(self) -> int:
        return sum((self.url is not None, self.prefix is not None, self.tag is not None, self.all))

    def target(self) -> tuple[str, bytes]:
        """What kind it is (name, prefix, tag, all), and of what."""
        if self.url is not None:
            return "name", key_of(self.url)
        if self.prefix is not None:
            return "prefix", key_of(self.prefix)
        return ("all", b"") if self.tag is None else ("tag", self.tag.encode("latin-1"))

    def do(self, access: Access, foreign: bool = False) -> int:
        """How many answers. `foreign`: another host's. Raises CacheBusy."""
        kind, what = self.target()
        if kind == "name":
            return access.purge_name(what, self.soft, foreign)
        if kind == "prefix":
            return access.purge_prefix(what, self.soft, foreign)
        if kind == "tag":
            return access.purge_tag(what, self.soft, foreign)
        return access.purge_all(self.soft, foreign)


class SharedPurge(Purge):
    """`name`: `host/path?query` as it is in the memory, its bytes as Latin-1. `none`: nothing; the first entry of a
    stream, so that a stream that was lost is told from one in which nothing was ever purged."""

    name: str | None = Field(default=None, min_length=1, max_length=16_384)
    none: bool = False

    def kinds(self) -> int:
        return super().kinds() + (self.name is not None) + self.none

    def target(self) -> tuple[str, bytes]:
        if self.name is not None:
            return "name", self.name.encode("latin-1")
        return ("none", b"") if self.none else super().target()

    def do(self, access: Access, foreign: bool = False) -> int:
        return 0 if self.none else super().do(access, foreign)


def read_purge(fields: Any) -> SharedPurge:
    """An entry of the stream. What is of a version that can more is a purge of everything: it may have meant it."""
    try:
        return SharedPurge.model_validate(orjson.loads(fields[b"purge"]))
    except (KeyError, ValueError, ValidationError):
        logger.warning("a purge of another host is not understood: everything is purged")
        return SharedPurge(all=True)


def key_of(url: str) -> bytes:
    """`https://Host/path?query`, or the same without a scheme, as the names of answers begin: `host/path?query`.
    ValueError for what is none."""
    if "://" in url:
        parts = urlsplit(url)
        host, rest = parts.netloc, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    else:
        host, slash, rest = url.partition("/")
        rest = slash + rest
    return host.lower().encode("latin-1") + rest.encode()


def id_of(entry: Any) -> Id:
    number, _, part = bytes(entry[0]).partition(b"-")
    return int(number), int(part)


def stream_of(prefix: str) -> str:
    return f"{prefix}:cache:purges"


def host_name(access: Access) -> str:
    """By what a host knows its own purges: the same in all its processes."""
    return access.siphash(b"whose purges").hex()


def added(stream: str, by: str, wish: Purge) -> tuple[Any, ...]:
    """The command that tells of a purge."""
    text = orjson.dumps(wish.model_dump(exclude_none=True, exclude_defaults=True))
    return ("XADD", stream, "MAXLEN", "~", KEPT, "*", "from", by, "purge", text)


class Teller:
    """What a worker purges, told to the other hosts."""

    def __init__(self, store: RedisStore, access: Access) -> None:
        self.store = store
        self.stream = stream_of(store.options.prefix)
        self.by = host_name(access)
        # by name; None: everything
        self.untold: OrderedDict[str | None, SharedPurge] = OrderedDict()
        self.timer: asyncio.TimerHandle | None = None
        self.told = self.failures = 0

    def tell(self, wishes: Sequence[Purge], done: Callable[[bool], None]) -> None:
        """`done(True)`, later: all of them are in the stream."""
        loop = asyncio.get_running_loop()
        left, good = len(wishes), True

        def answered(reply: Any, error: StoreError | None) -> None:
            nonlocal left, good
            left -= 1
            good = good and error is None
            if not left:
                self.count(good)
                done(good)

        for wish in wishes:
            try:
                self.store.submit(self.stream, added(self.stream, self.by, wish), answered)
            except StoreError as error:
                loop.call_soon(answered, None, error)

    def count(self, good: bool) -> None:
        self.told += good
        self.failures += not good

    def forget(self, name: bytes) -> None:
        """What an unsafe method did. Told until the other hosts can know; nobody waits for that."""
        text = name.partition(b"\0")[0].decode("latin-1")
        wish = SharedPurge(name=text)

        def answered(reply: Any, error: StoreError | None) -> None:
            self.count(error is None)
            if error is not None:
                self.later(text, wish)

        try:
            self.store.submit(self.stream, added(self.stream, self.by, wish), answered)
        except StoreError as error:
            answered(None, error)
        except RuntimeError:                         # a trial, where no loop runs
            return

    def later(self, text: str | None, wish: SharedPurge) -> None:
        if len(self.untold) >= MAX_UNTOLD or None in self.untold:
            self.untold.clear()
            text, wish = None, SharedPurge(all=True)
        self.untold[text] = wish
        if self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(AGAIN, self.again)

    def again(self) -> None:
        self.timer = None
        batch = list(self.untold.items())[:SOME]

        def done(good: bool) -> None:
            if good:
                for text, wish in batch:
                    if self.untold.get(text) is wish:
                        del self.untold[text]
            if self.untold and self.timer is None:
                self.timer = asyncio.get_running_loop().call_later(0 if good else AGAIN, self.again)

        if batch:
            self.tell([wish for _, wish in batch], done)

    def row(self) -> dict[str, Any]:
        return {"told": self.told, "failures": self.failures, "untold": len(self.untold)}


class PurgeLog:
    """Purges of all hosts that were read, by what they mean. `position`: up to where; None: nothing is known."""

    def __init__(self) -> None:
        self.position: Id | None = None
        self.first = BEGINNING                       # what is older than this cannot be compared
        self.order: deque[tuple[Id, Key]] = deque()
        self.latest: dict[Key, Id] = {}
        self.prefixes: dict[Key, Id] = {}            # likewise, those of that kind
        self.history: deque[tuple[int, Id]] = deque(maxlen=1000)

    def forget(self) -> None:
        self.__init__()                              # type: ignore[misc]

    def take(self, rows: Iterable[Any], now: int) -> None:
        """Entries of the stream, in order, read by `now` (monotonic, ns)."""
        for row in rows:
            number = id_of(row)
            if self.position is not None and number <= self.position:
                continue                             # two reads were under way
            self.position = number
            wish = read_purge(row[1])
            kind, what = wish.target()
            if kind == "none":
                continue
            key = wish.soft, kind, what
            self.order.append((number, key))
            (self.prefixes if kind == "prefix" else self.latest)[key] = number
        while len(self.order) > MAX_LOG:
            number, key = self.order.popleft()
            self.first = max(self.first, number)
            there = self.prefixes if key[1] == "prefix" else self.latest
            if there.get(key) == number:
                del there[key]
        if self.position is not None and (not self.history or self.history[-1][1] != self.position):
            self.history.append((now, self.position))

    def known(self, asked: int) -> Id | None:
        """How much had been read at that time (monotonic, ns): what was asked for then is older than all that came
        after. None: not known."""
        for at, position in reversed(self.history):
            if at <= asked:
                return position
        return None

    def doom(self, name: bytes, tags: Sequence[bytes], since: Id) -> bool | None:
        """What the purges after `since` mean for an answer: True, it is gone (or nobody knows); False, it is stale;
        None, nothing."""
        if self.position is None or since < self.first or since > self.position:
            return True
        plain = name.partition(b"\0")[0]
        for soft in (False, True):
            targets = [("all", b""), ("name", plain), *(("tag", tag) for tag in tags)]
            if any(self.latest.get((soft, *target), BEGINNING) > since for target in targets) or any(
                number > since and is_soft == soft and name.startswith(what)
                for (is_soft, _, what), number in self.prefixes.items()
            ):
                return not soft
        return None
