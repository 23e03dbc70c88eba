"""A client that sends exactly the bytes it is told to."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from types import TracebackType

from fastgw.testing.messages import Incomplete, Response, WireReader, parse_headers

Address = tuple[str, int] | str
"""(host, port), or the path of a unix socket."""

DEFAULT_TIMEOUT = 30.0


def connect(address: Address, timeout: float = DEFAULT_TIMEOUT, receive_buffer: int = 0) -> socket.socket:
    """A connected blocking socket. `receive_buffer` (bytes) bounds SO_RCVBUF, for slow readers."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(timeout)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def linger(sock: socket.socket) -> None:
    """Makes the next close send RST rather than FIN (on TCP; a unix socket has only one way to close)."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset(sock: socket.socket) -> None:
    """Closes with RST."""
    linger(sock)
    sock.close()


class RawClient:
    """A blocking client socket with HTTP/1.1 glasses on.

    >>> with RawClient(("127.0.0.1", 8080)) as client:                            # doctest: +SKIP
    ...     client.send(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
    ...     client.response().status
    200
    """

    def __init__(self, address: Address, timeout: float = DEFAULT_TIMEOUT, *, receive_buffer: int = 0) -> None:
        self.sock = connect(address, timeout, receive_buffer)
        self.reader = WireReader(self.sock, timeout)
        self.timeout = timeout

    def send(self, data: bytes) -> None:
        """Sends all of it. A peer that has already closed is not an error here: read what it said."""
        self.sock.settimeout(self.timeout)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)

    def send_pieces(self, data: bytes, size: int = 1) -> None:
        """Sends `size` bytes at a time, each in its own segment as far as the kernel allows."""
        for at in range(0, len(data), size):
            self.send(data[at : at + size])

    def half_close(self) -> None:
        """Says that no more bytes will come; answers can still be read."""
        self.sock.shutdown(socket.SHUT_WR)

    def head(self) -> Response:
        """Reads one response head, interim or final, and leaves its body on the wire."""
        try:
            raw, lines = self.reader.head()
        except ValueError as error:
            raise AssertionError(f"not a response: {bytes(self.reader.received)!r}") from error
        message = Response(lines[0].decode("latin-1"), parse_headers(lines[1:]), raw, bytearray(raw))
        message.interim = []
        return message

    def response(self, method: str = "GET") -> Response:
        """Reads the next final response whole; 1xx answers before it are in its `interim`.

        Raises Incomplete when the peer closes, resets or is silent for `timeout` seconds before the end.
        """
        interim = []
        while True:
            message = self.head()
            if message.status >= 200 or message.status == 101:
                break
            interim.append(message)
        message.interim = interim
        self.reader.body(message, self.body_framing(message, method))
        return message

    @staticmethod
    def body_framing(message: Response, method: str) -> str:
        """RFC 9112 §6.3: how the body of this response to that method is delimited."""
        if method == "HEAD" or message.status in (101, 204, 304):
            return "none"
        framing = message.framing()
        return "close" if framing == "none" else framing

    def request(self, data: bytes, method: str | None = None) -> Response:
        """Sends and reads the answer; the method is taken from the bytes unless given."""
        self.send(data)
        return self.response(method or data.split(b" ", 1)[0].decode("latin-1"))

    def ended(self, timeout: float | None = None) -> str:
        """Reads until the peer ends the connection. "eof" or "reset"; "timeout" when it stays open.

        What came meanwhile is in `rest()`.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            try:
                self.reader.fill(deadline)
            except Incomplete as stop:
                return stop.how

    def rest(self) -> bytes:
        """Bytes received that no message has taken."""
        return bytes(self.reader.buffer)

    @property
    def local(self) -> tuple[str, int]:
        host, port = self.sock.getsockname()[:2]
        return host, port

    def reset(self) -> None:
        """Ends the connection with RST."""
        reset(self.sock)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
