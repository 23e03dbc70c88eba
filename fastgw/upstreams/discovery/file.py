"""Endpoints in a file, YAML or JSON, looked at again and again.

    [http://10.0.0.1:80, {url: http://10.0.0.2:80, weight: 2, zone: a, labels: {rack: "4"}}]

or a mapping of such lists by the service's name, also below a key `services`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

import orjson

from fastgw.config.text import parse
from fastgw.upstreams.discovery.base import MAX_ANSWER, Alive, Found, Seen, Source, SourceError

KEYS = {"url", "weight", "zone", "labels"}


class FileSource(Source):
    def __str__(self) -> str:
        return f"file {self.options.path}"

    async def run(self, seen: Seen, alive: Alive) -> None:
        loop = asyncio.get_running_loop()
        before: tuple[int, ...] | None = None
        while True:
            now, found = await loop.run_in_executor(None, self.look, before)
            if found is None:
                alive()
            else:
                seen(found)
            before = now
            await asyncio.sleep(self.options.interval)

    def look(self, before: tuple[int, ...] | None) -> tuple[tuple[int, ...], list[Found] | None]:
        """The file's marks, and what is in it when these are others than before."""
        path = str(self.options.path)
        try:
            with open(path, "rb") as file:
                # of what was opened: a file that is replaced meanwhile is seen the next time
                facts = os.fstat(file.fileno())
                marks = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
                if marks == before:
                    return marks, None
                text = file.read(MAX_ANSWER + 1)
        except OSError as error:
            raise SourceError(f"it cannot be read: {error.strerror}") from None
        if len(text) > MAX_ANSWER:
            raise SourceError(f"it is longer than {MAX_ANSWER} bytes")
        return marks, self.read(self.parse(text))

    def parse(self, text: bytes) -> Any:
        """By the reader of configurations: its nesting and its aliases are bounded."""
        if text.lstrip()[:1] in (b"[", b"{"):
            with contextlib.suppress(ValueError):
                return orjson.loads(text)
        try:
            document = parse(text.decode("utf-8-sig"), self.name, {})
        except UnicodeDecodeError:
            raise SourceError("it is not UTF-8") from None
        if document.findings:
            first = document.findings[0]
            line = f", line {first.mark[0]}" if first.mark else ""
            raise SourceError(f"it is not YAML{line}: {first.message}")
        return document.data

    def read(self, data: Any) -> list[Found]:
        if isinstance(data, dict):
            data = data.get("services", data)
        if isinstance(data, dict):
            if self.name not in data:
                raise SourceError(f"it has no service {self.name!r}")
            data = data[self.name]
            if isinstance(data, dict):
                data = data.get("endpoints")
        if not isinstance(data, list):
            raise SourceError("it has no list of endpoints")
        return [self.one(item) for item in data]

    def one(self, item: Any) -> Found:
        if isinstance(item, str):
            return self.at(item)
        if not isinstance(item, dict) or not isinstance(item.get("url"), str) or item.keys() - KEYS:
            raise SourceError("an endpoint is neither a URL nor {url, weight, zone, labels}")
        labels = item.get("labels")
        if labels is not None and not isinstance(labels, dict):
            raise SourceError("the labels of an endpoint are no mapping")
        return self.at(item["url"], item.get("weight", 1), item.get("zone"), labels)
