"""The room `services`: who is asked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from fastgw.config.fields import Duration, Size, shown, wrong
from fastgw.config.schema.address import HOST_NAME, OriginUrl
from fastgw.config.schema.balance import Balance
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.breaker import CircuitBreaker
from fastgw.config.schema.concurrency import Concurrency
from fastgw.config.schema.discovery import Discovery
from fastgw.config.schema.health import HealthCheck, Outliers
from fastgw.config.schema.hedge import Hedge
from fastgw.config.schema.retry import Retry
from fastgw.config.schema.timeouts import ServiceTimeouts
from fastgw.config.schema.tls import UpstreamTls


class Endpoint(Room):
    """One address of a service. A bare URL is the short form of `{url: URL}`."""

    url: OriginUrl = key(
        doc="`http://host:port`, `https://host:port` or `unix:/path`; for listeners with `protocol: tcp` "
        "`tcp://host:port`. A name is resolved again in the background.",
        example="http://127.0.0.1:9001",
    )
    weight: int = key(1, "Its share of the requests among the endpoints.", ge=1, le=1000)
    priority: int = key(
        0, "Of its group: the lowest is asked, the next one when that is not healthy enough.", ge=0, le=100
    )
    zone: str = key("", "Where it stands; see `server.zone`.", max_length=200, example="eu-1a")
    labels: dict[str, str] = key(
        {}, "Anything worth knowing of it; see `balance.labels`.", max_length=16, example={"version": "v2"}
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value


class Pool(Room):
    """The connections of one worker to one endpoint."""

    max_connections: int = key(256, "Open connections at most.", ge=1, le=100000)
    max_idle: int = key(256, "Idle connections that are kept.", ge=0, le=100000)
    idle_timeout: Duration = key(55.0, "How long an idle connection is kept.", ge=0.1, le=86400)
    queue_size: int = key(
        1024, "Requests that may wait for a connection; more are refused with 503.", ge=0, le=1000000
    )
    queue_timeout: Duration = key(5.0, "How long one may wait; then 503.", ge=0.001, le=3600)


class UpstreamHttp2(Room):
    """HTTP/2 of a service. Its connections carry many requests each."""

    max_concurrent_streams: int = key(
        128,
        "Requests of one connection at a time; fewer where the service says so. More take another connection.",
        ge=1,
        le=10000,
    )
    initial_window_size: Size = key(
        256 * 1024,
        "Bytes of an answer that the service may send ahead of the client.",
        ge=1024,
        le=16 * 1024 * 1024,
    )
    ping_interval: Duration | None = key(
        None,
        "After so long without a byte, while requests are under way, the service is asked by PING.",
        ge=1,
        le=86400,
    )
    ping_timeout: Duration = key(
        5.0, "How long its answer may take; then the connection is given up.", ge=0.1, le=3600
    )


class Dns(Room):
    """How the names of endpoints are looked up."""

    refresh: Duration = key(
        30.0, "How often a name is resolved again; the last good answer is kept.", ge=1, le=86400
    )


def parse_host_header(value: object) -> str:
    text = str(value) if isinstance(value, str) else ""
    name, _, port = text.partition(":")
    if not HOST_NAME.match(name) or (port and not (port.isascii() and port.isdigit())) or text.endswith(":"):
        raise wrong("bad_value", f"{shown(value)} is not a host", "a host name, with :port when it is needed")
    return text


HostHeader = Annotated[str, BeforeValidator(parse_host_header), WithJsonSchema({"type": "string"})]


class Service(Room):
    """Something that answers requests. A bare URL is the short form of `{endpoints: [URL]}`."""

    endpoints: tuple[Endpoint, ...] = key(
        (), "Its addresses.", max_length=10000, example=["http://127.0.0.1:9001"]
    )
    host: HostHeader | None = key(
        None, "`Host` sent to it; by default the client's.", example="users.internal"
    )
    balance: Balance = key(Balance(), "How one of the endpoints is chosen.")
    pool: Pool = key(Pool(), "The connections of one worker to one endpoint.")
    timeouts: ServiceTimeouts = key(ServiceTimeouts(), "How long the gateway waits for it.")
    dns: Dns = key(Dns(), "How the names of its endpoints are looked up.")
    health_check: HealthCheck | None = key(
        None, "Asks each endpoint how it is; those that do not answer well are left out.", example="/health"
    )
    outliers: Outliers | None = key(None, "Leaves endpoints out that fail requests.", example={})
    circuit_breaker: CircuitBreaker | None = key(
        None, "Stops asking what fails of it, for a time.", example={"error_rate": "50%"}
    )
    retry: Retry | None = key(
        None, "What is sent again when it fails; without, only what a dead kept connection swallowed."
    )
    hedge: Hedge | None = key(
        None, "What is asked of another endpoint too when the first takes long.", example="p95"
    )
    concurrency: Concurrency | None = key(None, "How many requests it may have under way at once.", example=200)
    discovery: Discovery | None = key(
        None, "Where its endpoints are learnt from; `endpoints`, when there are some, are used until then."
    )
    tls: UpstreamTls | None = key(None, "How https endpoints are checked.")
    protocol: Literal["http/1.1", "h2", "h2c", "auto"] = key(
        "http/1.1",
        "What is spoken: `h2` is HTTP/2 with TLS, `h2c` without, `auto` what an https endpoint agrees to (ALPN), and "
        "`http/1.1` with the others.",
    )
    http2: UpstreamHttp2 = key(UpstreamHttp2(), "HTTP/2, where that is spoken.")
    proxy_protocol: Literal["v1", "v2"] | None = key(
        None,
        "The PROXY protocol that connections begin with: it tells the endpoint who the client is. Over HTTP/1.1 each "
        "is then kept for one client; https and HTTP/2 cannot have it.",
        example="v2",
    )
    response_trailers: bool = key(
        False,
        "Fields that follow an answer's chunked body go on to clients of HTTP/2; else they are dropped. Those of an "
        "answer that came over HTTP/2 always do.",
    )

    @property
    def https(self) -> bool:
        """Is TLS spoken to some endpoint, of the file or discovered?"""
        found = self.discovery is not None and self.discovery.scheme == "https"
        return found or any(endpoint.url.scheme == "https" for endpoint in self.endpoints)

    @property
    def tcp(self) -> bool:
        """Do its endpoints take bytes as they are, in the place of requests?"""
        found = self.discovery is not None and self.discovery.scheme == "tcp"
        return found or any(endpoint.url.scheme == "tcp" for endpoint in self.endpoints)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"endpoints": [value]}
        if isinstance(value, dict) and isinstance(value.get("endpoints"), str):
            return {**value, "endpoints": [value["endpoints"]]}
        return value
