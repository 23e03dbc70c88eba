"""The rooms `server` and `admin`: what the gateway listens at, and how much it lets in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Tag, WithJsonSchema, model_validator

from fastgw.config.fields import Cidr, Duration, Secret, Size, shown, wrong
from fastgw.config.schema.address import Bind, BindAddress
from fastgw.config.schema.base import ROOM_TAG, WORD, Room, key, word_or_room
from fastgw.config.schema.tcp import Tcp
from fastgw.config.schema.tls import ListenerTls


class Http2(Room):
    """HTTP/2 of clients. A bare `true` or `false` is the short form of `{enabled: …}`."""

    enabled: bool = key(
        True, "Whether it is spoken: with TLS where the client wants it (ALPN), without TLS by prior knowledge (h2c)."
    )
    max_concurrent_streams: int = key(128, "Requests of one connection at a time.", ge=1, le=10000)
    initial_window_size: Size = key(
        64 * 1024, "Bytes of a request body that a client may send ahead of the upstream.", ge=1024, le=16 * 1024 * 1024
    )
    resets: int = key(
        200, "Requests a client may take back at once, and 50 more a second; more end the connection.", ge=1, le=100000
    )
    spare_frames: int = key(
        2000,
        "Frames that carry no request (SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty ones) at once, and 200 more a "
        "second; more end the connection.",
        ge=10,
        le=1000000,
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"enabled": value} if isinstance(value, bool) else value


class ProxyProtocol(Room):
    """The PROXY protocol, versions 1 and 2, of connections from load balancers: the client's address comes with it."""

    trusted_proxies: tuple[Cidr, ...] = key(
        doc="Addresses whose connections begin with it; others are served as they are, without. On a unix socket it is "
        "everybody.",
        min_length=1,
        max_length=1000,
        example=["10.0.0.0/8"],
    )
    required: bool = key(
        True, "Whether a connection of theirs without it is closed. With `false` whoever reaches them may forge one."
    )
    timeout: Duration = key(
        3.0, "From the accepted connection to the end of the header; then it is closed.", ge=0.1, le=60
    )


TlsChoice = Annotated[
    Annotated[Literal["passthrough"], Tag(WORD)] | Annotated[ListenerTls, Tag(ROOM_TAG)], Discriminator(word_or_room)
]


class Listener(Room):
    """One place to listen at. A bare address is the short form of `{bind: address}`."""

    bind: BindAddress = key(
        doc="`host:port`, `[::]:port`, `:port` (every IPv4 address) or `unix:/path`. Port 0 takes a "
        "free one.",
        example="0.0.0.0:8080",
    )
    protocol: Literal["http", "tcp"] = key(
        "http", "What is spoken; with `tcp` bytes are passed on as they are, and no route or policy sees them."
    )
    tcp: Tcp | None = key(None, "With `protocol: tcp`: where connections go.")
    http2: Http2 = key(Http2(), "HTTP/2 of clients.")
    proxy_protocol: ProxyProtocol | None = key(None, "Load balancers in front that speak the PROXY protocol.")
    tls: TlsChoice | None = key(
        None,
        "Certificates; the listener then speaks TLS. With `protocol: tcp` also `passthrough`: TLS goes on as it is, by "
        "the name it asks for.",
    )

    @property
    def passthrough(self) -> bool:
        return self.tls == "passthrough"

    @property
    def own_tls(self) -> ListenerTls | None:
        """How TLS is spoken here; None where it is not, or passes through."""
        return self.tls if isinstance(self.tls, ListenerTls) else None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"bind": value} if isinstance(value, (str, int)) else value


class ConnectionRate(Room):
    """A token bucket per client address, shared by all workers; of IPv6 addresses the first 64 bits count."""

    rate: int = key(doc="So many new connections …", ge=1, le=1_000_000, example=50)
    per: Duration = key(1.0, "… in so much time.", ge=0.001, le=3600)
    burst: int | None = key(None, "How many may come at once. Left out, `rate`.", ge=1, le=1_000_000, example=200)


class ConnectionBan(Room):
    """Addresses whose connections come to nothing: refused by `connection_rate` or `connections_per_address`, or with a
    TLS handshake that fails. Who is banned, by the policy `ban` too, has new connections closed at once, before TLS."""

    failures: int = key(50, "So many of them …", ge=2, le=1_000_000)
    per: Duration = key(60.0, "… in so much time.", ge=1, le=86400)
    length: Duration = key(600.0, "How long a ban is.", ge=1, le=30 * 86400)


class ServerLimits(Room):
    """What a client may send. Every limit has its own answer."""

    header_size: Size = key(
        32 * 1024, "Bytes of the request line and all headers together; more is 431.", ge=1024, le=1024 * 1024
    )
    header_count: int = key(100, "Headers of a request; more is 431.", ge=1, le=1000)
    target_size: Size = key(8 * 1024, "Bytes of the request target; more is 414.", ge=256, le=1024 * 1024)
    body_size: Size = key(
        10 * 1024 * 1024,
        "Bytes of a request body, also a chunked one; more is 413. A route may have its own.",
        ge=0,
        le=2**40,
    )
    connections: int = key(
        10000, "Open client connections of one worker; more are closed at once.", ge=1, le=1000000
    )
    connections_per_address: int | None = key(
        None, "The same for one client address; `null` is no limit of its own.", ge=1, le=1000000, example=200
    )
    connection_rate: ConnectionRate | None = key(
        None, "How fast one client address may open connections; more are closed at once. Not for `trusted_proxies`."
    )
    connection_ban: ConnectionBan | None = key(
        None, "Ban addresses whose connections come to nothing. Not for `trusted_proxies`."
    )
    backlog: int = key(
        4096,
        "Connections that may wait to be accepted, of one listener and worker; net.core.somaxconn bounds it.",
        ge=1,
        le=1_000_000,
    )
    defer_accept: Duration | None = key(
        None,
        "A connection is accepted when its first bytes are there (TCP_DEFER_ACCEPT), or after so long: who only "
        "connects costs the kernel alone. Not for listeners whose service speaks first.",
        ge=1,
        le=120,
        example="5s",
    )
    requests_per_connection: int = key(
        10000, "After so many requests a connection is closed politely.", ge=1, le=2**31 - 1
    )
    pipelined: int = key(
        32,
        "Requests of one connection that may wait for the one before; reading pauses there.",
        ge=1,
        le=1000,
    )


class ServerTimeouts(Room):
    """How long the gateway waits for a client."""

    header: Duration = key(
        10.0, "From the first byte of a request to the end of its headers; then 408.", ge=0.1, le=3600
    )
    body: Duration = key(30.0, "Between two pieces of a request body; then 408.", ge=0.1, le=3600)
    idle: Duration = key(75.0, "Between two requests of a connection; then it is closed.", ge=0.1, le=86400)
    drain_delay: Duration = key(
        0.0,
        "Before a stop: for so long `/ready` says 503 and everything is served still, so that load balancers look away "
        "first. Not before an upgrade, nor a second SIGTERM.",
        ge=0,
        le=3600,
        example="5s",
    )
    drain: Duration = key(
        30.0, "How long a stopping worker lets requests in flight come to their end.", ge=0, le=3600
    )
    total: Duration | None = key(
        None,
        "For a whole request, where its route says nothing; then 504. `null` is no limit.",
        ge=0.01,
        le=86400,
        example="60s",
    )


class ForwardedHeaders(Room):
    """Which headers tell the upstream about the client. What an untrusted client sent of them is removed."""

    x_forwarded: bool = key(True, "`X-Forwarded-For`, `-Proto` and `-Host`.")
    forwarded: bool = key(False, "`Forwarded` (RFC 7239).")
    via: bool = key(True, "`Via`, to the upstream and to the client (RFC 9110 §7.6.3).")


ENDPOINTS = ("health", "ready", "metrics")


class PublicEndpoint(Room):
    """One of the admin listener's answers, served on the public listeners too. A bare word is the short form."""

    endpoint: Literal["health", "ready", "metrics"] = key(doc="Which answer.", example="health")
    path: str = key("", "Where; by default `/` and the word.", pattern=r"^(/[^?#\s]*)?$", example="/healthz")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        value = {"endpoint": value} if isinstance(value, str) else value
        if isinstance(value, dict) and not value.get("path") and isinstance(value.get("endpoint"), str):
            return {**value, "path": f"/{value['endpoint']}"}
        return value


class ErrorPage(Room):
    """An own body for an error. Bare text is the short form of `{body: text}`."""

    body: str = key(doc="What is sent.", max_length=64 * 1024, example="<h1>Not here</h1>")
    content_type: str = key(
        "text/html; charset=utf-8", "Its media type.", max_length=200, pattern=r"^[ -~]+$"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"body": value} if isinstance(value, str) else value


def parse_workers(value: object) -> int | None:
    if value is None or value == "auto":
        return None
    if isinstance(value, str) and value.strip().isdigit() and len(value) < 6:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong(
            "wrong_type", f"{shown(value)} is not a number of workers", "auto, or a number from 0 to 256"
        )
    if not 0 <= value <= 256:
        raise wrong("out_of_range", f"{shown(value)} is out of range", "auto, or a number from 0 to 256")
    return value


Workers = Annotated[
    int | None,
    BeforeValidator(parse_workers),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 0, "maximum": 256}]}),
]


def parse_page_key(value: object) -> str:
    text = str(value)
    if text.isdigit() and len(text) == 3 and 400 <= int(text) <= 599:
        return text
    if text in ("4xx", "5xx") or (text.replace("_", "").isalpha() and text.islower() and len(text) <= 64):
        return text
    raise wrong(
        "bad_value",
        f"{shown(value)} is not a status or error code",
        "a status from 400 to 599, 4xx, 5xx or an error code",
    )


PageKey = Annotated[str, BeforeValidator(parse_page_key)]


class Server(Room):
    """What the gateway listens at, and how much it lets in."""

    listeners: tuple[Listener, ...] = key(
        (Listener(bind=Bind("0.0.0.0", 8080)),), "Where it listens.", min_length=1, max_length=64
    )
    workers: Workers = key(
        None,
        "Worker processes: `auto` is one per core, 0 is everything in one process (for "
        "debugging). Given to the program as a number, or None for `auto`.",
        example="auto",
    )
    limits: ServerLimits = key(ServerLimits(), "What a client may send.")
    timeouts: ServerTimeouts = key(ServerTimeouts(), "How long the gateway waits for a client.")
    trusted_proxies: tuple[Cidr, ...] = key(
        (),
        "Addresses whose forwarding headers are believed, walked from the right.",
        max_length=10000,
        example=["10.0.0.0/8"],
    )
    path_normalization: Literal["normalize", "strict", "raw"] = key(
        "normalize",
        "`normalize` resolves `.` and `..` and decodes what need not be encoded, and refuses `..;x` and `..%2F` "
        "with 400, `strict` refuses `//`, `..`, encoded slashes and backslashes too, `raw` changes nothing.",
    )
    merge_slashes: bool = key(True, "With `normalize`: `//` in a path becomes `/`.")
    public_endpoints: tuple[PublicEndpoint, ...] = key(
        (),
        "Answers of the admin listener that the public listeners give too.",
        max_length=16,
        example=["health"],
    )
    zone: str = key(
        "", "Where this gateway stands: endpoints of the same `zone` are preferred.", max_length=200, example="eu-1a"
    )
    forwarded: ForwardedHeaders = key(ForwardedHeaders(), "Headers that tell the upstream about the client.")
    server_header: str | None = key(
        "fastgw",
        "`Server` on the gateway's own answers; `null` sends none.",
        max_length=200,
        pattern=r"^[ -~]+$",
    )
    error_pages: dict[PageKey, ErrorPage] = key(
        {},
        "Own bodies by status (`404`), class (`5xx`) or error code; the most exact one is taken.",
        max_length=200,
        example={"404": "<h1>Not here</h1>"},
    )

    @property
    def binds(self) -> tuple[Bind, ...]:
        """Every address that is listened at: the listeners', then those of their redirects to https."""
        redirects = (tls.redirect_http for listener in self.listeners if (tls := listener.own_tls) is not None)
        own = tuple(listener.bind for listener in self.listeners)
        return own + tuple(redirect.bind for redirect in redirects if redirect is not None)


class Admin(Room):
    """The listener for operators: health, metrics, routes, services, reload."""

    enabled: bool = key(True, "Whether there is one.")
    bind: BindAddress = key(Bind("127.0.0.1", 9901), "Where it listens.", example="127.0.0.1:9901")
    token: Secret | None = key(
        None,
        "What a caller must send as `Authorization: Bearer …`. Required when `bind` is not "
        "a loopback address or unix socket; empty is none.",
        example="${ADMIN_TOKEN:-}",
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_token(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("token") == "":
            return {name: item for name, item in value.items() if name != "token"}
        return value
