"""API keys that are managed while the gateway runs: the file they are kept in, and what may be done with them.

One process owns the file, the agent; each change is a whole new file in the place of the old one. Workers read it when
they are born, and are told of changes. A key is 256 random bits: its SHA-256 is safe to keep, no salt and no slow
hash would make it safer (those are for passwords, which people choose).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from fastgw.config.schema.consumers import ApiKeys, parse_key_hash, parse_moment, parse_scope

MAX_FILE = 64 * 1024 * 1024
MAX_NOTE = 200
KEPT = timedelta(days=30)
"""How long keys that ended are still told of."""
LAST = 9e9
"""Seconds since 1970: the year 2255. Later ones do not fit into 64 bits of nanoseconds."""

Managed = tuple[str, str, tuple[str, ...] | None, int]
Changed = Callable[[Mapping[bytes, Managed], Iterable[bytes]], None]
Stamp = tuple[int, int, int]


class KeyProblem(Exception):
    """What cannot be done with a key; `status` and `code` are for the answer of the admin API."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code


@dataclass(slots=True)
class Record:
    """One key of the file. `shown` is its beginning, by which its owner knows it."""

    id: str
    consumer: str
    hash: str
    shown: str
    created: str
    expires: str | None = None
    scopes: list[str] | None = None
    note: str = ""
    revoked: str | None = None
    replaced_by: str | None = None

    @property
    def ended(self) -> datetime | None:
        dates = [parse_moment(date) for date in (self.revoked, self.expires) if date is not None]
        return min(dates, default=None)

    @property
    def state(self) -> str:
        if self.revoked is not None:
            return "revoked"
        if self.expires is not None and parse_moment(self.expires) <= now():
            return "expired"
        return "replaced" if self.replaced_by is not None else "active"

    @property
    def digest(self) -> bytes:
        return bytes.fromhex(self.hash)

    @property
    def managed(self) -> Managed:
        until = 0 if self.expires is None else int(min(parse_moment(self.expires).timestamp(), LAST) * 1e9)
        return self.id, self.consumer, None if self.scopes is None else tuple(self.scopes), until


def now() -> datetime:
    return datetime.now(UTC)


def written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def checked(item: Any) -> Record:
    """ValueError, TypeError or KeyError for what is no record."""
    record = Record(**item)
    for text in (record.id, record.consumer, record.shown, record.created, record.note):
        if not isinstance(text, str) or len(text) > 1000:
            raise ValueError("a text of a key")
    record.hash = parse_key_hash("sha256:" + record.hash)
    for date in (record.created, record.expires, record.revoked):
        if date is not None:
            parse_moment(date)
    if record.scopes is not None:
        record.scopes = [parse_scope(scope) for scope in record.scopes]
    return record


def read(path: str) -> tuple[dict[str, Record], Stamp | None]:
    """What the file holds, and its stamp; nothing when there is none. OSError and ValueError when it cannot be used."""
    try:
        with open(path, "rb") as stream:
            facts = os.fstat(stream.fileno())
            raw = stream.read(MAX_FILE + 1)
    except FileNotFoundError:
        return {}, None
    if len(raw) > MAX_FILE:
        raise ValueError(f"{path} is larger than {MAX_FILE} bytes")
    try:
        found = orjson.loads(raw)
        if found["version"] != 1:
            raise ValueError("another version")
        records = [checked(item) for item in found["keys"]]
    except (ValueError, TypeError, KeyError, AttributeError):
        # nothing of the file is quoted
        raise ValueError(f"{path} is not a file of API keys") from None
    return {record.id: record for record in records}, (facts.st_mtime_ns, facts.st_size, facts.st_ino)


def usable(records: Mapping[str, Record]) -> dict[bytes, Managed]:
    """What a KeyTable takes. Keys that are over stay in it, so that they are refused as what they are."""
    return {record.digest: record.managed for record in records.values() if record.revoked is None}


class KeyBook:
    """Where managed keys are. `changed(put, drop)` is called after each change that was written, or found."""

    def __init__(self, settings: ApiKeys, changed: Changed) -> None:
        self.settings = settings
        self.changed = changed
        self.records: dict[str, Record] = {}

    def look(self) -> None:
        """Takes what somebody else has changed. KeyProblem when it cannot be read."""
        raise NotImplementedError

    def write(self, records: dict[str, Record]) -> None:
        """All of it, or nothing. KeyProblem when it cannot be written."""
        raise NotImplementedError

    def new(self, consumer: str, scopes: list[str] | None, expires: datetime | None, note: str) -> tuple[Record, str]:
        name = secrets.token_hex(4)
        while any(record.id == name for record in self.records.values()):
            name = secrets.token_hex(4)
        key = f"{self.settings.prefix}_{name}_{secrets.token_urlsafe(32)}"
        digest = hashlib.sha256(key.encode()).hexdigest()
        shown = f"{self.settings.prefix}_{name}_…"
        when = None if expires is None else written(expires)
        return Record(name, consumer, digest, shown, written(now()), when, scopes, note), key

    def kept(self) -> dict[str, Record]:
        oldest = now() - KEPT
        return {name: one for name, one in self.records.items() if one.ended is None or one.ended > oldest}

    def create(
        self, consumer: str, scopes: list[str] | None, lifetime: float | None, note: str
    ) -> tuple[Record, str]:
        """The record, and the key, which nobody can tell a second time."""
        self.look()
        records = self.kept()
        if len(records) >= self.settings.max_keys:
            raise KeyProblem(409, "too_many_keys", f"There are {len(records)} keys (api_keys.max_keys).")
        lifetime = self.settings.lifetime if lifetime is None else lifetime
        expires = None if lifetime is None else now() + timedelta(seconds=lifetime)
        record, key = self.new(consumer, scopes, expires, note)
        records[record.id] = record
        self.write(records)
        self.changed({record.digest: record.managed}, ())
        return record, key

    def get(self, name: str) -> Record:
        self.look()
        record = self.records.get(name)
        if record is None:
            raise KeyProblem(404, "unknown_key", f"There is no managed key {name[:100]!r}.")
        return record

    def rotate(self, name: str, overlap: float | None) -> tuple[Record, str]:
        """A new key like the old one, which holds for `overlap` seconds more, and not longer than it would have."""
        old = self.get(name)
        if old.state != "active":
            raise KeyProblem(409, "key_not_active", f"The key {name} is {old.state}.")
        if len(self.records) >= self.settings.max_keys:
            raise KeyProblem(409, "too_many_keys", f"There are {len(self.records)} keys (api_keys.max_keys).")
        end = now() + timedelta(seconds=self.settings.overlap if overlap is None else overlap)
        expires = None
        if old.expires is not None:                   # it lives as long as the old one was meant to
            was = parse_moment(old.expires)
            expires = now() + (was - parse_moment(old.created))
            end = min(end, was)
        record, key = self.new(old.consumer, old.scopes, expires, old.note)
        records = self.kept()
        ends = Record(**{**asdict(old), "expires": written(end), "replaced_by": record.id})
        records[name], records[record.id] = ends, record
        self.write(records)
        self.changed({record.digest: record.managed, ends.digest: ends.managed}, ())
        return record, key

    def revoke(self, name: str) -> Record:
        old = self.get(name)
        if old.revoked is None:
            ended = Record(**{**asdict(old), "revoked": written(now())})
            self.write({**self.kept(), name: ended})
            self.changed({}, [ended.digest])
            return ended
        return old


class KeyFile(KeyBook):
    """The file of `api_keys.file`."""

    def __init__(self, settings: ApiKeys, changed: Changed) -> None:
        super().__init__(settings, changed)
        assert settings.file is not None
        self.path = settings.file
        self.stamp: Stamp | None = None
        self.looked = False

    def look(self) -> None:
        """Reads the file if somebody else has changed it. KeyProblem when it cannot be used."""
        try:
            with contextlib.suppress(FileNotFoundError):
                facts = os.stat(self.path)
                if (facts.st_mtime_ns, facts.st_size, facts.st_ino) == self.stamp:
                    return
            before = usable(self.records)
            self.records, self.stamp = read(self.path)
        except (OSError, ValueError) as error:
            raise KeyProblem(503, "keys_unreadable", f"The file of API keys cannot be read: {error}") from None
        self.looked = True
        after = usable(self.records)
        if after != before:
            self.changed(after, before.keys() - after.keys())

    def write(self, records: dict[str, Record]) -> None:
        """All of it, or nothing. KeyProblem when it cannot be written."""
        data = orjson.dumps(
            {"version": 1, "keys": [asdict(record) for record in records.values()]}, option=orjson.OPT_INDENT_2
        )
        aside = f"{self.path}.{os.getpid()}.new"
        try:
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(fd)
            os.rename(aside, self.path)
            folder = os.open(os.path.dirname(self.path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            facts = os.stat(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise KeyProblem(503, "keys_unwritable", f"{self.path} cannot be written: {error.strerror}") from None
        self.records, self.stamp = records, (facts.st_mtime_ns, facts.st_size, facts.st_ino)
