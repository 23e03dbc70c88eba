"""Messages between our own processes: pickles over AF_UNIX sequenced packets, one message per packet.

Packets keep their boundaries, so a process that takes a channel over never finds half a message. What is too large
for a packet travels in a memfd. Only processes that were forked from one supervisor hold these sockets.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import logging
import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from fastgw.config.fields import Secret
from fastgw.config.schema.consumers import ConsumerSecret

logger = logging.getLogger("fastgw.server")

PACKET = 65536
MAX_FDS = 200
Message = dict[str, Any]


def dumps(value: Any) -> bytes:
    """A pickle for our own processes. Secrets may travel here, and nowhere else: they refuse ordinary pickling."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = copyreg.dispatch_table.copy()
    for kind in (Secret, ConsumerSecret):
        pickler.dispatch_table[kind] = lambda secret: (type(secret), secret.state())
    pickler.dump(value)
    return buffer.getvalue()


def channel() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, non-blocking."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return ends


def memory_file(data: bytes = b"") -> int:
    """A memfd with these bytes; the caller closes it."""
    fd = os.memfd_create("fastgw", os.MFD_CLOEXEC)
    write_file(fd, data)
    return fd


def write_file(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextlib.contextmanager
def memory_files(count: int) -> Iterator[list[int]]:
    """Empty memfds, closed at the end."""
    fds: list[int] = []
    try:
        for _ in range(count):
            fds.append(memory_file())
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def read_file(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    parts = []
    at = 0
    while at < size:
        part = os.pread(fd, min(size - at, 1 << 24), at)
        if not part:
            break
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def loads(fd: int) -> Any:
    """What `dumps` made, from a memory file."""
    return pickle.loads(read_file(fd))


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> bool:
    """False when the other end is gone or does not read."""
    data = dumps(message)
    large = -1
    try:
        if len(data) > PACKET // 2:
            large = memory_file(data)
            data = pickle.dumps({"op": "__large__"})
            fds = (large, *fds)
        socket.send_fds(sock, [data], list(fds))
        return True
    except OSError as error:
        logger.debug("a message %s was not sent: %s", message.get("op"), error)
        return False
    finally:
        if large >= 0:
            os.close(large)


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """One message and its descriptors; None at the end. BlockingIOError when there is none."""
    data, fds, _, _ = socket.recv_fds(sock, PACKET, MAX_FDS)
    if not data:
        return None
    message: Message = pickle.loads(data)
    if message.get("op") == "__large__":
        large, *fds = fds
        try:
            message = loads(large)
        finally:
            os.close(large)
    return message, fds
