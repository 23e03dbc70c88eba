"""The room `observability`: what is recorded of each request."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from fastgw.config.fields import TOKEN, Ratio, parse_header_name, shown, wrong
from fastgw.config.schema.base import Later, Room, key

LogField = Literal[
    "time", "method", "host", "path", "protocol", "client", "request_id", "trace_id", "route", "service", "endpoint",
    "consumer", "status", "code", "side", "bytes_in", "bytes_out", "total_ms", "upstream_ms", "gateway_ms",
    "user_agent", "referer", "query", "hedge", "fallback", "cache",
]  # fmt: skip
LOG_FIELDS: tuple[str, ...] = LogField.__args__  # type: ignore[attr-defined]


CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token"})


def parse_recorded(value: object) -> str:
    name = parse_header_name(value).lower()
    if name in CREDENTIALS:
        raise wrong("bad_value", f"{shown(value)} lets people in, and does not belong in a log", "another header")
    return name


def parse_cookie_name(value: object) -> str:
    if not isinstance(value, str) or not TOKEN.match(value):
        raise wrong("bad_value", f"{shown(value)} is not the name of a cookie", "letters, digits, '-' and '_'")
    return str(value)


RecordedHeader = Annotated[str, BeforeValidator(parse_recorded), WithJsonSchema({"type": "string"})]
CookieName = Annotated[str, BeforeValidator(parse_cookie_name), WithJsonSchema({"type": "string"})]


class AccessLog(Room):
    """One line per request."""

    enabled: bool = key(True, "Whether it is written.")
    format: Literal["json", "combined"] = key("json", "`json`, or the `combined` format of Apache and nginx.")
    path: str = key(
        "stdout",
        "`stdout`, or a file, which is opened again on SIGUSR1.",
        min_length=1,
        max_length=4096,
        example="stdout",
    )
    fields: tuple[LogField, ...] | None = key(
        None,
        "Which fields a JSON line has, in this order; `null` is all of them but `query`, which may hold secrets, "
        "`hedge`: whether another endpoint was asked too, and its answer `won` or `lost`, `fallback`: what answered "
        "in the service's place, `cache`: what the policy `cache` had for it.",
        example=["time", "method", "path", "status", "total_ms"],
    )
    record_headers: tuple[RecordedHeader, ...] = key(
        (),
        "Request headers that a JSON line has under `headers`, `null` for one that was not sent: those that routes "
        "match on, for `fastgw replay`.",
        max_length=32,
        example=["x-version"],
    )
    record_cookies: tuple[CookieName, ...] = key(
        (), "The same for cookies, under `cookies`: never one that lets somebody in.", max_length=32, example=["beta"]
    )


class Metrics(Room):
    """Prometheus metrics over all workers."""

    enabled: bool = key(True, "Whether they can be read; when not, their path answers 404.")
    endpoint: str = key(
        "/metrics", "Their path on the admin listener.", pattern=r"^/[^?#\s]*$", max_length=200
    )
    max_label_values: int = key(
        1000, "Distinct values a label may have; further ones are counted as `other`.", ge=1, le=100000
    )


    @property
    def path(self) -> str | None:
        """Where they are on the admin listener; None when they are off."""
        return self.endpoint if self.enabled else None


class Exporter(Later):
    type: Literal["otlp", "jaeger", "zipkin", "console"] = key(doc="Where traces are sent.")
    endpoint: str | None = key(None, "Its URL.", example="http://127.0.0.1:4318")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value


class Tracing(Room):
    """W3C trace context: a valid `traceparent` is continued, else one begins, and it is passed on."""

    enabled: bool = key(True, "Whether that is done.")
    sample_rate: Ratio = key(0.1, "Share of the traces begun here that are marked as sampled.")
    exporter: Exporter | None = key(None, "Where spans are sent.", later=True)


class Logging(Room):
    """The gateway's own messages, to stderr."""

    level: Literal["debug", "info", "warning", "error"] = key(
        "info", "The least important ones that are written."
    )
    format: Literal["text", "json"] = key("text", "How they look.")


class Observability(Room):
    """What is recorded of each request."""

    access_log: AccessLog = key(AccessLog(), "One line per request.")
    metrics: Metrics = key(Metrics(), "Prometheus metrics over all workers.")
    tracing: Tracing = key(Tracing(), "W3C trace context.")
    logging: Logging = key(Logging(), "The gateway's own messages.")
