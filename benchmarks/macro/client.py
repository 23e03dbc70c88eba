"""A small closed-loop client of exact counts, for memory and for instruction counts: wrk only knows times.

It runs in the harness's own process on blocking sockets, slower than the gateways: nothing is timed with it.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from .process import BenchError

SOCKET_SECONDS = 60.0

API_CLIENT_HEADERS = (
    "Accept: application/json, text/plain, */*\r\n"
    "Accept-Language: en-GB,en;q=0.9,de;q=0.7\r\n"
    "Accept-Encoding: gzip, deflate, br\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0"
    " Safari/537.36\r\n"
    "Origin: https://app.example.com\r\n"
    "Referer: https://app.example.com/orders\r\n"
    "X-Api-Key: client-0001\r\n"
)


def request(path: str, token: str | None = None, extra: str = "") -> bytes:
    """The head that request.lua sends, for one path."""
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{API_CLIENT_HEADERS}{authorization}{extra}\r\n".encode()


@cache
def whoever() -> ssl.SSLContext:
    """TLS with whoever answers: the certificates of the harness are signed by nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connect(port: int, source: str = "127.0.0.1", tls: bool = False) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), SOCKET_SECONDS, source_address=(source, 0))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return whoever().wrap_socket(made) if tls else made


def read_answer(connection: socket.socket, allowed: Iterable[int] = (200,)) -> int:
    """Reads one answer with Content-Length to its end. Its status; BenchError when not in `allowed`."""
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        piece = connection.recv(65536)
        if not piece:
            raise BenchError(f"the connection ended within an answer: {received[:200]!r}")
        received += piece
    head = received[:end].lower()
    status = int(head[9:12])
    if status not in allowed:
        raise BenchError(f"answered {received[:300]!r}")
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise BenchError(f"an answer without Content-Length: {received[:300]!r}")
    left = int(head[at + 17 :].split(b"\r\n", 1)[0]) - (len(received) - end - 4)
    while left > 0:
        piece = connection.recv(min(left, 1 << 20))
        if not piece:
            raise BenchError("the connection ended within a body")
        left -= len(piece)
    return status


def exactly(
    port: int,
    count: int,
    requests: Sequence[bytes],
    connections: int = 8,
    allowed: Iterable[int] = (200,),
    tls: bool = False,
) -> None:
    """Sends `count` requests, of `requests` in turn, one in flight on each connection; reads each answer."""
    allowed = tuple(allowed)
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(connect(port, tls=tls)) for _ in range(min(connections, count))]
        turn = itertools.cycle(requests)
        left = count
        while left:
            wave = lines[: min(left, len(lines))]
            for line in wave:
                line.sendall(next(turn))
            for line in wave:
                read_answer(line, allowed)
            left -= len(wave)


def sources(connections: int, each: int = 1000) -> Iterator[str]:
    """Source addresses 127.0.0.2, .3, ..., each for `each` connections."""
    for number in range(connections):
        yield f"127.0.0.{2 + number // each}"


def read_slowly(port: int, path: str, size: int, bytes_per_s: float, until: float) -> Iterator[int]:
    """Reads a big answer at about that rate through a small receive buffer; yields the bytes so far."""
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        line.settimeout(SOCKET_SECONDS)
        line.connect(("127.0.0.1", port))
        line.sendall(request(path))
        started, got = time.monotonic(), 0
        buffer = bytearray(1 << 18)
        while got < size:
            count = line.recv_into(buffer)
            if not count:
                raise BenchError(f"the connection ended after {got} of {size} bytes")
            got += count
            ahead = got / bytes_per_s - (time.monotonic() - started)
            if ahead > 0.002:
                time.sleep(ahead)
            if time.monotonic() > until:
                raise BenchError(f"only {got} of {size} bytes in time")
            yield got
