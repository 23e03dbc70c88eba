"""Small real services to put a gateway in front of: what `fastgw demo` runs and what tests may talk to.

Three services (`users`, `orders`, `products`) live in one process, each on its own port. Each answers, at its
root, below `/NAME` and below `/api/NAME` (so that it can be reached with and without `strip_prefix`):

    GET  /health           {"status": "ok", "service": NAME}
    GET  /                 the collection              GET /{id}   one item of it, or 404
    POST /                 201 with the item as it was sent, and a new id
    *    /echo             what reached the service: method, target, headers, body
    GET  /slow?ms=500      answers after that time (at most 30 s)
    GET  /stream?n=5&ms=200   n lines of JSON, chunked, one every ms
    GET  /events?n=0&ms=1000  a clock as Server-Sent Events; n=0 ticks until the client leaves
    *    /status/{code}    that status (200 to 599)
    GET  /socket           a WebSocket that sends back what it gets

Plain asyncio protocols and httptools, meant to be read. It is a demonstration, not a web server: request
bodies are held in memory up to `MAX_BODY` bytes and there are no time limits on clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import httptools
import orjson

from fastgw.testing.demo_sockets import EchoSocket, accept_key

MAX_BODY = 1024 * 1024
"""Bytes of a request body that a service holds; more is answered with 413."""

MAX_PIPELINED = 16
"""Requests that may wait on one connection before reading stops."""

MAX_WAIT_MS = 30_000
MAX_ITEMS = 10_000

DEMO_PORTS: Mapping[str, int] = {"users": 9001, "orders": 9002, "products": 9003}
LIBRARY_PORT = 9010
"""Of the gRPC service."""

COLLECTIONS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "users": (
        {"id": 1, "name": "Ada Lovelace", "email": "ada@example.com"},
        {"id": 2, "name": "Grace Hopper", "email": "grace@example.com"},
        {"id": 3, "name": "Alan Turing", "email": "alan@example.com"},
    ),
    "orders": (
        {"id": 1, "user": 1, "product": 2, "quantity": 1, "status": "shipped"},
        {"id": 2, "user": 2, "product": 1, "quantity": 3, "status": "open"},
    ),
    "products": (
        {"id": 1, "name": "Punched cards, box of 2,000", "price_cents": 1250},
        {"id": 2, "name": "Slide rule", "price_cents": 4900},
        {"id": 3, "name": "Core memory plane", "price_cents": 25900},
    ),
}


DEMO_TOKEN = "demo-token"
"""Whom the demo's authorizer lets in."""


@dataclass(slots=True)
class Request:
    """One request as it reached the service. Header names keep the case in which they came."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    keep_alive: bool = True

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query))

    def number(self, name: str, default: int, most: int) -> int:
        """A whole number of the query, kept between 0 and `most`; the default when absent or no number."""
        try:
            return max(0, min(int(self.query.get(name, default)), most))
        except ValueError:
            return default


@dataclass(slots=True)
class Response:
    """What a handler returns: bytes are sent with Content-Length, an iterator of bytes is sent chunked."""

    status: int = 200
    body: bytes | AsyncIterator[bytes] = b""
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = field(default_factory=list)
    close: bool = False


Handler = Callable[[Request], Awaitable[Response]]


def json_response(value: object, status: int = 200) -> Response:
    return Response(status, orjson.dumps(value) + b"\n")


class DemoService:
    """One service: its name, its items, its answers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.items = COLLECTIONS.get(name, ())
        self._new_id = itertools.count(100)

    def __repr__(self) -> str:
        return f"<DemoService {self.name}: {len(self.items)} items>"

    async def handle(self, request: Request) -> Response:
        path = self.own_path(urlsplit(request.target).path)
        first, _, rest = path.strip("/").partition("/")
        match first:
            case "health":
                return json_response({"status": "ok", "service": self.name})
            case "echo":
                return json_response(self.echo(request))
            case "slow":
                wait_ms = request.number("ms", 500, MAX_WAIT_MS)
                await asyncio.sleep(wait_ms / 1000)
                return json_response({"service": self.name, "waited_ms": wait_ms})
            case "stream":
                lines = self.lines(request.number("n", 5, MAX_ITEMS), request.number("ms", 200, MAX_WAIT_MS))
                return Response(body=lines, content_type="application/x-ndjson")
            case "events":
                ticks = self.clock(request.number("n", 0, MAX_ITEMS), request.number("ms", 1000, MAX_WAIT_MS))
                no_store = [("Cache-Control", "no-store")]
                return Response(body=ticks, content_type="text/event-stream", headers=no_store)
            case "status":
                code = int(rest) if rest.isdigit() and 200 <= int(rest) <= 599 else 400
                return json_response({"service": self.name, "status": code}, code)
            case "verify":  # an authorizer, as `forward_auth` asks one
                return self.verify(request)
            case "decide":  # a policy engine, as `opa` asks one
                return self.decide(request)
            case "catalog":  # the old address of /products/{id}: something to rewrite to
                return self.item(request.query.get("id", ""))
        return self.collection(request) if not first else self.item(first)

    def verify(self, request: Request) -> Response:
        """Lets in who has the demo's token, and tells who that is."""
        given = {name.lower(): value for name, value in request.headers}.get("authorization")
        if given != f"Bearer {DEMO_TOKEN}":
            return json_response({"error": f"send Authorization: Bearer {DEMO_TOKEN}"}, 401)
        answer = json_response({"user": "ada"})
        answer.headers += [("X-Auth-User", "ada"), ("X-Auth-Groups", "staff")]
        return answer

    def decide(self, request: Request) -> Response:
        """Reading is allowed, writing to staff alone."""
        try:
            given = orjson.loads(request.body)["input"]
            groups = (given["consumer"] or {}).get("groups", ())
            allow = given["method"] in ("GET", "HEAD") or "staff" in groups
        except (ValueError, KeyError, TypeError, AttributeError):
            return json_response({"error": "no input"}, 400)
        return json_response({"result": {"allow": allow, "reason": None if allow else "only staff may write"}})

    def own_path(self, path: str) -> str:
        """The path below the service's own root: `/api/users/7`, `/users/7` and `/7` are one."""
        for prefix in ("/api", f"/{self.name}"):
            if path == prefix or path.startswith(prefix + "/"):
                path = path[len(prefix) :]
        return unquote(path)

    def collection(self, request: Request) -> Response:
        if request.method in ("GET", "HEAD"):
            return json_response({"service": self.name, self.name: self.items})
        if request.method != "POST":
            refused = json_response({"error": "method not allowed", "allow": ["GET", "HEAD", "POST"]}, 405)
            refused.headers.append(("Allow", "GET, HEAD, POST"))
            return refused
        try:
            sent = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            return json_response({"error": "the body is not JSON"}, 400)
        if not isinstance(sent, dict):
            return json_response({"error": "the body is not a JSON object"}, 400)
        return json_response({**sent, "id": next(self._new_id)}, 201)

    def item(self, wanted: str) -> Response:
        for item in self.items:
            if str(item["id"]) == wanted:
                return json_response(item)
        return json_response({"error": f"{self.name} has no item {wanted!r}"}, 404)

    def echo(self, request: Request) -> dict[str, Any]:
        return {
            "service": self.name,
            "method": request.method,
            "target": request.target,
            "headers": [[name, value] for name, value in request.headers],
            "body": request.body.decode("utf-8", "replace"),
        }

    async def lines(self, count: int, interval_ms: int) -> AsyncIterator[bytes]:
        for n in range(1, count + 1):
            yield orjson.dumps({"service": self.name, "line": n, "of": count}) + b"\n"
            if n < count:
                await asyncio.sleep(interval_ms / 1000)

    async def clock(self, count: int, interval_ms: int) -> AsyncIterator[bytes]:
        for n in itertools.count(1):
            now = time.strftime("%H:%M:%S", time.gmtime())
            yield b"id: %d\nevent: tick\ndata: %s\n\n" % (n, orjson.dumps({"service": self.name, "utc": now}))
            if n == count:
                return
            await asyncio.sleep(interval_ms / 1000)


class DemoConnection(asyncio.Protocol):
    """One client connection: httptools callbacks fill a queue, one task answers it in order."""

    def __init__(self, handler: Handler, name: str, connections: set[DemoConnection]) -> None:
        self._handler = handler
        self._server = f"fastgw-demo/{name}".encode()
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request | Response] = deque()
        self._wake = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._stopped_reading = False
        self._ahead = b""
        self._socket: EchoSocket | None = None

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._answer_all())

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()
        if self._socket is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._writable.set()
        if self._socket is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._socket is not None:
            self._echo(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # What follows is the other protocol, once the request is answered. Where that is not to be changed the
            # request is answered as any other (RFC 9110, 7.8), and the connection ends.
            self._ahead = data[upgrade.args[0] :]
            self._stop_reading()
        except httptools.HttpParserError:
            self._enqueue(Response(400, b'{"error":"not HTTP"}\n', close=True))
            self._stop_reading()
        if len(self._waiting) >= MAX_PIPELINED:
            self._transport.pause_reading()

    async def shut(self) -> None:
        """Ends the connection and waits for its task."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._transport.abort()

    # The parser's side (names given by httptools).

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._size = 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        expects = any(n.lower() == "expect" and v.lower() == "100-continue" for n, v in self._headers)
        if expects and not self._waiting:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size <= MAX_BODY:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._size > MAX_BODY:
            self._enqueue(Response(413, b'{"error":"body too large"}\n', close=True))
            self._stop_reading()
            return
        method = self._parser.get_method().decode()
        keep = self._parser.should_keep_alive()
        target = self._target.decode("latin-1")
        self._enqueue(Request(method, target, self._headers, b"".join(self._body), keep))

    # Answering.

    def _enqueue(self, item: Request | Response) -> None:
        if not self._stopped_reading:
            self._waiting.append(item)
            self._wake.set()

    def _stop_reading(self) -> None:
        self._stopped_reading = True
        self._transport.pause_reading()
        self._wake.set()

    async def _answer_all(self) -> None:
        keep_alive = True
        while keep_alive:
            while not self._waiting:
                if self._stopped_reading:
                    self._transport.close()
                    return
                self._wake.clear()
                await self._wake.wait()
            item = self._waiting.popleft()
            if not self._stopped_reading and len(self._waiting) < MAX_PIPELINED:
                self._transport.resume_reading()
            if isinstance(item, Response):
                keep_alive = await self._send(item, "GET", False)
            else:
                if self._becomes_a_socket(item):
                    return
                response = await self._handler(item)
                keep_alive = await self._send(response, item.method, item.keep_alive)
        self._transport.close()

    def _becomes_a_socket(self, request: Request) -> bool:
        """Answers a handshake for `/socket`; from then on bytes come to `_echo`."""
        accept = accept_key(request.headers)
        if accept is None or not urlsplit(request.target).path.endswith("/socket") or not self._stopped_reading:
            return False
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept.encode()
        )
        self._socket = EchoSocket()
        self._echo(self._ahead)
        self._transport.resume_reading()
        return True

    def _echo(self, data: bytes) -> None:
        assert self._socket is not None
        if answer := self._socket.feed(data):
            self._transport.write(answer)
        if self._socket.closed:
            self._transport.close()

    async def _send(self, response: Response, method: str, keep_alive: bool) -> bool:
        keep_alive = keep_alive and not response.close
        bodyless = method == "HEAD" or response.status in (204, 304)
        head = [
            b"HTTP/1.1 %d %s" % (response.status, reason(response.status)),
            b"Server: " + self._server,
            b"Date: " + formatdate(usegmt=True).encode(),
        ]
        if response.status not in (204, 304):
            head.append(b"Content-Type: " + response.content_type.encode())
            if isinstance(response.body, bytes):
                head.append(b"Content-Length: %d" % len(response.body))
            else:
                head.append(b"Transfer-Encoding: chunked")
        head += [f"{name}: {value}".encode("latin-1") for name, value in response.headers]
        if not keep_alive:
            head.append(b"Connection: close")
        block = b"\r\n".join(head) + b"\r\n\r\n"
        if bodyless:
            self._transport.write(block)
        elif isinstance(response.body, bytes):
            self._transport.write(block + response.body)
        else:
            self._transport.write(block)
            await self._send_chunks(response.body)
        await self._writable.wait()
        return keep_alive

    async def _send_chunks(self, pieces: AsyncIterator[bytes]) -> None:
        async for piece in pieces:
            self._transport.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await self._writable.wait()
        self._transport.write(b"0\r\n\r\n")


def reason(status: int) -> bytes:
    try:
        return http.HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Status"


class DemoServers:
    """The services on their sockets: `async with DemoServers(ports={"users": 0}) as demo: demo.url("users")`.

    `ports` maps a service's name to its port; port 0 takes a free one, `self.ports` tells which.
    Any name is allowed: one without a collection of its own has an empty one.
    Raises OSError, with the address in it, when a port is taken.
    """

    def __init__(self, host: str = "127.0.0.1", ports: Mapping[str, int] = DEMO_PORTS) -> None:
        self.host = host
        self.ports = dict(ports)
        self._servers: list[asyncio.Server] = []
        self._connections: set[DemoConnection] = set()

    def __repr__(self) -> str:
        return f"<DemoServers {' '.join(f'{name}={self.url(name)}' for name in self.ports)}>"

    def url(self, name: str) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.ports[name]}"

    async def __aenter__(self) -> DemoServers:
        loop = asyncio.get_running_loop()
        try:
            for name, port in self.ports.items():
                handler = DemoService(name).handle

                def connect(handler: Handler = handler, name: str = name) -> DemoConnection:
                    return DemoConnection(handler, name, self._connections)

                server = await loop.create_server(connect, self.host, port)
                self._servers.append(server)
                self.ports[name] = server.sockets[0].getsockname()[1]
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the listeners and every connection; what is being answered is cut."""
        for server in self._servers:
            server.close()
        for connection in tuple(self._connections):
            await connection.shut()
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()


@contextlib.contextmanager
def demo_library(host: str = "127.0.0.1", port: int = LIBRARY_PORT) -> Iterator[str | None]:
    """Serves the gRPC service (fastgw.testing.demo_grpc); its URL, or None when `fastgw[grpc]` is not installed."""
    try:
        from fastgw.testing.demo_grpc import LibraryServer
    except ImportError:
        yield None
        return
    with LibraryServer(host, port) as library:
        yield library.url


async def serve_demo(
    host: str = "127.0.0.1",
    ports: Mapping[str, int] = DEMO_PORTS,
    started: Callable[[DemoServers], None] | None = None,
) -> None:
    """Serves until it is cancelled, then closes everything. `started` is called once all ports listen."""
    async with DemoServers(host, ports) as demo:
        if started is not None:
            started(demo)
        await asyncio.get_running_loop().create_future()
