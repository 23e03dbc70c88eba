"""The rooms `health_check` and `outliers` of a service: how the gateway learns that an endpoint is not well."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from fastgw.config.fields import Duration, Ratio, shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.retry import GRPC_STATUSES

STATUS = re.compile(r"^(?:[1-5]xx|[1-5][0-9][0-9])$")


def parse_status(value: object) -> str:
    """`200` or `2xx` → text."""
    text = str(value).strip().lower() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not STATUS.match(text):
        raise wrong("bad_value", f"{shown(value)} is no status", "a status as 204, or a class as 2xx")
    return text


Status = Annotated[str, BeforeValidator(parse_status), WithJsonSchema({"type": ["string", "integer"]})]


def parse_grpc_status(value: object) -> str:
    text = value.strip().lower() if isinstance(value, str) else ""
    if text not in GRPC_STATUSES[1:]:
        raise wrong("bad_choice", f"{shown(value)} is no status of gRPC that fails", "its name, as unavailable")
    return text


GrpcStatus = Annotated[
    str, BeforeValidator(parse_grpc_status), WithJsonSchema({"type": "string", "examples": ["unavailable"]})
]


def listed(value: object) -> object:
    return value if isinstance(value, (list, tuple)) else (value,)


class HealthCheck(Room):
    """Asks each endpoint how it is: once per host, for all workers. A bare path is the short form of `{path: PATH}`."""

    type: Literal["http", "tcp", "grpc"] = key(
        "http",
        "`http`: a GET that must be answered well; `tcp`: a connection (for https endpoints with TLS); `grpc`: "
        "`grpc.health.v1.Health/Check` that must be answered with `SERVING`.",
    )
    service: str = key(
        "",
        "Of `grpc`: the service that is asked about, as the endpoint calls it; empty: all of the endpoint.",
        pattern=r"^[!-~]*$",
        max_length=300,
        example="library.v1.Library",
    )
    path: str = key("/health", "What is asked for.", pattern=r"^/[!-~]*$", max_length=2000)
    host: str | None = key(
        None,
        "`Host` of the request; by default the service's, or the endpoint's.",
        pattern=r"^[!-~]+$",
        max_length=300,
        example="users.internal",
    )
    port: int | None = key(None, "Another port to ask at.", ge=1, le=65535, example=9100)
    statuses: Annotated[tuple[Status, ...], BeforeValidator(listed)] = key(
        ("2xx",), "Statuses, or classes of them, that are good.", min_length=1, max_length=50
    )
    body: str | None = key(
        None,
        "Text that must stand in the first 64 KiB of a good answer.",
        min_length=1,
        max_length=1000,
        example='"status":"ok"',
    )
    interval: Duration = key(5.0, "How often an endpoint is asked.", ge=0.1, le=3600)
    jitter: Ratio = key(0.2, "Each pause is longer or shorter by up to this share, so that checks do not meet.", le=0.9)
    timeout: Duration = key(2.0, "How long an answer may take, connection included.", ge=0.01, le=600)
    healthy_threshold: int = key(2, "Good answers in a row that bring an endpoint back.", ge=1, le=100)
    unhealthy_threshold: int = key(
        3, "Bad answers in a row that take it out; the very first answer counts alone.", ge=1, le=100
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fitting(self) -> HealthCheck:
        owners = {"path": "http", "statuses": "http", "body": "http", "service": "grpc"}
        for name, owner in owners.items():
            if name in self.model_fields_set and self.type != owner:
                raise wrong("conflict", f"`{name}` belongs to `type: {owner}`, and this is {self.type}", f"no `{name}`")
        if self.type == "tcp" and "host" in self.model_fields_set:
            raise wrong("conflict", "`host` belongs to `type: http` and `grpc`, and this is tcp", "no `host`")
        return self


class Outliers(Room):
    """Watches the requests, and leaves an endpoint that fails out for a time."""

    consecutive_errors: int = key(
        5,
        "Answers with 5xx or failures (next key) in a row, over all workers, that eject; 0: any number.",
        ge=0,
        le=100000,
    )
    consecutive_failures: int = key(
        3,
        "Failures in a row that eject: no connection, no or a broken answer, a timeout, 502, 503, 504; 0: any number.",
        ge=0,
        le=100000,
    )
    grpc_errors: Annotated[tuple[GrpcStatus, ...], BeforeValidator(listed)] = key(
        ("unknown", "internal", "unavailable", "data_loss"),
        "Statuses of gRPC calls that count as 5xx does; of them `unavailable` and `deadline_exceeded` as failures.",
        max_length=16,
    )
    success_rate_below: Ratio | None = key(
        None,
        "Ejects who has a success rate so far below the median of the service's other endpoints.",
        ge=0.01,
        example="20%",
    )
    latency_above: float | None = key(
        None,
        "Ejects who takes, on average, so many times the median of the other endpoints to answer.",
        ge=1.5,
        le=1000,
        example=3,
    )
    interval: Duration = key(10.0, "How often rates and latencies are compared.", ge=0.5, le=3600)
    min_requests: int = key(
        20, "Requests in an interval without which an endpoint's rate and latency say nothing.", ge=1, le=1000000
    )
    ejection_time: Duration = key(
        10.0, "How long the first ejection lasts; each further one is so much longer.", ge=0.1, le=86400
    )
    max_ejection_time: Duration = key(
        300.0, "The longest ejection; a quiet time of this length takes one step back.", ge=0.1, le=86400
    )
    max_ejected: Ratio = key(
        0.5, "Share of the endpoints that may be ejected at a time; one at least, the only one never."
    )

    @model_validator(mode="after")
    def _fitting(self) -> Outliers:
        if self.max_ejection_time < self.ejection_time:
            raise wrong("conflict", "`max_ejection_time` is below `ejection_time`", "a longer one")
        if not (self.consecutive_errors or self.consecutive_failures or self.rates):
            raise wrong("conflict", "nothing ejects: all that could is off", "a number above 0, or no `outliers`")
        return self

    @property
    def rates(self) -> bool:
        """Does the agent compare what workers count?"""
        return self.success_rate_below is not None or self.latency_above is not None
