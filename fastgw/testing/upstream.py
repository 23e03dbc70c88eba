"""A scripted upstream on a real socket, which remembers every byte it was sent."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from fastgw.testing.client import linger, reset
from fastgw.testing.messages import Incomplete, Request, WireReader, parse_headers

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Stopped(Exception):
    """The upstream is being stopped; ends a handler."""


class UpstreamConnection:
    """One accepted connection, as a handler sees it. Every read and wait is bounded by `timeout` seconds."""

    def __init__(self, sock: socket.socket, owner: FakeUpstream, number: int) -> None:
        self.peer: object = None
        with contextlib.suppress(OSError):
            self.peer = sock.getpeername()
        self.sock = sock
        self.owner = owner
        self.number = number
        """0 for the first connection of a script, and so on."""
        self.reader = WireReader(sock, owner.timeout)
        self.requests: list[Request] = []
        self.ended = threading.Event()
        """Set when the peer was seen to close, or when this side has closed."""
        self.how: str | None = None
        """How the peer ended it: "eof" or "reset"; None while open or when this side closed first."""
        self._silent = False

    @property
    def received(self) -> bytes:
        """Every byte that arrived on this connection and was read."""
        return bytes(self.reader.received)

    def read_head(self) -> Request:
        """Reads a request head. Raises Incomplete when the peer leaves instead."""
        try:
            raw, lines = self.reader.head()
        except Incomplete as stop:
            self._gone(stop)
            raise
        request = Request(lines[0].decode("latin-1"), parse_headers(lines[1:]), raw, bytearray(raw))
        self.requests.append(request)
        self.owner.record(request)
        return request

    def read_body(self, request: Request) -> Request:
        """Reads the body of a request whose head was read."""
        try:
            self.reader.body(request, request.framing())
        except Incomplete as stop:
            self._gone(stop)
            raise
        self.owner.changed()
        return request

    def read_request(self) -> Request:
        return self.read_body(self.read_head())

    def read_more(self) -> None:
        """Receives once, whatever comes, without reading it as a message."""
        try:
            self.reader.fill(time.monotonic() + self.reader.timeout)
        except Incomplete as stop:
            self._gone(stop)
            raise

    def send(self, data: bytes) -> None:
        """Sends all of it, also when that takes long. Raises OSError when the peer is gone."""
        self.sock.settimeout(self.owner.timeout)
        self.sock.sendall(data)

    def drip(self, data: bytes, size: int = 1, between: Callable[[], None] | None = None) -> None:
        """Sends `size` bytes at a time and calls `between` after each piece."""
        for at in range(0, len(data), size):
            self.send(data[at : at + size])
            if between is not None:
                between()

    def wait(self, event: threading.Event) -> None:
        """Waits until the test sets `event`."""
        deadline = time.monotonic() + self.owner.timeout
        while not event.wait(0.02):
            if self.owner.stopping:
                raise Stopped
            if time.monotonic() > deadline:
                raise TimeoutError("the event of a script was never set")

    def hang(self) -> None:
        """Sends nothing, reads and records until the peer closes."""
        with contextlib.suppress(Incomplete):
            while True:
                self.read_more()

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Ends the connection with RST."""
        reset(self.sock)
        self.ended.set()

    def kill(self, with_reset: bool) -> None:
        """Ends the connection from another thread than the handler's, whatever that one is doing."""
        with contextlib.suppress(OSError):
            if with_reset:
                # shutdown only wakes the handler; its close sends the RST, if no FIN went before
                self._silent = True
                linger(self.sock)
                self.sock.shutdown(socket.SHUT_RD)
            else:
                self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the connection with FIN."""
        if not self._silent:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.ended.set()

    def _gone(self, stop: Incomplete) -> None:
        if stop.how != "timeout":
            self.how = stop.how
            self.ended.set()
            self.owner.changed()


Handler = Callable[[UpstreamConnection], None]
"""Plays one connection; runs in its own thread. When it returns, the connection is closed."""


def answer(*answers: bytes) -> Handler:
    """Reads requests one after the other, answers each with the next of `answers`, the last one for ever."""

    def play(connection: UpstreamConnection) -> None:
        for number in itertools.count():
            connection.read_request()
            connection.send(answers[min(number, len(answers) - 1)])

    return play


class Gate:
    """Answers each request when `open` is set: waits until then, and answers at once afterwards."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.open = threading.Event()

    def __call__(self, connection: UpstreamConnection) -> None:
        while True:
            connection.read_request()
            connection.wait(self.open)
            connection.send(self.answer)


def answer_and(end: str, *answers: bytes) -> Handler:
    """Answers one request with each of `answers`, then ends: "close", "reset" or "hang"."""

    def play(connection: UpstreamConnection) -> None:
        for data in answers:
            connection.read_request()
            connection.send(data)
        if end == "hang":
            connection.hang()
        elif end == "reset":
            connection.reset()

    return play


def close_without_answer(connection: UpstreamConnection) -> None:
    """Reads one request and closes."""
    connection.read_request()


def reset_without_answer(connection: UpstreamConnection) -> None:
    """Reads one request and resets."""
    connection.read_request()
    connection.reset()


def hang(connection: UpstreamConnection) -> None:
    """Accepts and never says a word."""
    connection.hang()


class FakeUpstream:
    """An HTTP/1.1 server that does what a test says, over TCP (port 0) or a unix socket.

    `play` is one handler for every connection, or several: the first for the first connection and so on, the
    last for all that follow. It may be replaced while running.

    >>> with FakeUpstream(answer(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")) as upstream:
    ...     upstream.url.startswith("http://127.0.0.1:")
    True
    """

    def __init__(
        self,
        *play: Handler,
        host: str = "127.0.0.1",
        path: str | os.PathLike[str] | None = None,
        timeout: float = 30.0,
        receive_buffer: int = 0,
    ) -> None:
        self.play: tuple[Handler, ...] = play or (answer(OK),)
        self.timeout = timeout
        self.stopping = False
        self.connections: list[UpstreamConnection] = []
        self.requests: list[Request] = []
        """Of all connections, in the order their heads came."""
        self.errors: list[BaseException] = []
        """What handlers raised beyond the peer's leaving; `stop` raises the first."""
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._next = 0
        if path is not None:
            self.address: tuple[str, int] | str = os.fspath(path)
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(self.address)
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.socket(family, socket.SOCK_STREAM)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if receive_buffer:
                self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self._listener.bind((host, 0))
            self.address = (host, self._listener.getsockname()[1])
        self._listener.listen(256)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def url(self) -> str:
        """What a service's endpoint says to reach it."""
        if isinstance(self.address, str):
            return f"unix:{self.address}"
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def script(self, *play: Handler) -> None:
        """Replaces the handlers: the next connection plays the first. Forgets what was recorded before."""
        with self._changed:
            self.play = play
            self._next = 0
        self.forget()

    def wait_for(self, condition: Callable[[], bool], what: str = "", timeout: float | None = None) -> None:
        """Waits until `condition()` holds; it is looked at whenever something arrives."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        with self._changed:
            while not condition():
                if time.monotonic() > deadline:
                    raise AssertionError(f"the upstream waited in vain for {what or condition}; {self!r}")
                self._changed.wait(0.02)

    def wait_requests(self, n: int, *, complete: bool = True) -> list[Request]:
        """Waits for `n` requests (whole ones by default) over all connections."""
        self.wait_for(lambda: sum(r.complete or not complete for r in self.requests) >= n, f"{n} requests")
        return self.requests

    def wait_connections(self, n: int) -> list[UpstreamConnection]:
        self.wait_for(lambda: len(self.connections) >= n, f"{n} connections")
        return self.connections

    def open_connections(self) -> int:
        return sum(not connection.ended.is_set() for connection in self.connections)

    def forget(self) -> None:
        """Empties the record of requests and of ended connections."""
        with self._changed:
            self.requests.clear()
            self.connections[:] = [c for c in self.connections if not c.ended.is_set()]
            self._threads[:] = [t for t in self._threads if t.is_alive()]

    def settle(self) -> None:
        """Ends all connections, those too that wait to be accepted, and empties the record."""
        assert not isinstance(self.address, str), "over TCP only"
        self.kill_connections(with_reset=False)
        with socket.create_connection(self.address, self.timeout) as last:
            me = last.getsockname()[:2]
            # accepted in order: when this one is, all before it were
            self.wait_for(lambda: any(str(c.peer) == str(me) for c in self.connections), "its own connection")
        self.kill_connections(with_reset=False)
        self.wait_for(lambda: self.open_connections() == 0, "its connections to end")
        self.forget()

    def kill_connections(self, *, with_reset: bool = True) -> int:
        """Ends every open connection at once, by RST unless told otherwise; the number of them."""
        alive = [c for c in self.connections if not c.ended.is_set()]
        for connection in alive:
            connection.kill(with_reset)
        return len(alive)

    def stop(self) -> None:
        """Closes everything. Raises what a handler raised, if one did."""
        self.stopping = True
        # woken, and gone before the descriptor's number is another listener's: accept begins anew after SIGCONT
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(self.timeout)
        self._listener.close()
        self.kill_connections(with_reset=False)
        for thread in self._threads:
            thread.join(self.timeout)
        if isinstance(self.address, str):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.address)
        if self.errors:
            raise self.errors[0]

    def record(self, request: Request) -> None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def changed(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                connection = UpstreamConnection(sock, self, self._next)
                play = self.play[min(self._next, len(self.play) - 1)]
                self._next += 1
                thread = threading.Thread(target=self._run, args=(connection, play), daemon=True)
                self.connections.append(connection)
                self._threads.append(thread)
                self._changed.notify_all()
            thread.start()

    def _run(self, connection: UpstreamConnection, play: Handler) -> None:
        try:
            play(connection)
        except (Incomplete, Stopped, OSError):
            pass  # the peer left, or the test is over: the script ends where it stands
        except BaseException as error:
            self.errors.append(error)
        finally:
            connection.close()
            self.changed()

    def __repr__(self) -> str:
        return (
            f"<FakeUpstream {self.address}: {len(self.connections)} connections "
            f"({self.open_connections()} open), {len(self.requests)} requests>"
        )

    def __enter__(self) -> FakeUpstream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except BaseException:
            if error is None:
                raise


def chunked(pieces: Iterable[bytes], trailers: bytes = b"") -> bytes:
    """The chunked coding of `pieces`; `trailers` are whole lines with their CRLF."""
    coded = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return coded + b"0\r\n" + trailers + b"\r\n"
