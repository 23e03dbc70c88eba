"""`fallback`: what answers when the service does not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import orjson
from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from fastgw._core.exchange import Hook
from fastgw._core.fallback import Fallback as NativeFallback
from fastgw._core.static_reply import StaticReply
from fastgw.config.fields import Duration, Name, Size, shown, wrong
from fastgw.config.registry import Reference
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.retry import listed
from fastgw.config.templating import Template
from fastgw.policies._parts import EditableName, checked_value, parts_of
from fastgw.policies.base import Policy

WORDS = ("circuit_open", "timeout", "failed")


def parse_when(value: object) -> str:
    text = str(value).strip().lower() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if text in WORDS or text == "5xx" or (text.isascii() and text.isdigit() and 400 <= int(text) <= 599):
        return text
    raise wrong("bad_choice", f"{shown(value)} is no failure", f"{', '.join(WORDS)}, a status from 400 to 599, or 5xx")


When = Annotated[
    str,
    BeforeValidator(parse_when),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["circuit_open", "timeout", "failed", 503]}),
]


class FallbackReply(Room):
    """A static answer."""

    status: int = key(200, "The status.", ge=200, le=599)
    headers: dict[EditableName, Annotated[Template, checked_value]] = key(
        {}, "Headers; a value may hold `${…}` of the request.", max_length=100, example={"Cache-Control": "no-store"}
    )
    body: str | None = key(None, "The body as text.", max_length=1024 * 1024, example="later\n")
    json_body: Any = key(None, "The body as JSON, instead of `body`.", example={"items": []}, alias="json")

    @model_validator(mode="after")
    def _one_body(self) -> FallbackReply:
        if self.body is not None and self.json_body is not None:
            raise wrong("conflict", "`body` and `json` are both there", "one of them")
        # RFC 9110 §15.3.5, §15.4.5: these carry no content
        if self.status in (204, 304) and (self.body or self.json_body is not None):
            raise wrong("conflict", f"a {self.status} has no body", "another status")
        return self

    def native(self) -> StaticReply:
        body, content_type = b"", None
        if self.json_body is not None:
            body, content_type = orjson.dumps(self.json_body), b"application/json"
        elif self.body is not None:
            body, content_type = self.body.encode(), b"text/plain; charset=utf-8"
        headers = [(name.encode(), parts_of(value)) for name, value in self.headers.items()]
        return StaticReply(self.status, body, content_type, headers)


class FallbackOptions(Room):
    """When, and what: another service, a static answer, or the service and, when that fails too, the answer."""

    when: Annotated[tuple[When, ...], BeforeValidator(listed)] = key(
        WORDS,
        "`circuit_open`: a circuit breaker refused. `timeout`: no answer in time. `failed`: no answer for another "
        "reason, no endpoint, or no room for the request. Statuses of answers, `5xx` for all of them.",
        min_length=1,
        max_length=50,
        example=["circuit_open", 503],
    )
    service: Name | None = key(None, "The service that is asked, with the same request.", example="orders-archive")
    timeout: Duration = key(5.0, "How long its answer may take, whatever the route's time is.", ge=0.001, le=3600)
    body: Size = key(
        64 * 1024,
        "Bytes of a request's body that are kept for it; a request with a larger one, part of which was read, does "
        "not go there.",
        ge=0,
        le=16 * 1024 * 1024,
    )
    reply: FallbackReply | None = Field(None, description="The static answer.", examples=[{"json": {"items": []}}])

    @model_validator(mode="after")
    def _something(self) -> FallbackOptions:
        if self.service is None and self.reply is None:
            raise wrong("missing_key", "neither `service` nor `reply` is there", "one of them, or both")
        return self


class Fallback(Policy):
    """Answers when the service does not: by another service, or statically. After retries, and as long as nothing of
    an answer has left. The answer has `X-Fallback`, the access log `fallback`. Failure: cannot fail."""

    name = "fallback"
    Options = FallbackOptions
    options: FallbackOptions

    @classmethod
    def references(cls, options: FallbackOptions) -> Iterable[Reference]:
        return [] if options.service is None else [Reference("service", options.service, ("service",))]

    def hook(self) -> Hook:
        options = self.options
        asked = [word for word in options.when if word not in WORDS]
        numbers = [range(500, 600) if word == "5xx" else (int(word),) for word in asked]
        return NativeFallback(
            circuit_open="circuit_open" in options.when,
            timeout="timeout" in options.when,
            failed="failed" in options.when,
            statuses={status for several in numbers for status in several},
            service=None if options.service is None else str(options.service),
            total_ns=int(options.timeout * 1_000_000_000),
            body=options.body,
            reply=None if options.reply is None else options.reply.native(),
        )
