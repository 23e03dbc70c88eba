"""The access log: one line per request, JSON or `combined`, written off the loop and never waited for.

The worker's loop collects plain values; a thread formats and writes them in batches. What waits is bounded: beyond
that lines are dropped, counted, and reported once per episode.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson

from fastgw._core.exchange import Exchange
from fastgw.config.schema.observe import AccessLog as AccessLogConfig

logger = logging.getLogger("fastgw.access_log")

CAPACITY = 100_000
BATCH = 2_000
INTERVAL = 0.1
ATOMIC = select.PIPE_BUF
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
MODE = 0o640

Row = tuple[Any, ...]


def millis(ns: int) -> float:
    return round(ns / 1e6, 3)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


GETTERS: dict[str, Callable[[Any], Any]] = {
    "time": lambda ex: time.time(),
    "method": lambda ex: ex.method,
    "host": lambda ex: ex.host,
    "path": lambda ex: ex.path,
    "protocol": lambda ex: ex.protocol,
    "client": lambda ex: ex.client_ip,
    "request_id": lambda ex: ex.id,
    "trace_id": lambda ex: ex.trace_id,
    "route": lambda ex: ex.route_name,
    "service": lambda ex: ex.service_name,
    "endpoint": lambda ex: ex.endpoint_name,
    "consumer": lambda ex: ex.consumer.name if ex.consumer is not None else None,
    "status": lambda ex: ex.status,
    "code": lambda ex: ex.code,
    "side": lambda ex: ex.side_name or None,
    "bytes_in": lambda ex: ex.bytes_in,
    "bytes_out": lambda ex: ex.bytes_out,
    "total_ms": lambda ex: ex.total_ns,
    "upstream_ms": lambda ex: ex.upstream_ns,
    "gateway_ms": lambda ex: ex.gateway_ns,
    "user_agent": lambda ex: ex.user_agent,
    "referer": lambda ex: ex.request.get("referer"),
}
DURATIONS = frozenset({"total_ms", "upstream_ms", "gateway_ms"})
COMBINED = (
    "time", "method", "path", "query", "protocol", "client", "consumer", "status", "bytes_out", "referer", "user_agent",
)  # fmt: skip
UNSAFE = re.compile(r'[\x00-\x1f"\\\x7f-\xff]')


def escape(text: str) -> str:
    """No quote, backslash or control character of a client ends up in a line as it is."""
    return UNSAFE.sub(lambda found: f"\\x{ord(found[0]):02X}", text)


def probe(settings: AccessLogConfig) -> None:
    """OSError when the file cannot be opened: better told before anything serves."""
    if settings.enabled and settings.path != "stdout":
        os.close(os.open(settings.path, FLAGS, MODE))


Recorded = dict[str, str | list[str] | None]


def as_recorded(values: list[str]) -> str | list[str] | None:
    """One value as it is, several as a list: the router looks at each."""
    return values[0] if len(values) == 1 else values or None


def recorded_headers(names: tuple[str, ...], ex: Any) -> Recorded:
    """What routes match on."""
    return {name: as_recorded(ex.request.get_all(name)) for name in names}


def recorded_cookies(names: tuple[str, ...], ex: Any) -> Recorded:
    found: dict[str, list[str]] = {}
    for line in ex.request.get_all("cookie"):
        for part in line.split(";"):
            name, _, value = part.strip().partition("=")
            if name in names:
                found.setdefault(name, []).append(value)
    return {name: as_recorded(found.get(name, [])) for name in names}


class AccessLog:
    """`log(exchange)` after each exchange. `close()` writes what waits."""

    def __init__(
        self,
        path: str = "stdout",
        format: str = "json",
        fields: Sequence[str] | None = None,
        capacity: int = CAPACITY,
        headers: Sequence[str] = (),
        cookies: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.format = format
        self.fields = tuple(fields) if fields is not None else tuple(GETTERS)
        names = COMBINED if format == "combined" else self.fields
        if format == "json":
            names = (*names, *(["headers"] if headers else []), *(["cookies"] if cookies else []))
        getters: dict[str, Callable[[Any], Any]] = {
            **GETTERS,
            "query": lambda ex: ex.query,
            "hedge": lambda ex: ex.hedge_name,
            "fallback": lambda ex: ex.fallback,
            "cache": lambda ex: ex.cache_result,
            "headers": partial(recorded_headers, tuple(headers)),
            "cookies": partial(recorded_cookies, tuple(cookies)),
        }
        self._get: list[Callable[[Any], Any]] = [getters[name] for name in names]
        self._names = names
        self._rows: list[Row] = []
        # lines taken by the loop and lines dealt with by the thread: each has one writer, no update can be lost
        self._taken = 0
        self._done = 0
        self._capacity = capacity
        self._in_episode = False
        self.dropped = 0
        self._queue: queue.SimpleQueue[list[Row] | None] = queue.SimpleQueue()
        self._reopen = threading.Event()
        self._fd = -1
        self._open()
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def __call__(self, exchange: Exchange) -> None:
        if self._taken - self._done >= self._capacity:
            self._drop()
            return
        self._rows.append(tuple([get(exchange) for get in self._get]))
        self._taken += 1
        if len(self._rows) >= BATCH:
            self.flush()

    def _drop(self) -> None:
        self.dropped += 1
        if not self._in_episode:
            self._in_episode = True
            logger.warning("the access log cannot be written fast enough; lines are dropped")

    def flush(self) -> None:
        """Hands what was collected to the writer; called by the loop every INTERVAL seconds, and when full."""
        if self._rows:
            rows, self._rows = self._rows, []
            self._queue.put(rows)
        elif self._in_episode and self._taken - self._done < self._capacity // 2:
            self._in_episode = False
            logger.warning("the access log is being written again; %d lines were dropped so far", self.dropped)

    def reopen(self) -> None:
        """After the file was moved (SIGUSR1): the next lines go to a new one."""
        self._reopen.set()
        self._queue.put([])

    def close(self, wait: float = 5.0) -> None:
        """What was taken is still written; returns when that is done, or after `wait` seconds."""
        if not self._closed:
            self._closed = True
            self.flush()
            self._queue.put(None)
            self._thread.join(wait)

    # ------------------------------------------------------------------ the writer's thread

    def _open(self) -> None:
        old = self._fd
        if self.path == "stdout":
            self._fd = sys.__stdout__.fileno() if sys.__stdout__ is not None else 1
            return
        self._fd = os.open(self.path, FLAGS, MODE)
        if old > 2:
            os.close(old)

    def _run(self) -> None:
        while True:
            rows = self._queue.get()
            if rows is None:
                if self._fd > 2:
                    os.close(self._fd)
                return
            if self._reopen.is_set():
                self._reopen.clear()
                try:
                    self._open()
                except OSError as error:
                    logger.error("the access log %s cannot be opened again: %s", self.path, error.strerror)
            try:
                for piece in self.pieces(rows):
                    self._write(piece)
            except OSError as error:
                self.dropped += len(rows)
                logger.error("the access log cannot be written: %s", error.strerror)
            self._done += len(rows)

    def pieces(self, rows: list[Row]) -> Iterator[bytes]:
        """Whole lines in writes of at most ATOMIC bytes: the lines of several workers on one pipe do not mix."""
        piece: list[bytes] = []
        size = 0
        for row in rows:
            line = self.line(row)
            if size + len(line) > ATOMIC and piece:
                yield b"".join(piece)
                piece, size = [], 0
            piece.append(line)
            size += len(line)
        yield b"".join(piece)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def line(self, row: Row) -> bytes:
        if self.format == "combined":
            return self._combined(row)
        record = dict(zip(self._names, row, strict=True))
        for name in DURATIONS & record.keys():
            record[name] = millis(record[name])
        if "time" in record:
            stamp = datetime.fromtimestamp(record["time"], UTC)
            record["time"] = stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return orjson.dumps(record) + b"\n"

    def _combined(self, row: Row) -> bytes:
        values = dict(zip(self._names, row, strict=True))
        stamp = datetime.fromtimestamp(values["time"], UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
        target = values["path"] + ("?" + values["query"] if values["query"] else "")
        text = (
            f"{values['client'] or '-'} - {escape(values['consumer'] or '-')} [{stamp}] "
            f'"{values["method"]} {escape(target)} {values["protocol"]}" {values["status"]} {values["bytes_out"]} '
            f'"{escape(values["referer"] or "-")}" "{escape(values["user_agent"] or "-")}"\n'
        )
        return text.encode()
