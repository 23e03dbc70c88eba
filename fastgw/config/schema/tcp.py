"""The room `tcp` of a listener: connections that are passed on as they are."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from fastgw.config.fields import Duration, Name, shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.tls import dns_name


def parse_sni(value: object) -> str:
    text = str(value) if isinstance(value, str) else ""
    try:
        return dns_name(text)
    except ValueError:
        expected = "a host name, or *. and a host name"
        raise wrong("bad_value", f"{shown(value)} is not a host name", expected) from None


SniName = Annotated[str, BeforeValidator(parse_sni), WithJsonSchema({"type": "string"})]


class SniRoute(Room):
    """Where TLS connections for some names go."""

    names: tuple[SniName, ...] = key(
        doc="Names that clients ask for (SNI): exact ones, or `*.example.com` for all below.",
        min_length=1,
        max_length=10000,
        example=["db.example.com", "*.db.example.com"],
    )
    service: Name = key(doc="The service that gets them.", example="db")


class Tcp(Room):
    """What a listener of `protocol: tcp` does with connections. A bare name is the short form of `{service: name}`."""

    service: Name | None = key(
        None,
        "The service that gets the connections; its endpoints are `tcp://`. With `tls: passthrough` it gets those "
        "whose name is in no `sni`; without it they are refused.",
        example="redis",
    )
    sni: tuple[SniRoute, ...] = key(
        (), "With `tls: passthrough`: services by name. The exact name comes first, then the longest wildcard.",
        max_length=10000,
    )
    hello_timeout: Duration = key(
        5.0, "With `tls: passthrough`: from the connection to the end of the message with the name.", ge=0.1, le=60
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
