"""The listening sockets of a supervisor: opened here, or by a service manager, or by the supervisor before."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Container, Iterable, Iterator
from typing import Any

from fastgw.config.schema.address import Bind
from fastgw.server.activation import Sockets, explain_left
from fastgw.server.sockets import ListenError, more_of, open_listener, open_single, remove_file, share_of

logger = logging.getLogger("fastgw.supervisor")


class Listeners:
    """Addresses are written as `str(Bind)` does.

    sockets    of the configuration in force
    pending    of one that is being prepared
    activated  those of a service manager: they stay open, used or not, and their files are not ours
    inherited  those of the supervisor before, that nobody has taken yet
    held       new ones do not listen yet: a connection that the kernel put in their queue would be lost if this
               supervisor came to nothing. Whoever accepts calls `listen`
    """

    def __init__(self, workers: int, activated: Sockets, inherited: Sockets | None = None) -> None:
        self.workers = workers
        self.sockets: Sockets = {}
        self.pending: Sockets = {}
        self.activated = activated
        self.held = inherited is not None
        self.inherited = dict(inherited or {})

    def open(self, binds: Iterable[Bind], admin: Bind | None) -> socket.socket | None:
        """Those of the first configuration; the socket of the admin listener. Raises ListenError."""
        for bind in binds:
            self.sockets[str(bind)] = self.open_one(bind)
        found = None
        if admin is not None:
            given = self.activated.get(str(admin)) or self.inherited.pop(str(admin), None)
            found = given[0] if given else open_single(admin)
        for sockets in self.inherited.values():
            for sock in sockets:
                sock.close()
        self.inherited = {}
        used = {*self.sockets, str(admin)}
        left = {name: sockets for name, sockets in self.activated.items() if name not in used}
        for line in explain_left(left, used):
            logger.warning("%s", line)
        return found

    def open_one(self, bind: Bind) -> list[socket.socket]:
        """The sockets of a listener: as many as are there, and as many as are needed."""
        given = self.activated.get(str(bind))
        if given:
            return given
        inherited = self.inherited.pop(str(bind), None)
        if not inherited:
            return open_listener(bind, self.workers, not self.held)
        return inherited if bind.unix else more_of(inherited, bind, self.workers, not self.held)

    def prepare(self, binds: Iterable[Bind]) -> None:
        """Opens those that a new configuration adds, or none: ListenError."""
        self.rollback()
        try:
            for bind in binds:
                self.pending[str(bind)] = self.open_one(bind)
        except ListenError:
            self.rollback()
            raise

    def rollback(self) -> None:
        for name in list(self.pending):
            self.close(name, self.pending.pop(name))

    def commit(self, removed: Iterable[str]) -> None:
        self.sockets.update(self.pending)
        self.pending = {}
        for name in removed:
            self.close(name, self.sockets.pop(name, []))

    def close(self, name: str, sockets: list[socket.socket]) -> None:
        if name not in self.activated:
            for sock in sockets:
                sock.close()
            remove_file(name)

    def share(self, slot: int) -> Sockets:
        """What a worker accepts from."""
        return {name: share_of(sockets, slot, self.workers) for name, sockets in self.sockets.items()}

    def all(self) -> Iterator[socket.socket]:
        for group in (self.sockets, self.pending, self.activated):
            for sockets in group.values():
                yield from sockets

    def forget(self, but: Container[Any] = ()) -> None:
        """In a child: a listener is closed when nobody has its sockets any more, so nobody has more than it uses."""
        for sock in self.all():
            if sock not in but:
                sock.close()

    def remove_files(self, admin: Bind | None) -> None:
        """At the end. Not of what a service manager opened."""
        for name in (*self.sockets, str(admin or "")):
            if name not in self.activated:
                remove_file(name)


def write_pid(path: str) -> None:
    """Whole or not at all: whoever reads it finds a number. OSError."""
    with open(f"{path}.new", "w") as file:
        file.write(f"{os.getpid()}\n")
    os.replace(f"{path}.new", path)


def remove_pid(path: str) -> None:
    """Unless it is somebody else's by now."""
    with contextlib.suppress(OSError, ValueError):
        with open(path) as file:
            ours = int(file.read(32)) == os.getpid()
        if ours:
            os.unlink(path)
