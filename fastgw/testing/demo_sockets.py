"""A WebSocket that sends back what it gets, for the demo services: RFC 6455 without extensions, meant to be read.

It knows bytes only: `EchoSocket.feed(data)` gives the bytes to send. Messages are bounded by `MAX_MESSAGE`.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterable

MAX_MESSAGE = 1024 * 1024
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def accept_key(headers: Iterable[tuple[str, str]]) -> str | None:
    """What `Sec-WebSocket-Accept` is to say; None when the request is no handshake (RFC 6455 4.2.1)."""
    found = {name.lower(): value for name, value in headers}
    if found.get("upgrade", "").lower() != "websocket" or found.get("sec-websocket-version") != "13":
        return None
    key = found.get("sec-websocket-key")
    return None if key is None else base64.b64encode(hashlib.sha1(key.encode("latin-1") + GUID).digest()).decode()


def frame(opcode: int, payload: bytes) -> bytes:
    """One whole frame of a server: without a mask."""
    size = len(payload)
    if size < 126:
        return struct.pack(">BB", 0x80 | opcode, size) + payload
    if size < 65536:
        return struct.pack(">BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack(">BBQ", 0x80 | opcode, 127, size) + payload


def unmasked(payload: bytes, key: bytes) -> bytes:
    repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big")


class EchoSocket:
    """The server's side of one socket; `closed` once its close frame is among the bytes that `feed` gave."""

    def __init__(self) -> None:
        self.closed = False
        self._data = bytearray()
        self._opcode = CONTINUATION
        self._message = bytearray()

    def feed(self, data: bytes) -> bytes:
        self._data += data
        answers = []
        while not self.closed and (found := self._take()) is not None:
            answers.append(self._answer(*found))
        return b"".join(answers)

    def _take(self) -> tuple[bool, int, bytes] | None:
        """(is it the last of its message, opcode, payload) of the next whole frame."""
        data = self._data
        if len(data) < 2:
            return None
        if data[0] & 0x70 or not data[1] & 0x80:
            return True, CLOSE, struct.pack(">H", 1002)       # an extension nobody agreed on, or no mask
        wide = {126: 2, 127: 8}.get(data[1] & 127, 0)
        at = 2 + wide + 4
        if len(data) < at:
            return None
        size = int.from_bytes(data[2 : 2 + wide], "big") if wide else data[1] & 127
        if size > MAX_MESSAGE:
            return True, CLOSE, struct.pack(">H", 1009)
        if len(data) < at + size:
            return None
        payload = unmasked(bytes(data[at : at + size]), bytes(data[at - 4 : at]))
        opcode, last = data[0] & 15, bool(data[0] & 0x80)
        del data[: at + size]
        return last, opcode, payload

    def _answer(self, last: bool, opcode: int, payload: bytes) -> bytes:
        if opcode == PING:
            return frame(PONG, payload)
        if opcode == PONG:
            return b""
        if opcode == CLOSE:
            return self._close(payload[:2])
        if (opcode == CONTINUATION) != bool(self._opcode) or opcode > BINARY:
            return self._close(struct.pack(">H", 1002))
        self._opcode = self._opcode or opcode
        self._message += payload
        if len(self._message) > MAX_MESSAGE:
            return self._close(struct.pack(">H", 1009))
        if not last:
            return b""
        answer = frame(self._opcode, bytes(self._message))
        self._opcode = CONTINUATION
        self._message.clear()
        return answer

    def _close(self, code: bytes) -> bytes:
        self.closed = True
        return frame(CLOSE, code)
