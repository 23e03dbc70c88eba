"""The room `tests`: requests, and what is expected to become of them. Only `fastgw test` reads them."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from fastgw.config.fields import HeaderName, Name, compile_regex, shown, wrong
from fastgw.config.schema.base import Room, key

REQUEST = re.compile(r"(?:([A-Za-z]{1,20})\s+)?((?:https?://|/)\S*)\Z")
FIELD = re.compile(r"[\t\x20-\x7e\x80-\xff]*\Z")


def parse_request(value: object) -> str:
    """`GET https://host/path?query`; without a method it is GET, without a host `localhost`."""
    found = REQUEST.match(value.strip()) if isinstance(value, str) and len(value) <= 8192 else None
    if found is None:
        raise wrong("bad_value", f"{shown(value)} is not a request", "METHOD https://host/path?query")
    return f"{(found[1] or 'GET').upper()} {found[2]}"


def parse_address(value: object) -> str:
    try:
        return str(ipaddress.ip_address(str(value).strip()))
    except ValueError:
        raise wrong("bad_value", f"{shown(value)} is not an address", "an IP address such as 10.0.0.1") from None


def parse_field(value: object) -> str:
    if isinstance(value, (int, float, str)):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if FIELD.match(text) and len(text) <= 8192:
            return text
    raise wrong("bad_value", f"{shown(value)} is not the value of a header", "text without line breaks")


def parse_wanted(value: object) -> str:
    text = parse_field(value)
    if text.startswith("~"):
        compile_regex(text[1:].strip())
    return text


TEXT = WithJsonSchema({"type": ["string", "number", "boolean"]})
Request = Annotated[str, BeforeValidator(parse_request), WithJsonSchema({"type": "string"})]
Address = Annotated[str, BeforeValidator(parse_address), WithJsonSchema({"type": "string"})]
FieldValue = Annotated[str, BeforeValidator(parse_field), TEXT]
Wanted = Annotated[str, BeforeValidator(parse_wanted), TEXT]


class Expected(Room):
    """What is expected. What is left out is not looked at."""

    route: str | None = key(
        None, "The name of the route that takes it.", min_length=1, max_length=500, example="users"
    )
    service: Name | None = key(None, "The service it is sent to.", example="users")
    policies: tuple[Name, ...] | None = key(
        None, "The names of the route's policies, in order.", max_length=200, example=["request_id", "jwt"]
    )
    target: str | None = key(
        None, "Path and query as the service gets them.", max_length=8192, example="/v2/users/7"
    )
    status: int | None = key(
        None,
        "The status of the answer. What reaches a service is answered with 200 here.",
        ge=100,
        le=599,
        example=401,
    )
    code: Name | None = key(None, "The code of a refusal.", example="unauthorized")
    headers: dict[HeaderName, Wanted] = key(
        {}, "Headers of the answer: the text, `\"~ regex\"`, `\"*\"` (there) or `\"!\"` (not there).", max_length=64,
        example={"Location": "https://example.com/"},
    )  # fmt: skip
    sent: dict[HeaderName, Wanted] = key(
        {}, "Headers that the service gets, in the same words.", max_length=64, example={"X-Consumer": "!"}
    )


class ConfigTest(Room):
    """One request, and what is expected to become of it."""

    name: str | None = key(None, "What is tested; by default the request.", min_length=1, max_length=200)
    request: Request = key(doc="`METHOD https://host/path?query`.", example="GET https://api.example.com/users/7")
    headers: dict[HeaderName, FieldValue] = key({}, "Its headers.", max_length=64, example={"X-Version": "2"})
    body: str | None = key(None, "Its body.", max_length=1048576, example="a=1")
    client_ip: Address = key("127.0.0.1", "Where it comes from.")
    expect: Expected = key(doc="What is expected of it.")
    @property
    def title(self) -> str:
        return self.name or self.request
