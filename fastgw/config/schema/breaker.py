"""`circuit_breaker`: when a service, a route or an endpoint that fails is not asked for a time."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from fastgw.config.fields import Duration, Ratio, shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.retry import GRPC_STATUSES, listed

WORDS = "a status from 400 to 599, 5xx, or grpc: and the name of a status"


def parse_failure(value: object) -> str:
    text = str(value).strip().lower() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if text == "5xx" or (text.isascii() and text.isdigit() and 400 <= int(text) <= 599):
        return text
    if text.startswith("grpc:") and text[5:] in GRPC_STATUSES[1:]:
        return text
    raise wrong("bad_choice", f"{shown(value)} is no status of a failure", WORDS)


FailureStatus = Annotated[
    str,
    BeforeValidator(parse_failure),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["5xx", 503, "grpc:unavailable"]}),
]


class RouteBreaker(Room):
    """When the requests of a route are refused for a time, because they fail. It is closed at first: requests pass, and
    are counted. Open, they are answered with 503 `circuit_open` at once. Half open, some find out how things are."""

    failure_threshold: int = key(5, "Failures in a row that open it; 0: a row does not.", ge=0, le=100000)
    error_rate: Ratio | None = key(
        None, "It opens when so many of the requests of `window` failed.", gt=0, example="50%"
    )
    window: Duration = key(10.0, "Requests of that time are looked at for the rates.", ge=0.1, le=3600)
    min_requests: int = key(20, "Requests in `window` from which on its rates say anything.", ge=1, le=1000000)
    slow_call_duration: Duration | None = key(
        None,
        "An answer whose first byte takes so long is slow. A slow probe is one that failed.",
        ge=0.001,
        le=3600,
        example="2s",
    )
    slow_call_rate: Ratio = key(0.5, "It opens when so many of the requests of `window` were slow.", gt=0)
    timeout: Duration = key(60.0, "How long it stays open.", ge=0.1, le=86400)
    half_open_requests: int = key(
        3, "Requests that are let through then; it closes when all of them are well.", ge=1, le=1000
    )
    statuses: Annotated[tuple[FailureStatus, ...], BeforeValidator(listed)] = key(
        ("5xx", "grpc:unavailable", "grpc:deadline_exceeded"),
        "Answers that are failures: statuses, `5xx` for all of them, statuses of gRPC. That no answer came always is "
        "one; a client that leaves never.",
        min_length=1,
        max_length=50,
        example=["5xx", 429],
    )

    @model_validator(mode="after")
    def _opens(self) -> RouteBreaker:
        if self.failure_threshold == 0 and self.error_rate is None and self.slow_call_duration is None:
            raise wrong("conflict", "nothing opens it", "failure_threshold, error_rate or slow_call_duration")
        return self


class CircuitBreaker(RouteBreaker):
    """When a service that fails is not asked for a time, and what of it: an endpoint, a route's requests, or all."""

    scope: Literal["endpoint", "route", "service"] = key(
        "endpoint",
        "`endpoint`: each has one; an open one is left out, the others are asked. `route`: the requests of each route "
        "have one. `service`: all share one. `endpoint` isolates best.",
    )
