"""Endpoints from etcd v3 by its JSON gateway: a range of keys, then a watch from the revision after it.

https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/ — each key below PREFIX + SERVICE + "/" is an endpoint; its value
is a URL, host:port, {"url": …, "weight": …, "zone": …, "labels": {…}}, or what etcd's own endpoint manager
writes: {"Op": 0, "Addr": "host:port", "Metadata": …}.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson

from fastgw.config.schema.address import parse_origin
from fastgw.upstreams.discovery.base import Alive, Found, Seen, Source, SourceError
from fastgw.upstreams.discovery.http import Call, refused

MAX_VALUE = 64 * 1024


class Behind(Exception):
    """The watch cannot go on from its revision (compaction): everything is read again."""


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


def after(prefix: bytes) -> bytes:
    """The first key that does not begin with this prefix: the `range_end` of etcd's ranges."""
    whole = prefix.rstrip(b"\xff")
    return whole[:-1] + bytes([whole[-1] + 1]) if whole else b"\0"


class EtcdSource(Source):
    def __init__(self, service: str, options: Any) -> None:
        super().__init__(service, options)
        address = options.address
        self.origin = parse_origin(address if "://" in address else f"http://{address}")
        self.prefix = f"{options.prefix}{self.name}/".encode()
        self.keys: dict[bytes, bytes] = {}
        self.token = options.token.reveal() if options.token is not None else ""

    def __str__(self) -> str:
        return f"etcd {self.origin}"

    def call(self, path: str, message: dict[str, Any]) -> Call:
        headers = {"Authorization": self.token} if self.token else {}
        return Call(
            self.origin, "POST", path, headers=headers, body=orjson.dumps(message), timeout=self.options.timeout,
            trust=self.trust(),
        )  # fmt: skip

    async def ask(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        async with self.call(path, message) as call:
            if call.status != 200:
                raise refused(call, path)
            return as_mapping(await call.text())

    async def run(self, seen: Seen, alive: Alive) -> None:
        if self.options.user is not None and self.options.password is not None:
            who = {"name": self.options.user, "password": self.options.password.reveal()}
            self.token = str((await self.ask("/v3/auth/authenticate", who)).get("token", ""))
        while True:
            revision = await self.read_all()
            seen(self.endpoints())
            try:
                await self.watch(revision, seen)
            except Behind:
                continue

    async def read_all(self) -> int:
        """The keys as they are now; the revision they are of."""
        most = self.options.max_endpoints + 1
        question = {"key": encoded(self.prefix), "range_end": encoded(after(self.prefix)), "limit": most}
        answer = await self.ask("/v3/kv/range", question)
        self.keys = {}
        for pair in items(answer, "kvs"):
            self.keys[decoded(pair, "key")] = decoded(pair, "value")
        return number(answer, "revision")

    async def watch(self, revision: int, seen: Seen) -> None:
        """Follows what changes for `refresh` seconds; then all is read again, whatever may have been lost."""
        create = {
            "key": encoded(self.prefix),
            "range_end": encoded(after(self.prefix)),
            "start_revision": revision + 1,
        }
        async with self.call("/v3/watch", {"create_request": create}) as call:
            if call.status != 200:
                raise refused(call, "/v3/watch")
            async for line in call.lines(self.options.interval):
                message = as_mapping(line)
                if "error" in message:
                    raise SourceError("the watch failed")
                result = message.get("result")
                if not isinstance(result, dict):
                    raise SourceError("the watch told something that is no event")
                if result.get("canceled"):
                    raise Behind
                if self.apply(items(result, "events")):
                    seen(self.endpoints())

    def apply(self, events: list[dict[str, Any]]) -> bool:
        for event in events:
            pair = event.get("kv")
            if not isinstance(pair, dict):
                raise SourceError("an event has no key")
            name = decoded(pair, "key")
            if event.get("type") == "DELETE":
                self.keys.pop(name, None)
            elif name in self.keys or len(self.keys) <= self.options.max_endpoints:
                self.keys[name] = decoded(pair, "value")
        return bool(events)

    def endpoints(self) -> list[Found]:
        return [self.one(name, value) for name, value in self.keys.items()]

    def one(self, name: bytes, value: bytes) -> Found:
        if len(value) > MAX_VALUE:
            raise SourceError(f"the value of {name[:200]!r} is longer than {MAX_VALUE} bytes")
        text = value.decode("utf-8", "replace").strip()
        if not text.startswith("{"):
            return self.at(text)
        data = as_mapping(value)
        url = data.get("url") or data.get("Addr")
        labels = data.get("labels") or data.get("Metadata")
        if not isinstance(url, str):
            raise SourceError(f"the value of {name[:200]!r} has neither `url` nor `Addr`")
        return self.at(url, data.get("weight", 1), data.get("zone"), labels if isinstance(labels, dict) else None)


# ------------------------------------------------------------------ reading what came


def as_mapping(text: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(text)
    except ValueError:
        raise SourceError("it answered with something that is not JSON") from None
    if not isinstance(data, dict):
        raise SourceError("it answered with something that is no object")
    return data


def items(answer: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = answer.get(name) or []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise SourceError(f"`{name}` of its answer is no list of objects")
    return found


def decoded(pair: dict[str, Any], name: str) -> bytes:
    """Protobuf leaves out what is empty."""
    try:
        return base64.b64decode(pair.get(name) or "", validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise SourceError(f"`{name}` of its answer is not base64") from None


def number(answer: dict[str, Any], name: str) -> int:
    """64-bit numbers travel as text in its JSON."""
    header = answer.get("header")
    try:
        return int(header[name]) if isinstance(header, dict) else 0
    except (KeyError, TypeError, ValueError):
        raise SourceError(f"its answer has no {name}") from None
