"""The admin API: a small HTTP/1.1 server, bounded, not on anybody's hot path.

    GET  /                              the list of what there is
    GET  /health                        200 while the process lives
    GET  /ready                         200 when every worker serves, 503 before that and while draining
    GET  /metrics                       Prometheus
    GET  /services                      services and their endpoints' pools
    GET  /services/{name}/endpoints     the endpoints of one
    GET  /routes                        routes in the order of the file
    GET  /routes/stale                  routes by how long nobody asked for them, or their service had no endpoint
    GET  /mirrors                       routes whose requests are copied, and what became of the copies
    GET  /mirrors/{route}/report        what differs between the answers, ranked
    POST /mirrors/{route}/reset         forgets that
    GET  /config                        the configuration in force, secrets masked
    GET  /contract                      traffic that OpenAPI documents do not know, by the policy `openapi`
    /bans, /cache, /quotas, /sessions (and /users/{user}/sessions), /consumers, /plans and /keys: see bans.py, cache.py,
                                        quotas.py, sessions.py and keys.py
    POST /config/reload                 200 with the new generation, 400 with every problem
    POST /config/apply                  another file, at once or to a share of the clients first; see server.canary.Wish
    GET  /config/apply                  how it goes with the one that is tried, or how it went with the last one
    POST /config/apply/promote, /abort  ends what is tried now
    POST /upgrade                       200 when a new supervisor has taken over, 409 with why not
    GET  /limits; POST /limits/state, /limits/reset: see limits.py
    GET  /overload                      limits of requests under way: who waits and who was shed, by class and tenant
    GET  /circuit-breakers              circuit breakers, and how they are
    POST /circuit-breakers/{service}/reset   closes those of a service; /open and /close force them, /auto ends that;
                                        `-` are routes' own. A body chooses: {"endpoint": URL} or {"route": NAME}
    POST /drain                         stops the gateway gracefully
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from typing import Any, Literal, Protocol, cast
from urllib.parse import unquote

import httptools
import orjson
from pydantic import ValidationError

from fastgw.admin import bans, cache, keys, limits, quotas, sessions
from fastgw.admin.loopback import is_loopback
from fastgw.config.errors import Problem, dotted
from fastgw.config.findings import from_validation
from fastgw.policies._contract import report
from fastgw.server.canary import Wish
from fastgw.server.health import Health
from fastgw.server.key_desk import KeyDesk
from fastgw.server.keys import KeyProblem
from fastgw.server.limits import LimitDesk
from fastgw.server.purges import PurgeShare
from fastgw.server.quotas import QuotaDesk, QuotaProblem
from fastgw.server.shared import SharedMemory

logger = logging.getLogger("fastgw.admin")

MAX_HEAD = 16 * 1024
MAX_BODY = 64 * 1024
MAX_CONNECTIONS = 100
TIMEOUT = 30.0
"""Seconds in which a request must be there."""
ANSWER_TIMEOUT = 900.0
"""Seconds an answer may take: that of a reload may have to wait for another one, and for busy cores."""

ANSWERS = 1.0


class Backend(Protocol):
    """What the API shows; the server side implements it."""

    async def ready(self) -> tuple[bool, dict[str, Any]]: ...
    async def metrics(self) -> tuple[str, bytes]: ...
    async def services(self) -> list[dict[str, Any]]: ...
    async def snapshots(self) -> list[dict[str, Any]]: ...
    async def overload(self) -> dict[str, Any]: ...
    async def routes(self) -> list[dict[str, Any]]: ...
    async def stale_routes(self) -> dict[str, Any]: ...
    async def mirrors(self) -> dict[str, list[dict[str, Any]]]: ...
    async def reset_mirrors(self, route: str) -> None: ...
    async def config(self) -> dict[str, Any]: ...
    async def reload(self) -> tuple[bool, dict[str, Any]]: ...
    async def upgrade(self) -> tuple[bool, dict[str, Any]]: ...
    async def drain(self) -> None: ...
    @property
    def memory(self) -> SharedMemory: ...
    @property
    def desk(self) -> KeyDesk: ...
    @property
    def quotas(self) -> QuotaDesk: ...
    @property
    def limits(self) -> LimitDesk: ...
    @property
    def purges(self) -> PurgeShare: ...
    @property
    def health(self) -> Health: ...
    @property
    def rollout(self) -> Rollouts: ...


class Rollouts(Protocol):
    """`apply` (done, facts): at once, or begun when facts has `state`. The others give a report; None: nothing is
    tried."""

    async def apply(self, wish: Wish) -> tuple[bool, dict[str, Any]]: ...
    def report(self) -> dict[str, Any]: ...
    async def end(self, result: Literal["promoted", "aborted"]) -> dict[str, Any] | None: ...


Answer = tuple[int, str, bytes]

INDEX = {
    "GET": ["/health", "/ready", "/metrics", "/services", "/services/{name}/endpoints", "/routes", "/routes/stale",
            "/mirrors", "/mirrors/{route}/report", "/config", "/config/apply", "/consumers", "/plans", "/keys", "/bans",
            "/circuit-breakers", "/contract", "/overload", "/quotas", "/quotas/{name}/usage",
            "/quotas/{name}/usage.csv", "/quotas/{name}/usage/{period}", "/quotas/{name}/usage/{period}.csv",
            "/cache", "/cache/entries", "/sessions", "/users/{user}/sessions", "/limits"],
    "POST": ["/mirrors/{route}/reset", "/config/reload", "/config/apply", "/config/apply/promote",
             "/config/apply/abort", "/upgrade", "/drain", "/consumers", "/plans", "/keys", "/keys/{id}/rotate",
             "/circuit-breakers/{service}/reset", "/circuit-breakers/{service}/open", "/cache/purge",
             "/circuit-breakers/{service}/close", "/circuit-breakers/{service}/auto", "/quotas/{name}/grant",
             "/quotas/{name}/reset", "/limits/state", "/limits/reset"],
    "DELETE": ["/keys/{id}", "/consumers/{name}", "/plans/{name}", "/bans/{address}", "/sessions/{name}/{id}",
               "/users/{user}/sessions"],
}
REASONS = {
    200: "OK", 201: "Created", 202: "Accepted", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 409: "Conflict", 413: "Content Too Large", 421: "Misdirected Request",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip


def json(status: int, value: Any) -> Answer:
    return status, "application/json", orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS) + b"\n"


def problem(status: int, code: str, detail: str = "", **members: Any) -> Answer:
    value = {"type": "about:blank", "title": REASONS.get(status, "Error"), "status": status, "code": code}
    if detail:
        value["detail"] = detail
    return status, "application/problem+json", orjson.dumps({**value, **members}) + b"\n"


def problem_view(found: Problem) -> dict[str, Any]:
    """A problem of a configuration, as answers list it."""
    return {name: getattr(found, name) for name in found.__slots__}


CIRCUIT = re.compile(r"/circuit-breakers/([^/]+)/(reset|open|close|auto)")
MIRROR = re.compile(r"/mirrors/(.+)/(report|reset)")


def taken(done: bool, facts: dict[str, Any]) -> Answer:
    """What became of a new configuration."""
    if done:
        return json(202 if facts.get("state") == "watching" else 200, facts)
    busy = any(one["code"] == "canary_running" for one in facts["problems"])
    code = "canary_running" if busy else "bad_config"
    return problem(409 if busy else 400, code, "Nothing was changed.", **facts)


class Api:
    """The answers, apart from the transport. `token` None or empty: none is asked for."""

    def __init__(self, backend: Backend, token: str | None = None, metrics_path: str | None = "/metrics") -> None:
        self.backend = backend
        self.token = (token or "").encode()
        self.metrics_path = metrics_path

    def allowed(self, path: str, authorization: bytes) -> bool:
        """/health and /ready are open: probes carry no tokens."""
        if not self.token or path in ("/health", "/ready"):
            return True
        scheme, _, given = authorization.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self.token)

    async def answer(self, method: str, path: str, authorization: bytes = b"", body: bytes = b"",
                     query: str = "") -> Answer:  # fmt: skip
        if not self.allowed(path, authorization):
            return problem(401, "unauthorized", "Send the admin token as `Authorization: Bearer …`.")
        if keys.concerns(path):
            try:
                return json(*await keys.answer(self.backend.desk, method, path, body))
            except KeyProblem as error:
                return problem(error.status, error.code, str(error))
        if quotas.concerns(path):
            try:
                return await quotas.answer(self.backend.quotas, method, path, body)
            except QuotaProblem as error:
                return problem(error.status, error.code, str(error))
        if cache.concerns(path):
            status, value = await cache.answer(self.backend.purges, self.backend.snapshots, method, path, query, body)
            return problem(status, *value) if isinstance(value, tuple) else json(status, value)
        if sessions.concerns(path):
            status, value = await sessions.answer(self.backend.desk.config(), method, path)
            return problem(status, *value) if isinstance(value, tuple) else json(status, value)
        if bans.concerns(path):
            status, value = bans.answer(self.backend.memory, method, path)
            return problem(status, value) if isinstance(value, str) else json(status, value)
        if limits.concerns(path):
            await self.backend.snapshots()           # what the workers have counted is written now
            status, value = await limits.answer(self.backend.limits, method, path, body)
            return problem(status, *value) if isinstance(value, tuple) else json(status, value)
        handlers: dict[str, tuple[str, Any]] = {
            "/": ("GET", self.index),
            "/health": ("GET", self.health),
            "/ready": ("GET", self.ready),
            "/contract": ("GET", self.contract),
            "/services": ("GET", self.services),
            "/overload": ("GET", self.overload),
            "/routes": ("GET", self.routes),
            "/routes/stale": ("GET", self.stale_routes),
            "/mirrors": ("GET", self.mirrors),
            "/config": ("GET", self.config),
            "/config/reload": ("POST", self.reload),
            "/config/apply": ("GET", self.applied),
            "/config/apply/promote": ("POST", lambda: self.end("promoted")),
            "/config/apply/abort": ("POST", lambda: self.end("aborted")),
            "/upgrade": ("POST", self.upgrade),
            "/circuit-breakers": ("GET", self.circuits),
            "/drain": ("POST", self.drain),
        }
        if self.metrics_path is not None:
            handlers[self.metrics_path] = ("GET", self.metrics)
        if path.startswith("/services/") and path.endswith("/endpoints"):
            name = unquote(path[len("/services/") : -len("/endpoints")])
            handlers[path] = ("GET", lambda: self.endpoints(name))
        if path == "/config/apply" and method == "POST":
            handlers[path] = ("POST", lambda: self.apply(body))
        found = CIRCUIT.fullmatch(path)
        if found is not None:
            handlers[path] = ("POST", lambda: self.command(unquote(found[1]), found[2], body))
        found_mirror = MIRROR.fullmatch(path)
        if found_mirror is not None:
            route = unquote(found_mirror[1])
            handlers[path] = (
                ("GET", lambda: self.mirror_report(route)) if found_mirror[2] == "report"
                else ("POST", lambda: self.reset_mirror(route))
            )  # fmt: skip
        if path not in handlers:
            return problem(404, "not_found", "GET / lists what there is.")
        wanted, handler = handlers[path]
        if method != wanted and not (method == "HEAD" and wanted == "GET"):
            return problem(405, "method_not_allowed", f"Use {wanted}.")
        answer: Answer = await handler()
        return answer

    async def index(self) -> Answer:
        return json(200, INDEX)

    async def health(self) -> Answer:
        return json(200, {"status": "ok"})

    async def ready(self) -> Answer:
        ready, facts = await self.backend.ready()
        return json(200 if ready else 503, {"status": "ready" if ready else "not ready", **facts})

    async def metrics(self) -> Answer:
        content_type, body = await self.backend.metrics()
        return 200, content_type, body

    async def contract(self) -> Answer:
        return json(200, report(one["contract"] for one in await self.backend.snapshots()))

    async def services(self) -> Answer:
        return json(200, await self.backend.services())

    async def endpoints(self, name: str) -> Answer:
        for service in await self.backend.services():
            if service["name"] == name:
                return json(200, service["endpoints"])
        return problem(404, "unknown_service", f"There is no service {name!r}.")

    async def overload(self) -> Answer:
        return json(200, await self.backend.overload())

    async def circuits(self) -> Answer:
        return json(200, {"circuit_breakers": [one.view() for one in self.backend.health.circuits.states()]})

    async def command(self, service: str, word: str, body: bytes) -> Answer:
        """The body, where there is one, says which of them: `{"endpoint": URL}` or `{"route": NAME}`."""
        try:
            which = orjson.loads(body) if body else {}
        except orjson.JSONDecodeError:
            which = None
        if not isinstance(which, dict) or not set(which) <= {"route", "endpoint"} or len(which) > 1 \
                or not all(isinstance(value, str) for value in which.values()):
            return problem(400, "bad_request", 'The body is {"endpoint": URL}, {"route": NAME}, or nothing.')
        told = self.backend.health.circuits.command(service, word, which.get("route"), which.get("endpoint"))
        if not told:
            return problem(404, "unknown_circuit_breaker", "There is no such circuit breaker.")
        return json(200, {"circuit_breakers": [one.view() for one in told]})

    async def routes(self) -> Answer:
        return json(200, await self.backend.routes())

    async def stale_routes(self) -> Answer:
        return json(200, await self.backend.stale_routes())

    async def mirrors(self) -> Answer:
        rows = [row for rows in (await self.backend.mirrors()).values() for row in rows]
        return json(200, [{name: value for name, value in row.items() if name != "differences"} for row in rows])

    async def mirror_report(self, route: str) -> Answer:
        rows = (await self.backend.mirrors()).get(route)
        return json(200, rows) if rows else problem(404, "unknown_mirror", f"The route {route!r} is not mirrored.")

    async def reset_mirror(self, route: str) -> Answer:
        if route not in await self.backend.mirrors():
            return problem(404, "unknown_mirror", f"The route {route!r} is not mirrored.")
        await self.backend.reset_mirrors(route)
        return json(200, {"status": "forgotten"})

    async def config(self) -> Answer:
        return json(200, await self.backend.config())

    async def reload(self) -> Answer:
        return taken(*await self.backend.reload())

    async def apply(self, body: bytes) -> Answer:
        try:
            given = orjson.loads(body)
            wish = Wish.model_validate(given)
        except orjson.JSONDecodeError:
            return problem(400, "bad_request", 'The body is JSON: {"file": "…", "canary": {"share": "10%"}}.')
        except ValidationError as error:
            found = [
                Problem("error", one.code, "", 0, 0, dotted(one.path), one.message, one.expected, one.hint).as_dict()
                for one in from_validation(error, given, (), Wish)
            ]
            return problem(400, "bad_request", "Nothing was changed.", problems=found)
        return taken(*await self.backend.rollout.apply(wish))

    async def applied(self) -> Answer:
        return json(200, self.backend.rollout.report())

    async def end(self, result: Literal["promoted", "aborted"]) -> Answer:
        report = await self.backend.rollout.end(result)
        return problem(409, "nothing_tried", "No configuration is tried now.") if report is None else json(200, report)

    async def upgrade(self) -> Answer:
        done, facts = await self.backend.upgrade()
        return json(200, facts) if done else problem(409, "not_upgraded", **facts)

    async def drain(self) -> Answer:
        await self.backend.drain()
        return json(202, {"status": "draining"})


class AdminServer:
    """Listens for the API: `await start(sock=…)`, `await close()`."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.connections: set[Connection] = set()
        self.any_host = True
        self._server: asyncio.Server | None = None

    async def start(self, sock: Any) -> None:
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        # without a token, being asked on loopback is the credential; a page has it too when its name resolves to us
        self.any_host = bool(self.api.token) or sock.family.name == "AF_UNIX"
        if sock.family.name == "AF_UNIX":
            self._server = await loop.create_unix_server(lambda: Connection(self), sock=sock)
        else:
            self._server = await loop.create_server(lambda: Connection(self), sock=sock)

    def leave(self) -> None:
        """Somebody else accepts from the same socket; who asked already is answered."""
        if self._server is not None:
            self._server.close()

    async def close(self, answers: bool = False) -> None:
        """`answers`: what is being worked on is answered first, within ANSWERS seconds."""
        self.leave()
        tasks = [connection.task for connection in self.connections if connection.task is not None]
        if answers and tasks:
            await asyncio.wait(tasks, timeout=ANSWERS)
            await asyncio.sleep(0)                   # what they wrote leaves, and closes its connection
        for connection in list(self.connections):
            connection.drop()


class Connection(asyncio.Protocol):
    """One request, one answer, then it closes: simple to bound, and probes do not mind."""

    def __init__(self, server: AdminServer) -> None:
        self.server = server
        self.parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.target = b""
        self.authorization = b""
        self.hosts: list[bytes] = []
        self.from_page = False
        self.head = 0
        self.body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        if len(self.server.connections) >= MAX_CONNECTIONS:
            transport.abort()
            return
        self.server.connections.add(self)
        self.timer = asyncio.get_running_loop().call_later(TIMEOUT, self.drop)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        if self.timer is not None:
            self.timer.cancel()
        if self.task is not None:
            self.task.cancel()

    def drop(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.task is not None:
            return
        self.head += len(data)
        if self.head > MAX_HEAD + MAX_BODY:
            self.send(problem(431, "headers_too_large"))
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.send(problem(400, "bad_request"))
        except httptools.HttpParserError:
            self.send(problem(400, "bad_request"))

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self.authorization = value
        elif name.lower() == b"origin":
            self.from_page = True
        elif name.lower() == b"host":
            self.hosts.append(value)

    def on_headers_complete(self) -> None:
        if self.head > MAX_HEAD + len(self.target):
            self.send(problem(431, "headers_too_large"))

    def on_body(self, body: bytes) -> None:
        self.body += body
        if len(self.body) > MAX_BODY:
            self.send(problem(413, "body_too_large"))

    def on_message_complete(self) -> None:
        if self.transport is not None and not self.transport.is_closing() and self.task is None:
            if self.from_page:
                # RFC 6454, Section 7: browsers name the page behind a request; no page has a say in a gateway,
                # even where the listener is on loopback and asks for no token
                self.send(problem(403, "cross_origin", "The admin API does not answer web pages."))
                return
            if not self.server.any_host and not all(map(is_loopback, self.hosts)):
                # RFC 9110, Section 7.4: a request for an origin we are not. A page on a name that its owner makes
                # resolve to 127.0.0.1 (DNS rebinding) is of the same origin as we are: it sends no Origin with GET
                self.send(problem(421, "wrong_host", "Ask by `localhost` or an address of loopback, or set a token."))
                return
            method = self.parser.get_method().decode()
            path, _, query = self.target.decode("latin-1").partition("?")
            if self.timer is not None:
                self.timer.cancel()
            self.timer = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT, self.drop)
            self.task = asyncio.get_running_loop().create_task(self.answer(method, path, query))

    async def answer(self, method: str, path: str, query: str) -> None:
        try:
            found = await self.server.api.answer(method, path, self.authorization, bytes(self.body), query)
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("the admin API failed on %s %s", method, path)
            found = problem(500, "internal_error")
        self.send(found, head_only=method == "HEAD")

    def send(self, answer: Answer, head_only: bool = False) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        status, content_type, body = answer
        extra = "WWW-Authenticate: Bearer\r\n" if status == 401 else ""
        head = (
            f"HTTP/1.1 {status} {REASONS.get(status, '')}\r\nContent-Type: {content_type}\r\n{extra}"
            f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + (b"" if head_only else body))
        self.transport.close()
