"""What differs between the live answer and that of the shadow: found, counted by kind, ranked.

A difference is reduced to its kind: the statuses of both, the part of the answer, a header's name or a JSON path (items
of a list are `*`), and what is different about it. Kinds are counted, with a few examples: values cut short, none of
credentials. All is bounded. It runs in the worker's loop after both exchanges are over, in slices of half a
millisecond, and for at most a twentieth of the time: what does not fit is counted as `busy`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from fastgw.policies.base import Shared

logger = logging.getLogger("fastgw.mirror")

Told = tuple[int, int, bytes, bytes | None]
"""An answer: status, grpc-status or -1, header lines, body or None where it is not all here."""

CREDENTIALS = [
    "authorization", "proxy-authorization", "cookie", "x-api-key", "x-auth-token", "x-access-token", "x-csrf-token",
]  # fmt: skip
ALWAYS_IGNORED = frozenset(
    (
        "date", "age", "server", "via", "connection", "keep-alive", "transfer-encoding", "content-length", "trailer",
        "x-request-id", "request-id", "x-correlation-id", "traceparent", "tracestate", "server-timing",
        "x-response-time", "x-runtime", "grpc-status", "grpc-message",
    )
)  # fmt: skip
"""Headers that differ by nature, or say again what is compared anyway."""
SECRET = re.compile(
    r"auth|cookie|passw|passphrase|secret|token|credential|api[_-]?key|session|signature|csrf|otp\b", re.IGNORECASE
)
MASK = "***"
PENDING = 64
"""Comparisons that wait; each holds two answers."""
SLICE = 0.0005
"""Seconds of comparing at a time, about."""
WAITS = 19
"""A slice is followed by a pause of so many times what it took."""
TICK = 200
"""Nodes of a JSON value: some tens of microseconds."""
MAX_KINDS = 300
"""Of a route and a service."""
MAX_REPORTS = 1000
MAX_FOUND = 50
"""Differences of one pair of answers."""
MAX_NODES = 20_000
MAX_DEPTH = 64
MAX_NAME = 200
MAX_VALUE = 80
MAX_DECODED = 1024 * 1024
Kind = tuple[str, str, str, str]
"""(statuses, part, name or path, what)"""
OUTCOMES = ("equal", "different", "live_failed", "shadow_failed", "busy")


class Difference(NamedTuple):
    part: str
    name: str
    what: str
    live: Any
    shadow: Any


@dataclass(frozen=True, slots=True)
class Rules:
    """`compare:` as it is asked."""

    status: bool
    headers: bool
    only: frozenset[str]
    ignored: frozenset[str]
    body: str
    pointers: tuple[tuple[str, ...], ...]
    examples: int

    @classmethod
    def of(cls, options: Any) -> Rules:
        """From the checked options, `mirror.Compare`."""
        return cls(
            options.status,
            options.headers,
            frozenset(name.lower() for name in options.only_headers),
            ALWAYS_IGNORED | {name.lower() for name in options.ignore_headers},
            options.body,
            tuple(
                tuple(part.replace("~1", "/").replace("~0", "~") for part in one[1:].split("/"))
                for one in options.ignore
            ),
            options.examples,
        )

    def compares(self, header: str) -> bool:
        return header in self.only if self.only else header not in self.ignored


# ---------------------------------------------------------------------- what differs


def headers_of(lines: bytes) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower(), []).append(value.strip())
    return found


def decoded(body: bytes, coding: str) -> bytes | None:
    """Without its Content-Encoding; None where that is not known, broken, or too large."""
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        return None
    try:
        reader = zlib.decompressobj(47)                 # the header tells gzip from zlib
        text = reader.decompress(body, MAX_DECODED)
    except zlib.error:
        return None
    return text if reader.eof else None


def is_json(headers: Mapping[str, list[str]]) -> bool:
    kind = headers.get("content-type", [""])[0].partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def kind_of(value: Any) -> str:
    return "null" if value is None else {dict: "object", list: "array", str: "text", bool: "true or false"}.get(
        type(value), "number"
    )


class Walk:
    """The differences of two JSON values, and None now and then, where a pause may be made; stops after MAX_NODES."""

    def __init__(self, pointers: Iterable[tuple[str, ...]]) -> None:
        self.pointers = tuple(pointers)
        self.nodes = 0

    def __call__(self, live: Any, shadow: Any, path: tuple[str, ...] = ()) -> Iterator[Difference | None]:
        self.nodes += 1
        if self.nodes % TICK == 0:
            yield None
        if self.nodes > MAX_NODES or len(path) > MAX_DEPTH or self.ignored(path):
            return
        if type(live) is not type(shadow) and not (is_number(live) and is_number(shadow)):
            yield Difference("body", named(path), f"{kind_of(live)} became {kind_of(shadow)}", live, shadow)
        elif isinstance(live, dict):
            for name in live.keys() | shadow.keys():
                yield from self.member(live, shadow, name, (*path, name))
        elif isinstance(live, list):
            if len(live) != len(shadow):
                yield Difference("body", named(path), "another length", len(live), len(shadow))
            for one, other in zip(live, shadow, strict=False):
                yield from self(one, other, (*path, "*"))
        elif live != shadow:
            yield Difference("body", named(path), "another value", live, shadow)

    def member(
        self, live: dict[str, Any], shadow: dict[str, Any], name: str, path: tuple[str, ...]
    ) -> Iterator[Difference | None]:
        if name in live and name in shadow:
            yield from self(live[name], shadow[name], path)
        elif not self.ignored(path):
            what = "missing" if name in live else "added"
            yield Difference("body", named(path), what, live.get(name), shadow.get(name))

    def ignored(self, path: tuple[str, ...]) -> bool:
        return any(
            len(pointer) == len(path)
            and all(
                want in ("*", part) or (part == "*" and want.isdigit())
                for want, part in zip(pointer, path, strict=True)
            )
            for pointer in self.pointers
        )


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def named(path: tuple[str, ...]) -> str:
    """RFC 6901, with `*` for the items of a list."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path) or "/"


def differences(rules: Rules, live: Told, shadow: Told) -> Iterator[Difference | None]:
    """In the order status, headers, body; None where a pause may be made."""
    if rules.status and live[:2] != shadow[:2]:
        yield Difference("status", "", "another status", status_of(live), status_of(shadow))
    ours, theirs = headers_of(live[2]), headers_of(shadow[2])
    if rules.headers:
        for name in sorted(ours.keys() | theirs.keys()):
            if rules.compares(name) and ours.get(name) != theirs.get(name):
                what = "added" if name not in ours else "missing" if name not in theirs else "another value"
                yield Difference("header", name, what, ours.get(name), theirs.get(name))
    if rules.body == "none" or live[3] is None or shadow[3] is None:
        return
    one = decoded(live[3], ", ".join(ours.get("content-encoding", [])).lower())
    other = decoded(shadow[3], ", ".join(theirs.get("content-encoding", [])).lower())
    if one is None or other is None:
        one, other = live[3], shadow[3]
    elif rules.body == "json" and one != other and is_json(ours) and is_json(theirs):
        parsed = [parse(text) for text in (one, other)]
        if None not in parsed:
            yield from Walk(rules.pointers)(parsed[0][0], parsed[1][0])      # type: ignore[index]
            return
    if one != other:
        what = "another length" if len(one) != len(other) else "other bytes"
        yield Difference("body", "", what, f"{len(one)} bytes", f"{len(other)} bytes")


def parse(text: bytes) -> tuple[Any] | None:
    try:
        return (orjson.loads(text),)
    except orjson.JSONDecodeError:
        return None


def status_of(told: Told) -> str:
    return str(told[0]) if told[1] < 0 else f"{told[0]} grpc {told[1]}"


# ---------------------------------------------------------------------- what is kept


def short(value: Any, secret: bool) -> str | None:
    """A value for an example."""
    if value is None:
        return None
    if secret:
        return MASK
    if isinstance(value, (dict, list)) and not all(isinstance(one, str) for one in value):
        return f"{kind_of(value)} of {len(value)}"
    if isinstance(value, dict):
        return f"object of {len(value)}"
    text = ", ".join(value) if isinstance(value, list) else value if isinstance(value, str) else repr(value)
    return text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "…"


@dataclass(slots=True)
class Seen:
    """One kind of difference."""

    count: int = 0
    first: float = 0.0
    last: float = 0.0
    examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """Of one route and one service, in one worker. Times are seconds since the epoch."""

    since: float = field(default_factory=time.time)
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    kinds: dict[Kind, Seen] = field(default_factory=dict)
    unlisted: int = 0
    """Differences of kinds beyond MAX_KINDS."""

    def add(self, statuses: str, what: tuple[str, str, str], found: Difference, examples: int) -> None:
        name = found.name[:MAX_NAME]
        key = (statuses, found.part, name, found.what)
        seen = self.kinds.get(key)
        now = time.time()
        if seen is None:
            if len(self.kinds) >= MAX_KINDS:
                self.unlisted += 1
                return
            seen = self.kinds[key] = Seen(first=now)
        seen.count += 1
        seen.last = now
        if len(seen.examples) < examples:
            secret = SECRET.search(found.name) is not None
            method, path, request = what
            seen.examples.append(
                {
                    "method": method,
                    "path": path[:MAX_NAME],
                    "request_id": request[:MAX_NAME],
                    "at": now,
                    "live": short(found.live, secret),
                    "shadow": short(found.shadow, secret),
                }
            )


Reports = dict[tuple[str, str], Report]
"""(route, service) → what was found."""


def reports_of(shared: Shared) -> Reports:
    """Those of this worker; they outlive plans."""
    found: Reports = shared.get_or_create("mirror reports", dict)
    return found


class Comparison:
    """What the native hook calls: `room()`, `skipped(…)`, `submit(…)`."""

    def __init__(self, rules: Rules, service: str, reports: Reports) -> None:
        self.rules = rules
        self.service = service
        self.reports = reports
        self.pending: deque[tuple[str, tuple[str, str, str], Told, Told]] = deque()
        self.running: Iterator[None] | None = None
        self.timer: asyncio.Handle | None = None

    def report(self, route: str) -> Report:
        found = self.reports.get((route, self.service))
        if found is None:
            found = Report()
            if len(self.reports) < MAX_REPORTS:
                self.reports[route, self.service] = found
        return found

    def room(self) -> bool:
        """False: this request is not to be compared."""
        return len(self.pending) < PENDING

    def skipped(self, route: str, why: str) -> None:
        self.report(route).outcomes[why if why == "busy" else f"{why}_failed"] += 1

    def submit(self, route: str, what: tuple[str, str, str], live: Told, shadow: Told) -> None:
        if not self.room():
            self.skipped(route, "busy")
            return
        self.pending.append((route, what, live, shadow))
        if self.timer is None:
            self.timer = asyncio.get_running_loop().call_soon(self.turn)

    def turn(self) -> None:
        """A slice of a comparison; then a pause."""
        begun = time.perf_counter()
        self.timer = None
        if self.running is None:
            self.running = self.steps(*self.pending.popleft())
        try:
            for _ in self.running:
                if time.perf_counter() - begun > SLICE:
                    break
            else:
                self.running = None
        except Exception:                               # the next one may be better
            logger.exception("the answers to a copied request could not be compared")
            self.running = None
        if self.running is not None or self.pending:
            pause = WAITS * (time.perf_counter() - begun)
            self.timer = asyncio.get_running_loop().call_later(pause, self.turn)

    def steps(self, route: str, what: tuple[str, str, str], live: Told, shadow: Told) -> Iterator[None]:
        """One comparison."""
        report = self.report(route)
        statuses = f"{status_of(live)} → {status_of(shadow)}"
        count = 0
        counted: set[tuple[str, str, str]] = set()
        for found in differences(self.rules, live, shadow):
            if found is None:
                yield
                continue
            # of a list of a thousand items that all differ alike this is one difference
            if found[:3] in counted:
                continue
            counted.add(found[:3])
            report.add(statuses, what, found, self.rules.examples)
            count += 1
            if count >= MAX_FOUND:
                break
        report.outcomes["different" if count else "equal"] += 1


# ---------------------------------------------------------------------- what is told


def merged(told: Iterable[Reports]) -> Reports:
    """Those of all workers together."""
    total: Reports = {}
    for reports in told:
        for key, one in reports.items():
            into = total.get(key)
            if into is None:
                into = total[key] = Report(since=one.since)
            into.since = min(into.since, one.since)
            into.unlisted += one.unlisted
            for outcome, count in one.outcomes.items():
                into.outcomes[outcome] += count
            for kind, seen in one.kinds.items():
                have = into.kinds.setdefault(kind, Seen(first=seen.first))
                have.count += seen.count
                have.first = min(have.first, seen.first)
                have.last = max(have.last, seen.last)
                have.examples = sorted([*have.examples, *seen.examples], key=lambda example: -example["at"])[:10]
    return total


def ranked(report: Report) -> list[dict[str, Any]]:
    """Kinds of differences for JSON, the most frequent first."""
    rows = [
        {
            "count": seen.count,
            "statuses": kind[0],
            "part": kind[1],
            "name": kind[2],
            "what": kind[3],
            "first": seen.first,
            "last": seen.last,
            "examples": seen.examples,
        }
        for kind, seen in report.kinds.items()
    ]
    return sorted(rows, key=lambda row: (-row["count"], row["part"], row["name"], row["what"]))
