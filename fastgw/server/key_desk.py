"""What the admin API does with consumers, plans and keys, wherever managed ones are kept."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from fastgw._core.usage import UsageTable
from fastgw.config import Config
from fastgw.config.schema.consumers import Consumer, ConsumerKey, Plan
from fastgw.server.keys import KeyBook, KeyFile, KeyProblem, Managed, Record, now, usable, written
from fastgw.server.stored_keys import StoredBook
from fastgw.store import StoreError

logger = logging.getLogger("fastgw.server")

TELL_USES = 2.0
"""Seconds between what a host tells the store of uses."""


class KeyDesk:
    """`config()` is the configuration in force; `tell` gets messages for the workers, in the loop: `op: api_keys` and

        put, drop   managed keys that changed, by digest
        whole       all of them, in the place of what was known
        people      consumers of the store, all of them
        fresh       seconds for which all this holds; 0: without end

    What takes long runs in a thread: disks are slow. `watch` looks what others have changed.
    """

    def __init__(
        self, config: Callable[[], Config], usage: UsageTable, tell: Callable[[dict[str, Any]], None]
    ) -> None:
        self.config = config
        self.usage = usage
        self.lock = asyncio.Lock()
        self.tell = tell
        self.loop: asyncio.AbstractEventLoop | None = None
        self.opened: tuple[Any, Any] | None = None
        self.people: dict[str, tuple[Any, ...]] = {}
        self.file: KeyBook | None = None
        self.looked = -1e9
        """When the store was asked last of those times that it answered (monotonic)."""
        self.woken = asyncio.Event()
        if config().api_keys.store is None:
            self.open()

    # ------------------------------------------------------------------ where they are

    def open(self) -> None:
        """The book of the configuration in force."""
        config = self.config()
        settings = config.api_keys
        self.opened = settings, config.stores
        self.people = {}
        if settings.store is not None:
            assert self.loop is not None
            self.file = StoredBook(settings, config.stores, self.changed, self.usage, self.loop)
        else:
            self.file = KeyFile(settings, self.changed) if settings.file is not None else None

    async def renewed(self) -> None:
        """Opens the book anew where the configuration has another one."""
        self.loop = asyncio.get_running_loop()
        config = self.config()
        settings = config.api_keys, config.stores
        if self.opened == settings or (self.opened and self.opened[0] == settings[0] and settings[0].store is None):
            return
        before, first = self.file, self.opened is None
        self.open()
        if self.file is None or not (first or (isinstance(before, StoredBook) and isinstance(self.file, StoredBook))):
            self.tell(self.everything())             # from store to store, what was known holds on
        if isinstance(before, StoredBook):
            await before.store.close()

    def everything(self) -> dict[str, Any]:
        """For a worker that knows nothing, or something else."""
        book = self.file
        if self.config().api_keys.store is not None and (not isinstance(book, StoredBook) or book.version < 0):
            return {"op": "api_keys", "whole": {}, "people": {}, "broken": True}     # not asked yet
        if isinstance(book, StoredBook):
            return {"op": "api_keys", "whole": book.managed(), "people": self.people, "fresh": self.left()}
        if isinstance(book, KeyFile) and book.looked:
            # what a worker reads by itself may be half written, and nobody would tell it that the file is whole again
            return {"op": "api_keys", "whole": usable(book.records), "people": {}, "fresh": 0.0}
        return {"op": "api_keys", "all": True, "file": self.config().api_keys.file}

    def left(self) -> float:
        """Seconds for which what the store told last holds; 0: without end."""
        settings = self.config().api_keys
        if settings.on_failure != "closed":
            return 0.0
        return max(0.001, settings.max_stale - (time.monotonic() - self.looked))

    def adopted(self) -> None:
        """Another configuration is in force: its `on_failure` and `max_stale` hold from now on, also when the store is
        away, and its keys are looked at."""
        if isinstance(self.file, StoredBook) and self.config().api_keys.store is not None:
            self.tell({"op": "api_keys", "put": {}, "drop": (), "fresh": self.left()})
        self.woken.set()

    async def watch(self) -> None:
        """For ever: what others changed, in the file or in the store."""
        last, failing = 0.0, False
        while True:
            try:
                async with self.lock:
                    await self.renewed()
                book = self.file
                if book is not None:
                    await self.run(self.look)
                if isinstance(book, StoredBook) and asyncio.get_running_loop().time() - last > TELL_USES:
                    last = asyncio.get_running_loop().time()
                    await book.publish_uses()
                failing = False
            except (KeyProblem, StoreError) as error:
                if not failing:
                    logger.error("managed API keys cannot be looked at: %s", error)
                failing = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.woken.wait(), self.config().api_keys.poll)
            self.woken.clear()

    async def close(self) -> None:
        """Tells what was counted last."""
        book = self.file
        if isinstance(book, StoredBook):
            try:
                await book.publish_uses()
            except StoreError:
                logger.info("the last uses of API keys are not told")
            await book.store.close()

    def look(self) -> None:
        """In the thread."""
        book = self.file
        if book is None:
            return
        first = isinstance(book, StoredBook) and book.version < 0
        anew = isinstance(book, KeyFile) and not book.looked
        asked = time.monotonic()
        book.look()
        if anew:
            # workers read the file when they began; what changed between that and this look would be no change here
            self.say(self.everything())
        if isinstance(book, StoredBook):
            config = self.config()
            people = book.known(config.consumers, config.plans)
            self.looked = asked
            message: dict[str, Any] = {"op": "api_keys", "put": {}, "drop": (), "fresh": self.left()}
            if first:
                message["whole"] = book.managed()
            if first or people != self.people:
                message["people"] = self.people = people
            self.say(message)

    async def run(self, do: Callable[[], Any]) -> Any:
        """In a thread, one at a time: no two changes are made of the same book."""
        self.loop = asyncio.get_running_loop()
        async with self.lock:
            await self.renewed()
            return await self.loop.run_in_executor(None, do)

    def say(self, message: dict[str, Any]) -> None:
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.tell, message)

    def changed(self, put: Mapping[bytes, Managed], drop: Iterable[bytes]) -> None:
        self.say({"op": "api_keys", "put": dict(put), "drop": list(drop)})

    def owned(self) -> KeyBook:
        if self.file is None:
            detail = "Keys are managed where the configuration has `api_keys: {file: …}` or `{store: redis, …}`."
            raise KeyProblem(409, "no_key_file", detail)
        return self.file

    def shared(self) -> StoredBook:
        if not isinstance(self.file, StoredBook):
            detail = "Consumers and plans are managed where the configuration has `api_keys: {store: redis, …}`."
            raise KeyProblem(409, "no_key_store", detail)
        return self.file

    # ------------------------------------------------------------------ keys

    def seen(self, digest: bytes) -> dict[str, Any]:
        count, last = self.usage.read(digest)
        return {"uses": count, "last_used": written(datetime.fromtimestamp(last, UTC)) if last else None}

    def rows(self, everywhere: bool = True) -> Iterator[dict[str, Any]]:
        """All keys, those of the configuration first; hashes are not told. Uses of managed ones by all hosts, or (not
        `everywhere`) by this one."""
        for consumer in self.config().consumers:
            for number, key in enumerate(consumer.keys):
                yield {
                    "id": key.id or f"{consumer.name}/{number}",
                    "consumer": consumer.name,
                    "source": "configuration",
                    "state": ended(key),
                    "expires": None if key.expires is None else written(key.expires),
                    "scopes": None if key.scopes is None else list(key.scopes),
                    **self.seen(bytes.fromhex(key.hash)),
                }
        if self.file is not None and not everywhere and isinstance(self.file, StoredBook):
            yield from [self.row(record) for record in list(self.file.records.values())]
        elif self.file is not None:
            self.file.look()
            uses = self.file.shared_uses() if isinstance(self.file, StoredBook) else {}
            for record in self.file.records.values():
                yield self.row(record) | self.seen_by_all(record, uses)

    def seen_by_all(self, record: Record, uses: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
        if not isinstance(self.file, StoredBook):
            return {}
        count, last = self.usage.read(record.digest)
        told, then = uses.get(record.id, (0, 0))
        told += count - self.file.told.get(record.id, 0)
        last = max(last, then)
        return {"uses": told, "last_used": written(datetime.fromtimestamp(last, UTC)) if last else None}

    def row(self, record: Record) -> dict[str, Any]:
        facts = {name: value for name, value in asdict(record).items() if name not in ("hash", "shown")}
        return {**facts, "begins": record.shown, "source": "managed", "state": record.state, **self.seen(record.digest)}

    def consumers(self) -> list[dict[str, Any]]:
        """By name, with their keys counted."""
        counts: dict[str, list[int]] = {}
        for row in self.rows():
            one = counts.setdefault(row["consumer"], [0, 0])
            one[0] += row["state"] in ("active", "replaced")
            one[1] += row["uses"]
        config = self.config()
        found = [self.person(one, "configuration", *counts.get(one.name, (0, 0))) for one in config.consumers]
        if isinstance(self.file, StoredBook):
            own = {one.name for one in config.consumers}
            people = sorted(self.file.people.items())
            found += [self.person(one, "store", *counts.get(name, (0, 0))) for name, one in people if name not in own]
        return found

    @staticmethod
    def person(one: Consumer, source: str, keys: int = 0, uses: int = 0) -> dict[str, Any]:
        return {
            "name": one.name,
            "groups": list(one.groups),
            "plan": one.plan,
            "scopes": None if one.scopes is None else list(one.scopes),
            "metadata": dict(one.metadata),
            "source": source,
            "keys": keys,
            "uses": uses,
        }

    def put_consumer(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """A consumer of the store, new or in the place of the one with its name."""
        book, config = self.shared(), self.config()
        if any(one.name == wanted["name"] for one in config.consumers):
            raise KeyProblem(409, "consumer_of_configuration", "The configuration has a consumer of this name.")
        book.look()
        plan = wanted.get("plan")
        if plan is not None and plan not in config.plans and plan not in book.plans:
            raise KeyProblem(404, "unknown_plan", f"There is no plan {str(plan)[:100]!r}.")
        book.put(Consumer, wanted["name"], {name: value for name, value in wanted.items() if value is not None})
        self.look()
        return self.person(book.people[wanted["name"]], "store")

    def drop_consumer(self, name: str) -> dict[str, Any]:
        """Its keys are nobody's then: 401."""
        book = self.shared()
        book.put(Consumer, name, None)
        self.look()
        return {"removed": name}

    def plans(self) -> list[dict[str, Any]]:
        config = self.config()
        rows = [("configuration", name, plan) for name, plan in config.plans.items()]
        if isinstance(self.file, StoredBook):
            self.file.look()
            rows += [("store", *one) for one in sorted(self.file.plans.items()) if one[0] not in config.plans]
        return [
            {"name": name, "scopes": list(plan.scopes), "metadata": dict(plan.metadata), "source": source}
            for source, name, plan in rows
        ]

    def put_plan(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        book, name = self.shared(), wanted["name"]
        if name in self.config().plans:
            raise KeyProblem(409, "plan_of_configuration", "The configuration has a plan of this name.")
        facts = {"scopes": list(wanted["scopes"] or ()), "metadata": dict(wanted["metadata"])}
        book.put(Plan, name, facts)
        self.look()
        return {"name": name, **facts, "source": "store"}

    def drop_plan(self, name: str) -> dict[str, Any]:
        book = self.shared()
        self.look()
        users = sorted(one for one, person in book.people.items() if person.plan == name)
        if users:
            raise KeyProblem(409, "plan_in_use", f"Consumers have it: {', '.join(users[:5])}.")
        book.put(Plan, name, None)
        self.look()
        return {"removed": name}

    def create(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """`consumer`, and `scopes`, `lifetime` (seconds), `note` as one likes. The key is in the answer, once."""
        file = self.owned()
        name = wanted["consumer"]
        if isinstance(file, StoredBook):
            file.look()
        people = file.people if isinstance(file, StoredBook) else {}
        if name not in people and all(one.name != name for one in self.config().consumers):
            raise KeyProblem(404, "unknown_consumer", f"There is no consumer {str(name)[:100]!r}.")
        record, key = file.create(name, wanted.get("scopes"), wanted.get("lifetime"), wanted.get("note", ""))
        return {"key": key, **self.row(record)}

    def rotate(self, name: str, overlap: float | None) -> dict[str, Any]:
        record, key = self.owned().rotate(name, overlap)
        return {"key": key, **self.row(record), "replaces": name}

    def revoke(self, name: str) -> dict[str, Any]:
        return self.row(self.owned().revoke(name))

    async def used(self, most: int) -> list[tuple[str, str, int]]:
        found: list[tuple[str, str, int]] = await self.run(lambda: self.uses(most))
        return found

    def uses(self, most: int) -> list[tuple[str, str, int]]:
        """(consumer, id, uses) of keys that were used; beyond `most` all others together, as `other`."""
        try:
            rows = [(row["consumer"], row["id"], row["uses"]) for row in self.rows(False) if row["uses"]]
        except KeyProblem:
            return []
        rows.sort(key=lambda row: -row[2])
        rest = sum(count for *_, count in rows[most:]) + self.usage.other[0]
        return [*rows[:most], *([("other", "other", rest)] if rest else [])]


def ended(key: ConsumerKey) -> str:
    return "expired" if key.expires is not None and key.expires <= now() else "active"
