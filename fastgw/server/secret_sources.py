"""Secrets that Vault or Kubernetes keep: read when a configuration is checked, and asked for again in the background.

What was read stays in the memory of the processes that check configurations: when its keeper is not there, a reload
goes on with the last good value. Nothing of it is written anywhere, or shown.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastgw.config.schema.secrets import Secrets
from fastgw.config.secret_refs import DocumentKey, SecretRef, Unreachable, Unreadable
from fastgw.upstreams.discovery.base import SourceError
from fastgw.upstreams.secrets import Provider, open_provider

logger = logging.getLogger("fastgw.server")

T = TypeVar("T")
MAX_DOCUMENTS = 1000
FRESH_SECONDS = 60.0
FIRST_PAUSE = 2.0

Refs = tuple[tuple[SecretRef, bytes | None], ...]


@dataclass(slots=True)
class Document:
    """`asked`: by who looks after it in the background, not only when a configuration was checked."""

    fields: Mapping[str, Any] = field(repr=False)
    confirmed: float
    asked: bool = False


@dataclass(frozen=True, slots=True)
class SecretState:
    """For metrics. `age`: seconds since it was last read; None when it never was."""

    source: str
    secret: str
    age: float | None
    failures: int


class SecretSources:
    """What was read. One per tree of processes: who is forked has a copy."""

    def __init__(self) -> None:
        self.salt = os.urandom(32)
        self.documents: dict[DocumentKey, Document] = {}
        self.providers: dict[Any, Provider] = {}
        self.failures: Counter[DocumentKey] = Counter()
        self.watched: frozenset[SecretRef] = frozenset()
        self.next = 0.0
        self.pause = FIRST_PAUSE
        self.told = False

    def reader(self) -> SecretReader:
        """For one check."""
        return SecretReader(self)

    def stamp(self, text: str) -> bytes:
        """Two texts have the same stamp when they are the same. Without the salt it says nothing about the text."""
        return hashlib.blake2b(text.encode(), key=self.salt, digest_size=16).digest()

    def text(self, ref: SecretRef, document: Document) -> str:
        value = document.fields.get(ref.field)
        if value is None:
            raise Unreadable(f"it has no field {ref.field!r}")
        if not isinstance(value, str):
            raise Unreadable(f"its field {ref.field!r} is not text")
        return value

    async def fetch(self, key: DocumentKey, room: Secrets | None) -> Document:
        options = getattr(room, key.source, None)
        if options is None:
            raise Unreadable(f"there is no `secrets.{key.source}` that says where it is")
        provider = self.providers.get(options)
        if provider is None:
            self.providers = {known: one for known, one in self.providers.items() if type(known) is not type(options)}
            provider = self.providers[options] = open_provider(key.source, options)
        try:
            async with asyncio.timeout(4 * options.timeout):
                fields = await provider.read(key.path, key.version)
        except TimeoutError:
            raise Unreachable(f"no answer in {4 * options.timeout:g} s") from None
        except (SourceError, OSError) as error:
            raise Unreachable(str(error) or type(error).__name__) from None
        return Document(fields, time.monotonic())

    # ------------------------------------------------------------------ in the background

    async def look(self, room: Secrets, refs: Refs) -> bool:
        """Asks for what is due. True when something is not what these references told of when they were read."""
        wanted = {ref.document: [other for other, _ in refs if other.document == ref.document] for ref, _ in refs}
        watched = frozenset(ref for ref, _ in refs)
        if not watched <= self.watched:
            self.next = 0.0                          # somebody is new
        self.watched = watched
        self.documents = {key: document for key, document in self.documents.items() if key in wanted}
        if time.monotonic() >= self.next:
            failed = [key for key, users in wanted.items() if not await self.renew(key, users, room)]
            self.pause = min(self.pause * 2, room.refresh) if failed else FIRST_PAUSE
            self.next = time.monotonic() + (self.pause if failed else room.refresh) * random.uniform(0.9, 1.0)
            if not failed:
                self.told = False
        return any(self.changed(ref, stamp) for ref, stamp in refs)

    async def renew(self, key: DocumentKey, users: Iterable[SecretRef], room: Secrets) -> bool:
        try:
            document = await self.fetch(key, room)
            for ref in users:
                self.text(ref, document)
        except (Unreadable, Unreachable) as error:
            self.failures[key] += 1
            if not self.told:
                logger.error("%s cannot be read, its last value stays: %s", key, error)
            self.told = True
            return False
        document.asked = True
        self.documents[key] = document
        return True

    def changed(self, ref: SecretRef, stamp: bytes | None) -> bool:
        document = self.documents.get(ref.document)
        if document is None or not document.asked:
            return False
        try:
            return self.stamp(self.text(ref, document)) != stamp
        except Unreadable:
            return False                             # a field that is new: it is asked for in its turn

    def stamps(self, refs: Refs) -> tuple[bytes | None, ...]:
        """What these references say now, as far as it is known."""
        found = ((ref, self.documents.get(ref.document)) for ref, _ in refs)
        return tuple(
            self.stamp(text) if known and isinstance(text := known.fields.get(ref.field), str) else None
            for ref, known in found
        )

    def states(self) -> list[SecretState]:
        now = time.monotonic()
        return [
            SecretState(
                key.source, str(key).partition(":")[2],
                now - self.documents[key].confirmed if key in self.documents else None, self.failures[key],
            )
            for key in sorted({ref.document for ref in self.watched})
        ]  # fmt: skip


class SecretReader:
    """Reads for one check: each document once, and from somebody who did not answer nothing more."""

    def __init__(self, sources: SecretSources) -> None:
        self.sources = sources
        self.read_now: dict[DocumentKey, Document | Unreadable] = {}
        self.down: dict[str, Unreachable] = {}

    def read(self, ref: SecretRef, room: Secrets | None) -> tuple[str, bytes, str]:
        sources, key = self.sources, ref.document
        if key not in self.read_now and key.source not in self.down:
            if len(self.read_now) >= MAX_DOCUMENTS:
                raise Unreadable(f"more than {MAX_DOCUMENTS} secrets are read from elsewhere")
            try:
                document = run_now(sources.fetch(key, room))
                before = sources.documents.get(key)
                document.asked = before is not None and before.asked
                self.read_now[key] = sources.documents[key] = document
            except Unreadable as error:
                self.read_now[key] = error
            except Unreachable as error:
                self.down[key.source] = error
        found = self.read_now.get(key)
        if isinstance(found, Unreadable):
            raise Unreadable(*found.args)
        warning = ""
        if found is None:
            known = sources.documents.get(key)
            # What nobody has looked after for long may be older than what is in force.
            if known is None or not (known.asked or time.monotonic() - known.confirmed < FRESH_SECONDS):
                raise Unreachable(*self.down[key.source].args)
            found = known
            warning = f"{self.down[key.source]}; its last value is used"
        text = sources.text(ref, found)
        return text, sources.stamp(text), warning


def run_now(work: Coroutine[Any, Any, T]) -> T:
    """Blocks until it is done, in a loop and a thread of its own: the caller may be within a loop that runs."""
    with ThreadPoolExecutor(1, "fastgw-secrets") as pool:
        return pool.submit(asyncio.run, work).result()


SOURCES = SecretSources()
"""Of this process, and of those that are forked from it."""
