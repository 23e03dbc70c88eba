"""The room `tcp` of a listener: connections that are passed on as they are."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from fastgw.config.fields import Duration, Name
from fastgw.config.schema.base import Room, key


class Tcp(Room):
    """What a listener of `protocol: tcp` does with connections. A bare name is the short form of `{service: name}`."""

    service: Name | None = key(
        None, "The service that gets the connections; its endpoints are `tcp://`.", example="redis"
    )
    idle_timeout: Duration = key(
        600.0, "Without a byte in either direction; then both sides are closed.", ge=0.1, le=7 * 86400
    )
    total_timeout: Duration | None = key(
        None,
        "From the accepted connection; then both sides are closed. `null` is no limit.",
        ge=0.1,
        le=30 * 86400,
        example="12h",
    )
    max_connections: int | None = key(
        None,
        "Open connections of this listener in one worker; more are closed at once. `null` is no limit of its own.",
        ge=1,
        le=1000000,
        example=1000,
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"service": value} if isinstance(value, str) else value
