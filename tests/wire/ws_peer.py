"""A WebSocket client that says exactly what it is told to, and an echo server by the `websockets` package."""

import asyncio
import base64
import hashlib
import os
import socket
import ssl
import struct
import threading
from typing import NamedTuple

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KEY = base64.b64encode(b"0123456789abcdef")
ACCEPT = base64.b64encode(hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


class Frame(NamedTuple):
    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0

    @property
    def code(self):
        return struct.unpack(">H", self.payload[:2])[0] if len(self.payload) >= 2 else None


def frame(opcode, payload=b"", fin=True, rsv=0, masked=True, size=None, wide=0):
    """Its bytes. `size`: another length than it has; `wide` 2 or 8: the length in more bytes than it needs."""
    length = len(payload) if size is None else size
    mask = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if wide == 8 or length > 65535:
        head += bytes([mask | 127]) + length.to_bytes(8, "big")
    elif wide == 2 or length > 125:
        head += bytes([mask | 126]) + length.to_bytes(2, "big")
    else:
        head += bytes([mask | length])
    if masked:
        key = os.urandom(4)
        head += key
        repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
        number = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
        payload = number.to_bytes(len(payload), "big")
    return head + payload


def close(code=None, reason=b"", **kwargs):
    return frame(CLOSE, b"" if code is None else struct.pack(">H", code) + reason, **kwargs)


class Ended(Exception):
    """The other side closed, between two frames."""


class Peer:
    """`with Peer(address, "/path") as peer`: the handshake is done."""

    def __init__(self, address, path, headers=b"", tls=None, timeout=60):
        self.sock = socket.create_connection(address, timeout=timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self.data = b""
        self.sock.sendall(
            b"GET %s HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: %s\r\n%s\r\n" % (path.encode(), KEY, headers)
        )
        while b"\r\n\r\n" not in self.data:
            self._more()
        self.head, _, self.data = self.data.partition(b"\r\n\r\n")
        assert self.head.startswith(b"HTTP/1.1 101 "), self.head
        assert ACCEPT in self.head

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def _more(self):
        more = self.sock.recv(65536)
        if not more:
            raise Ended
        self.data += more

    def send(self, *pieces):
        for piece in pieces:
            self.sock.sendall(piece)

    def chopped(self, data, size=1):
        for at in range(0, len(data), size):
            self.sock.sendall(data[at : at + size])

    def _take(self, count):
        while len(self.data) < count:
            self._more()
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def frame(self):
        try:
            first, length = self._take(2)
        except ConnectionResetError:
            raise Ended from None
        assert length < 128, "a frame of a server is not masked"
        if length > 125:
            length = int.from_bytes(self._take(2 if length == 126 else 8), "big")
        return Frame(first & 15, self._take(length), bool(first & 128), first >> 4 & 7)

    def message(self):
        """The next data message, put together; frames in between that are not data must not be there."""
        payload = b""
        while True:
            found = self.frame()
            assert found.opcode in (0, TEXT, BINARY), found
            payload += found.payload
            if found.fin:
                return payload

    def closed(self):
        """The code of the close frame that comes (None without one); then nothing comes. Data before it is skipped."""
        code = None
        try:
            while True:
                found = self.frame()
                assert code is None, f"{found} after a close frame"
                if found.opcode == CLOSE:
                    code = found.code or 1005
        except (Ended, ConnectionResetError):
            return code


class Echo:
    """In a thread of its own. `/bye` closes with 4001; `ends` are what its sockets ended with: (code, reason)."""

    def __init__(self, **options):
        self.options = {"max_size": None, "ping_interval": None, **options}
        self.ends = []
        self.seen = []

    def __enter__(self):
        self.started = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self.run(),))
        self.thread.start()
        assert self.started.wait(60)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stop.set_result, None)
        self.thread.join()
        self.loop.close()

    async def run(self):
        self.stop = self.loop.create_future()
        async with serve(self.talk, "127.0.0.1", 0, **self.options) as server:
            self.port = server.sockets[0].getsockname()[1]
            self.started.set()
            await self.stop

    async def talk(self, ws):
        path = ws.request.path
        if path.endswith("/bye"):
            await ws.close(4001, "enough")
        if path.endswith("/large"):
            await ws.send(b"x" * 100_000)
        try:
            async for message in ws:
                self.seen.append(message)
                await ws.send(message)
        except ConnectionClosed:
            pass
        self.ends.append((path, ws.close_code, ws.close_reason))


def client_context(pki):
    return ssl.create_default_context(cafile=pki.cert)
