"""A small HTTP/1.1 client for registries: one request per connection; bytes, lines and time are bounded.

httptools is the parser. Nothing here follows a redirect: a token would go with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from types import TracebackType

import httptools

from fastgw.config.schema.address import Origin
from fastgw.upstreams.discovery.base import MAX_ANSWER, MAX_LINE, SourceError

MAX_HEAD = 64 * 1024
PIECE = 64 * 1024


class Call:
    """`async with Call(origin, "GET", "/path", …) as call:` has the status and the headers; then `await call.text()`
    for all of the body, or `async for line in call.lines(seconds)` for a stream.

    `timeout` is for the connection and the head. SourceError or OSError (TimeoutError with it) when it fails.
    """

    def __init__(
        self,
        origin: Origin,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout: float = 5.0,
        trust: ssl.SSLContext | None = None,
        at: tuple[str, int] | None = None,
        server_name: str | None = None,
    ) -> None:
        """`at`: the address to connect to, instead of having the origin's name looked up; `server_name`: asked for by
        TLS and checked, instead of the origin's."""
        self.origin = origin
        self.at = at
        self.server_name = server_name
        self.timeout = timeout
        self.trust = trust
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        fields = {
            "Host": f"{host}:{origin.port}",
            "User-Agent": "fastgw",
            "Accept": "application/json",
            "Connection": "close",
            **(headers or {}),
        }
        if body:
            fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in fields.items():
            if not (name + value).isprintable():
                raise SourceError(f"the header {name} cannot be sent: it has a control character")
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.request = f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1", "replace") + body
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: dict[str, str] = {}
        self.pieces: list[bytes] = []
        self.head = 0
        self.in_body = self.ended = False
        self.writer: asyncio.StreamWriter | None = None

    # ------------------------------------------------------------------ the parser's calls

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.in_body = True
        self.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        self.ended = True

    # ------------------------------------------------------------------ reading

    async def __aenter__(self) -> Call:
        try:
            async with asyncio.timeout(self.timeout):
                await self.begin()
        except TimeoutError:
            self.close()
            raise SourceError(f"no answer in {self.timeout:g} s") from None
        except BaseException:
            self.close()
            raise
        return self

    async def begin(self) -> None:
        origin = self.origin
        if origin.unix:
            self.reader, self.writer = await asyncio.open_unix_connection(origin.unix)
        else:
            name = (self.server_name or origin.host) if self.trust is not None else None
            host, port = self.at or (origin.host, origin.port)
            self.reader, self.writer = await asyncio.open_connection(host, port, ssl=self.trust, server_hostname=name)
        self.writer.write(self.request)
        await self.writer.drain()
        while not self.in_body:
            if not await self.more():
                raise SourceError("the connection ended before the answer")
            if not self.in_body and self.head > MAX_HEAD:
                raise SourceError(f"the head of the answer is longer than {MAX_HEAD} bytes")

    async def more(self) -> bool:
        """Receives once. False at the end of the connection."""
        data = await self.reader.read(PIECE)
        if not data:
            return False
        self.head += 0 if self.in_body else len(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise SourceError("the answer is not HTTP") from None
        return True

    async def text(self, limit: int = MAX_ANSWER) -> bytes:
        """All of the body, in `timeout` seconds."""
        try:
            async with asyncio.timeout(self.timeout):
                while not self.ended and sum(map(len, self.pieces)) <= limit and await self.more():
                    self.pieces = [b"".join(self.pieces)]
        except TimeoutError:
            raise SourceError(f"the answer did not end in {self.timeout:g} s") from None
        body = b"".join(self.pieces)
        if len(body) > limit:
            raise SourceError(f"the answer is longer than {limit} bytes")
        if not self.ended and ("content-length" in self.headers or "transfer-encoding" in self.headers):
            raise SourceError("the connection ended in the middle of the answer")
        return body

    async def has(self, text: bytes, limit: int) -> bool:
        """Does the text stand in the first `limit` bytes of the body? The caller bounds the time."""
        body = b"".join(self.pieces)
        while text not in body and len(body) < limit and not self.ended and await self.more():
            body = b"".join(self.pieces)
        return text in body[:limit]

    async def lines(self, seconds: float, limit: int = MAX_LINE) -> AsyncIterator[bytes]:
        """The lines of the body as they come, until it ends or `seconds` have passed, which is no error."""
        rest = b""
        until = asyncio.get_running_loop().time() + seconds
        while True:
            rest += b"".join(self.pieces)
            self.pieces.clear()
            *whole, rest = rest.split(b"\n")
            for line in whole:
                if line.strip():
                    yield line
            if len(rest) > limit:
                raise SourceError(f"an event is longer than {limit} bytes")
            if self.ended:
                return
            try:
                async with asyncio.timeout_at(until):
                    if not await self.more():
                        if "transfer-encoding" in self.headers:
                            raise SourceError("the stream was cut")
                        return
            except TimeoutError:
                return

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        if self.writer is not None:
            with contextlib.suppress(Exception):
                self.writer.transport.abort()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def refused(call: Call, what: str) -> SourceError:
    """For a status that is none of the good ones. The body is not quoted: it is the registry's to say what is in it."""
    word = {401: " (the token is not known)", 403: " (the token is not allowed to)", 404: " (there is no such thing)"}
    return SourceError(f"{what} was answered with {call.status}{word.get(call.status, '')}")
