"""A TCP proxy that holds, slows and cuts what passes through it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

from fastgw.testing.client import Address, connect, linger, reset


@dataclass
class Rule:
    """What happens to one direction of one connection. Counts are bytes from the connection's begin."""

    cut_at: int | None = None
    """After so many bytes both sides are ended."""
    with_reset: bool = True
    """The cut is RST; otherwise FIN."""
    hold_at: int | None = None
    """After so many bytes nothing passes until `gate` is set."""
    gate: threading.Event = field(default_factory=threading.Event)
    delay: float = 0.0
    """Seconds before each piece is passed on."""
    piece: int = 65536
    """Most bytes passed on at once."""


class CuttingProxy:
    """Stands before `target` on a port of its own. Rules apply to connections accepted after they were set.

    >>> proxy = CuttingProxy(("127.0.0.1", 9), to_client=Rule(cut_at=100))
    >>> proxy.stop()
    """

    def __init__(self, target: Address, *, to_client: Rule | None = None, to_server: Rule | None = None) -> None:
        self.target = target
        self.to_client = to_client or Rule()
        self.to_server = to_server or Rule()
        self.cuts = 0
        """How many connections were cut by a rule."""
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address: tuple[str, int] = ("127.0.0.1", self._listener.getsockname()[1])
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    def cut_all(self) -> int:
        """Resets every connection now; how many sockets that were."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for sock in sockets:
            self._end(sock, True)
        return len(sockets)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(30)
        self._listener.close()
        for rule in (self.to_client, self.to_server):
            rule.gate.set()
        self.cut_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = connect(self.target)
            except OSError:
                reset(client)
                continue
            for sock in (client, server):
                sock.settimeout(None)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            with self._lock:
                self._sockets |= {client, server}
            for source, sink, rule in ((client, server, self.to_server), (server, client, self.to_client)):
                threading.Thread(target=self._pump, args=(source, sink, rule), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, rule: Rule) -> None:
        passed = 0
        try:
            while True:
                if rule.hold_at is not None and passed >= rule.hold_at:
                    rule.gate.wait()
                want = rule.piece
                for mark in (rule.cut_at, None if rule.gate.is_set() else rule.hold_at):
                    if mark is not None and mark > passed:
                        want = min(want, mark - passed)
                data = source.recv(want)
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                if rule.delay:
                    time.sleep(rule.delay)
                sink.sendall(data)
                passed += len(data)
                if rule.cut_at is not None and passed >= rule.cut_at:
                    self.cuts += 1
                    self._cut(source, sink, rule.with_reset)
                    return
        except OSError:
            self._cut(source, sink, True)

    def _cut(self, source: socket.socket, sink: socket.socket, with_reset: bool) -> None:
        for sock in (source, sink):
            with self._lock:
                known = sock in self._sockets
                self._sockets.discard(sock)
            if known:
                self._end(sock, with_reset)

    @staticmethod
    def _end(sock: socket.socket, with_reset: bool) -> None:
        # a thread may sit in recv on it: shutdown wakes it, after which close can take effect
        with contextlib.suppress(OSError):
            if with_reset:
                linger(sock)
                sock.shutdown(socket.SHUT_RD)
            else:
                sock.shutdown(socket.SHUT_RDWR)
        sock.close()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
