"""API keys, and consumers and plans, that several hosts share in Redis (`api_keys.store`).

Each host keeps all of it in the memory of its workers: a request never asks Redis, nor does a flood of unknown keys.
The agent looks every `poll` whether the version has changed and takes what was changed since; a change is made only to
the version that its maker has seen.

    PREFIX:{api_keys}:records   a hash: key/ID, consumer/NAME, plan/NAME → JSON
    PREFIX:{api_keys}:changed   a sorted set: the same names, by the version that changed them
    PREFIX:{api_keys}:version   grows by one with each change
    PREFIX:{api_keys}:epoch     random, of when all this began: another one means that Redis was emptied
    PREFIX:{api_keys}:uses, …:last   hashes: ID → uses by all hosts, and when the last one was (seconds since 1970)
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from fastgw._core.usage import UsageTable
from fastgw.config.schema.consumers import ApiKeys, Consumer, Plan
from fastgw.config.schema.stores import Stores
from fastgw.server.keys import Changed, KeyBook, KeyProblem, Managed, Record, checked, usable
from fastgw.store import StoreError
from fastgw.store.redis import RedisStore, Script

logger = logging.getLogger("fastgw.server")
T = TypeVar("T")

PATIENCE = 5.0
"""Seconds. Nobody's request waits for these calls, so they may take longer than those of policies."""
TRIES = 10
BATCH = 500
MAX_SHARED = 10_000
"""Consumers, and plans, at most."""

SINCE = Script("""
local version = tonumber(redis.call('GET', KEYS[1]) or '0')
local epoch = redis.call('GET', KEYS[2]) or ''
local last = tonumber(ARGV[2])
if epoch == ARGV[1] and version == last then return {version, epoch, 0, {}} end
if epoch ~= ARGV[1] or last > version or version - last > 10000 then
  return {version, epoch, 1, redis.call('HGETALL', KEYS[3])}
end
local found = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '(' .. last, '+inf')) do
  found[#found + 1] = name
  found[#found + 1] = redis.call('HGET', KEYS[3], name) or ''
end
return {version, epoch, 0, found}
""")

CHANGE = Script("""
local version = tonumber(redis.call('GET', KEYS[1]) or '0')
local epoch = redis.call('GET', KEYS[2]) or ''
if version ~= tonumber(ARGV[1]) or epoch ~= ARGV[2] then return {0, epoch} end
if epoch == '' then epoch = ARGV[3] redis.call('SET', KEYS[2], epoch) end
version = redis.call('INCR', KEYS[1])
for at = 4, #ARGV, 2 do
  if ARGV[at + 1] == '' then
    redis.call('HDEL', KEYS[3], ARGV[at])
    redis.call('HDEL', KEYS[5], ARGV[at])
    redis.call('HDEL', KEYS[6], ARGV[at])
  else redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1]) end
  redis.call('ZADD', KEYS[4], version, ARGV[at])
end
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', version - 10001)
return {version, epoch}
""")

USED = Script("""
for at = 1, #ARGV, 3 do
  redis.call('HINCRBY', KEYS[1], ARGV[at], ARGV[at + 1])
  redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 2])
end
return 0
""")


class Conflict(KeyProblem):
    """Somebody else made a change meanwhile."""

    def __init__(self) -> None:
        super().__init__(409, "keys_changed", "The keys are being changed from elsewhere too; try again.")


class StoredBook(KeyBook):
    """Its methods run in a thread, except `fetch` and `publish_uses`, which are for the loop of the store."""

    def __init__(
        self, settings: ApiKeys, stores: Stores, changed: Changed, usage: UsageTable, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(settings, changed)
        assert stores.redis is not None
        longer = {"deadline": max(stores.redis.deadline, PATIENCE), "timeout": max(stores.redis.timeout, PATIENCE)}
        self.store = RedisStore(stores.redis.model_copy(update=longer))
        self.usage = usage
        self.loop = loop
        self.people: dict[str, Consumer] = {}
        self.plans: dict[str, Plan] = {}
        self.version = -1
        self.epoch = ""
        self.told: dict[str, int] = {}
        """Uses of a key that Redis knows of, of this host, by id."""
        names = ("version", "epoch", "records", "changed", "uses", "last")
        self.keys = [self.store.key(f"{{api_keys}}:{name}") for name in names]

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """From the thread. KeyProblem when the store does not do it."""
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(2 * PATIENCE)
        except (StoreError, TimeoutError) as error:
            reason = error.reason if isinstance(error, StoreError) else "deadline"
            raise KeyProblem(503, "keys_unreadable", f"The store of API keys does not answer ({reason}).") from None

    # ------------------------------------------------------------------ what others have changed

    def look(self) -> None:
        before = usable(self.records)
        self.wait(self.fetch())
        after = usable(self.records)
        if after != before:
            self.changed(after, before.keys() - after.keys())

    async def fetch(self) -> None:
        first = self.version < 0
        version, epoch, whole, found = await self.store.evaluate(SINCE, self.keys[:4], self.epoch, self.version)
        if whole:
            self.records, self.people, self.plans = {}, {}, {}
        pairs = iter(found)
        for name in pairs:
            self.take(name.decode("utf-8", "replace"), next(pairs))
        self.version, self.epoch = int(version), epoch.decode("ascii", "replace")
        if first:                                     # what was counted before us, an agent before us has told
            self.told = {record.id: self.usage.read(record.digest)[0] for record in self.records.values()}

    def take(self, name: str, raw: bytes) -> None:
        kind, _, rest = name.partition("/")
        places: dict[str, dict[str, Any]] = {"key": self.records, "consumer": self.people, "plan": self.plans}
        if kind not in places:
            return
        place = places[kind]
        place.pop(rest, None)
        if not raw:
            return
        try:
            item = orjson.loads(raw)
            if kind == "key":
                found: Any = checked(item)
                if found.id != rest:
                    raise ValueError("another id")
            else:
                found = (Consumer if kind == "consumer" else Plan).model_validate(item)
        except (ValueError, TypeError, KeyError, AttributeError):
            logger.error("the store of API keys holds something under %.100r that is none; it is left out", name)
            return
        place[rest] = found

    # ------------------------------------------------------------------ changes

    def change(self, items: Mapping[str, bytes]) -> None:
        """Empty for what is to go."""
        pairs = [part for pair in items.items() for part in pair]
        sent = self.store.evaluate(CHANGE, self.keys, self.version, self.epoch, secrets.token_hex(16), *pairs)
        version, epoch = self.wait(sent)
        if not version:
            raise Conflict
        self.version, self.epoch = int(version), epoch.decode("ascii", "replace")

    def write(self, records: dict[str, Record]) -> None:
        old = self.records
        items = {f"key/{name}": b"" for name in old.keys() - records.keys()}
        items |= {
            f"key/{name}": orjson.dumps(asdict(record)) for name, record in records.items() if old.get(name) != record
        }
        self.change(items)
        self.records = records

    def again(self, do: Callable[[], T]) -> T:
        """Anew from what there is now, while others make changes too."""
        for _ in range(TRIES - 1):
            try:
                return do()
            except Conflict:
                continue
        return do()

    def create(
        self, consumer: str, scopes: list[str] | None, lifetime: float | None, note: str
    ) -> tuple[Record, str]:
        return self.again(lambda: super(StoredBook, self).create(consumer, scopes, lifetime, note))

    def rotate(self, name: str, overlap: float | None) -> tuple[Record, str]:
        return self.again(lambda: super(StoredBook, self).rotate(name, overlap))

    def revoke(self, name: str) -> Record:
        return self.again(lambda: super(StoredBook, self).revoke(name))

    def put(self, kind: type[BaseModel], name: str, item: Mapping[str, Any] | None) -> None:
        """A consumer or a plan; None: it goes."""
        word = "consumer" if kind is Consumer else "plan"
        place: dict[str, Any] = self.people if kind is Consumer else self.plans
        try:
            found = None if item is None else kind.model_validate(item)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise KeyProblem(400, "bad_request", f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None

        def once() -> None:
            self.look()
            if found is None and name not in place:
                raise KeyProblem(404, f"unknown_{word}", f"The store has no {word} {name[:100]!r}.")
            if found is not None and name not in place and len(place) >= MAX_SHARED:
                raise KeyProblem(409, f"too_many_{word}s", f"There are {len(place)}.")
            self.change({f"{word}/{name}": b"" if item is None else orjson.dumps(dict(item))})
            if found is None:
                place.pop(name, None)
            else:
                place[name] = found

        self.again(once)

    # ------------------------------------------------------------------ what is told to workers, and to others

    def known(self, own: Iterable[Consumer], plans: Mapping[str, Plan]) -> dict[str, tuple[Any, ...]]:
        """Consumers by name, as arguments of the native one; those of the configuration, and its plans, come first."""
        taken = {one.name for one in own}
        found = {}
        for name, one in self.people.items():
            if name in taken:
                continue
            plan = (plans.get(one.plan) or self.plans.get(one.plan)) if one.plan is not None else None
            scopes = one.scopes
            if plan is not None and plan.scopes:
                scopes = (*(scopes or ()), *plan.scopes)
            found[name] = (name, one.groups, dict(one.metadata), name, one.plan, scopes)
        return found

    def managed(self) -> dict[bytes, Managed]:
        return usable(self.records)

    async def publish_uses(self) -> None:
        """Adds what this host has counted since."""
        news: list[tuple[str, int, int]] = []
        for record in self.records.values():
            count, last = self.usage.read(record.digest)
            more = count - self.told.get(record.id, 0)
            if more > 0:
                news.append((record.id, more, last))
        for at in range(0, len(news), BATCH):
            batch = news[at : at + BATCH]
            # told before it is done: a deadline leaves open whether it was, and a use is better lost than counted twice
            for name, more, _ in batch:
                self.told[name] = self.told.get(name, 0) + more
            words = [word for name, more, last in batch for word in (f"key/{name}", more, last)]
            await self.store.evaluate(USED, self.keys[4:], *words)
        for name in self.told.keys() - self.records.keys():
            del self.told[name]

    def shared_uses(self) -> dict[str, tuple[int, int]]:
        """By id: uses by all hosts, and the last one, as far as they have told."""
        uses, last = (self.wait(self.store.execute(key, "HGETALL", key)) for key in self.keys[4:])
        times = as_numbers(last)
        return {name: (count, times.get(name, 0)) for name, count in as_numbers(uses).items()}


def as_numbers(answer: Any) -> dict[str, int]:
    pairs = answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=True)
    return {name.decode("utf-8", "replace").removeprefix("key/"): int(value) for name, value in pairs}
