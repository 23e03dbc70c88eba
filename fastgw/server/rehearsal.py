"""A configuration tried by the gateway itself, without its network: what `fastgw test` does.

The compiled plan runs in this process behind a socket of loopback; every service is a stand-in on a unix socket that
answers 200 and remembers what it was sent (by HTTP/1.1, whatever the services speak). So a test sees what a client
would see, policies included. What a policy would ask of others (keys of a JWT issuer, say) is not there.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import httptools
import re2

from fastgw._core.bucket import BucketTable
from fastgw._core.exchange import Exchange
from fastgw.config import Config
from fastgw.config.material import Material
from fastgw.config.schema.address import Bind, Origin
from fastgw.config.schema.observe import AccessLog
from fastgw.config.schema.services import Endpoint, Service
from fastgw.config.schema.tests import ConfigTest, Expected
from fastgw.plan import compile_spec
from fastgw.server.dataplane import DataPlane
from fastgw.server.shared import SharedMemory
from fastgw.server.sockets import open_tcp

SECONDS = 30.0
"""For one test."""
MAX_ANSWER = 16 * 1024 * 1024
MAX_HEAD = 1024 * 1024
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
GRPC_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: 0\r\nContent-Length: 5\r\n"
    b"Connection: close\r\n\r\n\0\0\0\0\0"
)
"""To a call: an empty message, and all is well."""
Fields = list[tuple[str, str]]


@dataclass(slots=True)
class Seen:
    """What became of one request. `target` and `sent` are what the service got, when one did."""

    status: int = 0
    headers: Fields = field(default_factory=list)
    route: str | None = None
    service: str | None = None
    code: str | None = None
    target: str | None = None
    sent: Fields = field(default_factory=list)


@dataclass(slots=True)
class Result:
    """`failures`: a line for each thing that is not as expected."""

    test: ConfigTest
    line: int
    failures: list[str]
    seconds: float


class Answer:
    """Collects what httptools finds in an answer."""

    def __init__(self) -> None:
        self.fields: Fields = []
        self.status = 0
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()


class Rehearsal:
    """`async with rehearse(config) as rehearsal: await rehearsal.play(test)`"""

    def __init__(self, config: Config, plane: DataPlane, buckets: mmap.mmap, port: int) -> None:
        self.config = config
        self.plane = plane
        self.buckets = buckets
        self.full = bytes(buckets)
        self.port = port
        self.seen = Seen()
        self.recorded = asyncio.Event()

    def record(self, exchange: Exchange) -> None:
        ex: Any = exchange
        self.seen.route, self.seen.service, self.seen.code = ex.route_name, ex.service_name, ex.code
        self.recorded.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The stand-in of every service."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
            self.seen.target = first.split(" ")[1]
            self.seen.sent = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
            kind = next((value for name, value in self.seen.sent if name.lower() == "content-type"), "")
            writer.write(GRPC_ANSWER if kind.startswith("application/grpc") else ANSWER)
            await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass
        finally:
            writer.close()

    async def play(self, test: ConfigTest) -> Seen:
        """What becomes of the request of a test. Each one finds full buckets: no test spends another one's limit."""
        self.buckets[:] = self.full
        self.seen, self.recorded = Seen(), asyncio.Event()
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=MAX_ANSWER)
            try:
                writer.write(raw_request(test))
                data = await read_to_end(reader)
            finally:
                writer.transport.abort()
            answer = Answer()
            answer.parser.feed_data(data)
            await self.recorded.wait()
        self.seen.status, self.seen.headers = answer.status, answer.fields
        return self.seen

    async def run(self, test: ConfigTest, line: int) -> Result:
        begun = time.perf_counter()
        try:
            failures = judge(self.config, test.expect, await self.play(test))
        except TimeoutError:
            failures = [f"there was no answer in {SECONDS:g} s"]
        except (httptools.HttpParserError, OSError) as error:
            failures = [f"there was no answer: {type(error).__name__}"]
        return Result(test, line, failures, time.perf_counter() - begun)


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    parts, size = [], 0
    while size < MAX_ANSWER and (part := await reader.read(65536)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def raw_request(test: ConfigTest) -> bytes:
    """Where it comes from is told as a proxy in front of us tells it: the rehearsal trusts 127.0.0.1."""
    method, _, url = test.request.partition(" ")
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if "?" in url else "")
    given = {name.lower(): (name, value) for name, value in test.headers.items()}
    before = given.pop("x-forwarded-for", None)
    fields = {"host": ("Host", parts.netloc.rpartition("@")[2] or "localhost"), **given}
    chain = f"{before[1]}, {test.client_ip}" if before is not None else test.client_ip
    fields |= {"x-forwarded-for": ("X-Forwarded-For", chain), "connection": ("Connection", "close")}
    body = (test.body or "").encode()
    if test.body is not None:
        fields["content-length"] = ("Content-Length", str(len(body)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.values())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("utf-8", "surrogateescape") + body


def stand_in(service: Service, path: str) -> Service:
    here = Endpoint(url=Origin("http", "", 0, path))
    plain = {"discovery": None, "tls": None, "protocol": "http/1.1", "proxy_protocol": None}
    return service.model_copy(update={"endpoints": (here,), **plain})


@asynccontextmanager
async def rehearse(config: Config) -> AsyncIterator[Rehearsal]:
    """The gateway of this configuration, with stand-ins for its services and nothing of its network."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="fastgw-") as folder:
        path = os.path.join(folder, "service.sock")
        services = {name: stand_in(service, path) for name, service in config.services.items()}
        plain = {"bind": Bind("127.0.0.1", 0), "tls": None, "protocol": "http", "tcp": None}
        listener = config.server.listeners[0].model_copy(update=plain)
        server = config.server.model_copy(update={"listeners": (listener,)})
        alone = replace(config, services=services, server=server, tls=Material(), tests=())
        spec = compile_spec(alone)
        spec.settings["trusted_proxies"] = (*spec.settings["trusted_proxies"], "127.0.0.1/32")
        if config.file and os.path.exists(config.file):
            spec.config_dir = os.path.dirname(os.path.abspath(config.file))
        memory = SharedMemory(1, 1)
        buckets = mmap.mmap(-1, BucketTable.size(4096))
        BucketTable.format(buckets)
        plane = DataPlane(loop, memory.stats[0], BucketTable(buckets), public)
        sock = open_tcp(Bind("127.0.0.1", 0), False)
        rehearsal = Rehearsal(config, plane, buckets, sock.getsockname()[1])
        upstream = await asyncio.start_unix_server(rehearsal.serve, path, limit=MAX_HEAD)
        try:
            await plane.prepare(spec, AccessLog(enabled=False))
            plane.adopt()
            plane.engine.set_access_log(rehearsal.record)
            plane.listen("rehearsal", sock)
            yield rehearsal
        finally:
            plane.close()
            upstream.close()
            sock.close()


async def public(kind: str) -> tuple[int, str, bytes]:
    return 200, "text/plain", b""


async def run_tests(config: Config, tests: Sequence[tuple[ConfigTest, int]]) -> list[Result]:
    async with rehearse(config) as rehearsal:
        return [await rehearsal.run(test, line) for test, line in tests]


# ------------------------------------------------------------------ what was expected


def judge(config: Config, expected: Expected, seen: Seen) -> list[str]:
    """What is not as expected; the words say what is, too."""
    found = []
    for name in ("route", "service", "target", "status", "code"):
        wanted, got = getattr(expected, name), getattr(seen, name)
        if wanted is not None and wanted != got:
            found.append(f"{name}: expected {wanted}, got {told(name, got, seen)}")
    if expected.policies is not None:
        route = next((route for route in config.routes if route.name == seen.route), None)
        uses = tuple(use.name for use in config.chain(route)) if route is not None else ()
        if uses != expected.policies:
            words = ", ".join(uses) or "none"
            found.append(f"policies: expected {', '.join(expected.policies) or 'none'}, got {words}")
    pairs = (("headers", expected.headers, seen.headers), ("sent", expected.sent, seen.sent))
    for what, wanted_fields, fields in pairs:
        for name, wanted in wanted_fields.items():
            values = [value for key, value in fields if key.lower() == name.lower()]
            if what == "sent" and seen.target is None:
                found.append(f"sent.{name}: no service got the request ({outcome(seen)})")
            elif failure := header(wanted, values):
                found.append(f"{what}.{name}: {failure}")
    return found


def header(wanted: str, values: list[str]) -> str:
    """What is wrong with a header; '' when nothing is."""
    if wanted == "!":
        return f"expected none, got {values[0]!r}" if values else ""
    if not values:
        return "expected, and not there"
    if wanted == "*":
        return ""
    if wanted.startswith("~"):
        regex = re2.compile(wanted[1:].strip())
        good = any(regex.fullmatch(value) is not None for value in values)
    else:
        good = wanted in values
    return "" if good else f"expected {wanted!r}, got {', '.join(map(repr, values))}"


def outcome(seen: Seen) -> str:
    return f"answered with {seen.status}{f' {seen.code}' if seen.code else ''}"


def told(name: str, got: Any, seen: Seen) -> str:
    if got is None:
        return f"none ({outcome(seen)})"
    return f"{got} {seen.code}" if name == "status" and seen.code else str(got)
