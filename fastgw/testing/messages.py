"""HTTP/1.1 messages as they stand on the wire, read without judgement.

The kit must see what really passed, also when it is wrong; so this reader is deliberately simple and
independent of the gateway's own parser. It keeps the raw bytes beside what it made of them.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field

RECORD_LIMIT = 16 * 1024 * 1024
"""Bytes that a reader keeps of what it received; what comes after is counted, not kept."""


class Incomplete(Exception):
    """The peer stopped in the middle of a message: `how` is "eof", "reset" or "timeout".

    `message` is what came of it, when its head was whole; else the bytes are in `rest`.
    """

    def __init__(self, how: str, message: Message | None = None, rest: bytes = b"") -> None:
        super().__init__(f"{how} after {bytes(message.raw) if message else rest!r}"[:2000])
        self.how = how
        self.message = message
        self.rest = rest


@dataclass
class Message:
    """One request or response. Text is Latin-1, so that every byte is one character and nothing is lost."""

    start: str
    headers: list[tuple[str, str]]
    head: bytes
    raw: bytearray = field(default_factory=bytearray)
    body: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = False

    def all(self, name: str) -> list[str]:
        """The values of every header line of that name, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of the first header line of that name."""
        return next(iter(self.all(name)), default)

    def __contains__(self, name: str) -> bool:
        return bool(self.all(name))

    def framing(self) -> str:
        """How the body is delimited by what the head declares: "chunked", "length" or "none"."""
        if any("chunked" in value.lower() for value in self.all("transfer-encoding")):
            return "chunked"
        return "length" if self.all("content-length") else "none"

    def length(self) -> int:
        return int(self.all("content-length")[0])


class Request(Message):
    """A request as an upstream received it."""

    @property
    def method(self) -> str:
        return self.start.split(" ")[0]

    @property
    def target(self) -> str:
        return self.start.split(" ")[1]

    @property
    def version(self) -> str:
        return self.start.rsplit(" ", 1)[-1]


class Response(Message):
    """A response as a client received it; `interim` are the 1xx answers that came before it."""

    interim: list[Response]

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    @property
    def version(self) -> str:
        return self.start.split(" ")[0]

    @property
    def keeps_alive(self) -> bool:
        """Whether the sender says that the connection stays open."""
        options = ",".join(self.all("connection")).lower()
        if "close" in options:
            return False
        return self.version == "HTTP/1.1" or "keep-alive" in options


def parse_headers(lines: list[bytes]) -> list[tuple[str, str]]:
    headers = []
    for line in lines:
        name, _, value = line.decode("latin-1").partition(":")
        headers.append((name, value.strip(" \t")))
    return headers


class WireReader:
    """Reads messages from a blocking socket, each call within `timeout` seconds."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self.sock = sock
        self.timeout = timeout
        self.buffer = bytearray()
        self.received = bytearray()
        """Every byte that came, up to RECORD_LIMIT."""
        self.total = 0
        """How many bytes came."""

    def fill(self, deadline: float) -> None:
        """Receives once. Raises Incomplete when nothing more comes."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise Incomplete("timeout", rest=bytes(self.buffer))
        self.sock.settimeout(left)
        try:
            data = self.sock.recv(262144)
        except TimeoutError:
            raise Incomplete("timeout", rest=bytes(self.buffer)) from None
        except OSError:
            raise Incomplete("reset", rest=bytes(self.buffer)) from None
        if not data:
            raise Incomplete("eof", rest=bytes(self.buffer))
        self.total += len(data)
        if len(self.received) < RECORD_LIMIT:
            self.received += data
        self.buffer += data

    def take(self, n: int) -> bytes:
        data = bytes(self.buffer[:n])
        del self.buffer[:n]
        return data

    def line(self, deadline: float) -> bytes:
        while (at := self.buffer.find(b"\n")) < 0:
            self.fill(deadline)
        return self.take(at + 1)

    def head(self) -> tuple[bytes, list[bytes]]:
        """The raw head (blank line included) and its lines."""
        deadline = time.monotonic() + self.timeout
        raw = b""
        lines: list[bytes] = []
        while True:
            line = self.line(deadline)
            raw += line
            text = line.rstrip(b"\r\n")
            if not text and lines:
                return raw, lines
            if text:
                lines.append(text)

    def chunked(self, message: Message, deadline: float) -> None:
        while True:
            line = self.line(deadline)
            message.raw += line
            size = int(line.split(b";")[0].strip(), 16)
            if size == 0:
                break
            self.counted(message, size, deadline)
            message.raw += self.line(deadline)
        while True:
            line = self.line(deadline)
            message.raw += line
            if not line.rstrip(b"\r\n"):
                return
            message.trailers += parse_headers([line.rstrip(b"\r\n")])

    def counted(self, message: Message, n: int, deadline: float) -> None:
        while n:
            if not self.buffer:
                self.fill(deadline)
            data = self.take(min(n, len(self.buffer)))
            message.body += data
            message.raw += data
            n -= len(data)

    def to_eof(self, message: Message, deadline: float) -> None:
        while True:
            data = self.take(len(self.buffer))
            message.body += data
            message.raw += data
            try:
                self.fill(deadline)
            except Incomplete as stop:
                if stop.how == "eof":
                    return
                raise

    def body(self, message: Message, framing: str) -> None:
        """Reads the body of a message whose head was read. `framing`: chunked, length, close or none."""
        deadline = time.monotonic() + self.timeout
        try:
            if framing == "chunked":
                self.chunked(message, deadline)
            elif framing == "length":
                self.counted(message, message.length(), deadline)
            elif framing == "close":
                self.to_eof(message, deadline)
        except Incomplete as stop:
            raise Incomplete(stop.how, message) from None
        message.complete = True
