"""Sockets that a service manager opened for us: socket activation, sd_listen_fds(3).

    LISTEN_PID       the process they are for; others have inherited the words and not the sockets
    LISTEN_FDS       how many there are, from descriptor 3 on
    LISTEN_FDNAMES   their names, with ":" between them; for messages only

A socket belongs to the listener, or to the admin listener, whose address it has. It stays open for as long as the
supervisor lives, so that a listener that a reload takes away may come back.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Mapping, MutableMapping

from fastgw.config.schema.address import Bind

logger = logging.getLogger("fastgw.supervisor")

FIRST_FD = 3
MOST = 1024
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
Sockets = dict[str, list[socket.socket]]
"""Address, as `str(Bind)` writes it → its sockets."""


class ActivationError(Exception):
    """The service manager promised sockets that are not there."""


def activated(environment: MutableMapping[str, str] | None = None, first: int = FIRST_FD) -> Sockets:
    """The sockets passed to this process, and takes the variables out of the environment. ActivationError when the
    variables promise what is not there: a service that was to be activated must not start without its sockets."""
    environment = os.environ if environment is None else environment
    words = {name: environment.pop(name, "") for name in VARIABLES}
    if words["LISTEN_PID"] != str(os.getpid()):
        return {}
    text = words["LISTEN_FDS"]
    if not text.isdecimal() or not 0 < int(text) <= MOST:
        raise ActivationError(f"LISTEN_FDS={text[:20]} is not a number from 1 to {MOST}")
    names = words["LISTEN_FDNAMES"].split(":") if words["LISTEN_FDNAMES"] else []
    found: Sockets = {}
    for number in range(int(text)):
        fd = first + number
        label = names[number] if number < len(names) else "unknown"
        sock = adopt(fd, label)
        if sock is not None:
            found.setdefault(str(address_of(sock)), []).append(sock)
    return found


def adopt(fd: int, label: str) -> socket.socket | None:
    """The listening stream socket behind a descriptor; None, with a word in the log, when it is something else."""
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError as error:
        raise ActivationError(f"LISTEN_FDS promises descriptor {fd} ({label}): {error.strerror}") from None
    os.set_inheritable(fd, False)
    if not is_socket:
        logger.warning("descriptor %d (%s) of the service manager is no socket: left alone", fd, label)
        return None
    sock = socket.socket(fileno=fd)
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.type != socket.SOCK_STREAM or not listens or address_of(sock) is None:
        logger.warning("socket %d (%s) of the service manager is no listening TCP or unix socket with an address:"
                       " left alone", fd, label)  # fmt: skip
        sock.detach()
        return None
    sock.setblocking(False)
    return sock


def address_of(sock: socket.socket) -> Bind | None:
    """Where a socket listens; None for what no listener can have (an abstract unix address, another family)."""
    name = sock.getsockname()
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        return Bind(name[0], name[1])
    if sock.family == socket.AF_UNIX and isinstance(name, str) and name.startswith("/"):
        return Bind("", 0, name)
    return None


def explain_left(left: Mapping[str, list[socket.socket]], wanted: set[str]) -> list[str]:
    """A line for each activated address that no listener has."""
    lines = []
    for name, (sock, *_) in left.items():
        line = f"the service manager passed a socket of {name}, which is no listener of the file: it waits for one"
        port = name.rpartition(":")[2]
        dual = sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        if name.startswith("[::]:") and dual and f"0.0.0.0:{port}" in wanted:
            line += f" (it takes IPv4 too: listen at `[::]:{port}`, or set ListenStream=0.0.0.0:{port})"
        lines.append(line)
    return lines
