"""`respond`: a static answer by the gateway itself."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import model_validator

from fastgw._core.exchange import Hook
from fastgw._core.static_reply import StaticReply
from fastgw.config.fields import wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.templating import Template
from fastgw.policies._parts import EditableName, checked_value, parts_of
from fastgw.policies.base import Policy

MAX_BODY = 1024 * 1024


class RespondOptions(Room):
    """The answer."""

    status: int = key(200, "The status.", ge=200, le=599)
    headers: dict[EditableName, Annotated[Template, checked_value]] = key(
        {},
        "Headers; a value may hold `${…}` of the request.",
        max_length=100,
        example={"Cache-Control": "no-store"},
    )
    body: str | None = key(None, "The body as text.", max_length=MAX_BODY, example="hello\n")
    json_body: Any = key(None, "The body as JSON, instead of `body`.", example={"ok": True}, alias="json")
    content_type: str | None = key(
        None,
        "Left out, `text/plain; charset=utf-8` for a body and `application/json` for JSON.",
        pattern=r"^[\x21-\x7e]+/[\x20-\x7e]+$",
        example="text/html",
    )

    @model_validator(mode="after")
    def _one_body(self) -> RespondOptions:
        if self.body is not None and self.json_body is not None:
            raise wrong("conflict", "`body` and `json` are both there", "one of them")
        # RFC 9110 §15.3.5, §15.4.5: these carry no content
        if self.status in (204, 304) and (self.body or self.json_body is not None):
            raise wrong("conflict", f"a {self.status} has no body", "another status")
        return self


class Respond(Policy):
    """Answers every request that comes to it. A route with it needs no service. Failure: cannot fail."""

    name = "respond"
    Options = RespondOptions
    terminal = True
    options: RespondOptions

    def hook(self) -> Hook:
        options = self.options
        content_type = options.content_type
        body = b""
        if options.json_body is not None:
            body, content_type = orjson.dumps(options.json_body), content_type or "application/json"
        elif options.body is not None:
            body, content_type = options.body.encode(), content_type or "text/plain; charset=utf-8"
        return StaticReply(
            options.status,
            body,
            content_type.encode() if content_type else None,
            [(name.encode(), parts_of(value)) for name, value in options.headers.items()],
        )
