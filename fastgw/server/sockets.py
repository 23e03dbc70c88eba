"""Listening sockets: opened by the supervisor, used by the workers."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import stat
from collections.abc import Sequence
from typing import TypeVar

from fastgw.config.schema.address import Bind

BACKLOG = 4096
T = TypeVar("T")


class ListenError(Exception):
    """An address that cannot be listened at; the message says which and why."""


def open_tcp(bind: Bind, reuse_port: bool, listen: bool = True) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((bind.host, bind.port))
        if listen:
            sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ListenError(f"cannot listen at {bind}: {error.strerror}") from None
    return sock


def open_unix(bind: Bind, listen: bool = True) -> socket.socket:
    """A socket file that nobody answers at is replaced; one that is in use, or no socket, is left alone."""
    path = bind.unix
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            probe = socket.socket(socket.AF_UNIX)
            try:
                probe.settimeout(1)
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            except OSError as error:
                raise ListenError(f"cannot listen at {bind}: {error.strerror}") from None
            else:
                raise ListenError(f"cannot listen at {bind}: somebody else does")
            finally:
                probe.close()
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(path)
        if listen:
            sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ListenError(f"cannot listen at {bind}: {error.strerror}") from None
    return sock


def open_single(bind: Bind) -> socket.socket:
    """One socket that nobody shares, as of the admin listener."""
    return open_unix(bind) if bind.unix else open_tcp(bind, False)


def remove_file(name: str) -> None:
    """The file of a unix listener that is no more."""
    if name.startswith("unix:"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name[5:])


def open_listener(bind: Bind, workers: int, listen: bool = True) -> list[socket.socket]:
    """One socket per worker that share a port; a unix socket is one that all workers share (see `share_of`).

    With SO_REUSEPORT another program of the same user could listen at the port too: the first socket is tried
    without it, so that an address that is taken is an error and not a surprise.
    """
    if bind.unix:
        return [open_unix(bind, listen)]
    if bind.port:
        open_tcp(bind, False).close()
    return more_of([open_tcp(bind, True, listen)], bind, workers, listen)


def more_of(sockets: list[socket.socket], bind: Bind, workers: int, listen: bool = True) -> list[socket.socket]:
    """As many sockets of a TCP listener as there are workers, or more; the first ones are there and stay."""
    there = Bind(bind.host, sockets[0].getsockname()[1])
    return [*sockets, *(open_tcp(there, True, listen) for _ in range(workers - len(sockets)))]


def tune(sock: socket.socket, backlog: int, defer: float) -> None:
    """Of a socket that listens: how many may wait, and for how long one that says nothing (listen(2), tcp(7))."""
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return
    sock.listen(backlog)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, math.ceil(defer))


def make_listen(sock: socket.socket) -> None:
    """For one that was opened without; others stay as they are."""
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.listen(BACKLOG)


def share_of(sockets: Sequence[T], slot: int, workers: int) -> list[T]:
    """The sockets of a listener that a worker accepts from. No socket is left without a worker.

    As many as workers: each has its own. Fewer, as a unix socket or one of a service manager: workers share, and
    whoever comes first accepts. More, as after an upgrade to fewer workers: all share the rest.
    """
    if len(sockets) <= workers:
        return [sockets[slot % len(sockets)]]
    return [sockets[slot], *sockets[workers:]]
