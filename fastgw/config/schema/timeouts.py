"""`timeouts` of services and routes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from fastgw.config.fields import MADE_BY_GATEWAY, Duration, parse_header_name, shown, wrong
from fastgw.config.schema.base import Room, key

TAKEN = MADE_BY_GATEWAY | {
    "authorization", "content-type", "cookie", "expect", "forwarded", "grpc-timeout", "traceparent", "tracestate",
    "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
}  # fmt: skip
"""Headers that say something else already."""


def parse_time_header(value: object) -> str:
    name = parse_header_name(value)
    if name.lower() in TAKEN:
        raise wrong("bad_value", f"{shown(value)} says something else already", "one of its own: X-Request-Timeout")
    return name


TimeHeader = Annotated[str, BeforeValidator(parse_time_header), WithJsonSchema({"type": "string"})]


class Told(Room):
    """What a service is told of the time it has."""

    header: TimeHeader | None = key(
        None,
        "A header that tells the service, with each try, how many milliseconds are left until the gateway gives it up: "
        "of `total`, or to the first byte of the answer if that is less. A client's own is taken off.",
        example="X-Request-Timeout",
    )
    honour_client: bool = key(
        False,
        "Whether a client's own `header` is an upper bound for the whole request: with its milliseconds over, the "
        "answer is 504.",
    )

    @model_validator(mode="after")
    def _together(self) -> Any:
        if self.honour_client and self.header is None:
            raise wrong("missing_key", "`honour_client` is about a `header` that is not there", "header: NAME")
        return self


class ServiceTimeouts(Told):
    """How long the gateway waits for an upstream."""

    connect: Duration = key(5.0, "Until a connection is made; then 504.", ge=0.001, le=3600)
    response: Duration = key(
        30.0, "From the request to the first byte of the answer; then 504.", ge=0.001, le=86400
    )
    idle: Duration = key(
        60.0, "Between two pieces of the answer's body; then it is cut off.", ge=0.001, le=86400
    )


class RouteTimeouts(Told):
    """A route's own timeouts; what is left out is the service's (or, for `total`, the server's)."""

    total: Duration | None = key(None, "The whole request; then 504.", ge=0.01, le=86400, example="10s")
    connect: Duration | None = key(None, "Until a connection is made.", ge=0.001, le=3600, example="1s")
    response: Duration | None = key(
        None, "To the first byte of the answer.", ge=0.001, le=86400, example="5s"
    )
    idle: Duration | None = key(
        None, "Between two pieces of the answer's body.", ge=0.001, le=86400, example="15s"
    )
