"""Request templates: text with `${request.id}` and its like in it, checked and taken apart.

They are filled in elsewhere, for each request, from `Template.parts`.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from fastgw.config.env import Expanded
from fastgw.config.errors import did_you_mean
from fastgw.config.fields import shown, wrong

VARIABLES = {
    "request.id": "the request's id",
    "request.method": "the method",
    "request.path": "the path as it was routed",
    "request.host": "the host the client asked for",
    "request.header.NAME": "a header of the request",
    "request.query.NAME": "a parameter of the query",
    "request.cookie.NAME": "a cookie",
    "client.ip": "the client's address, behind trusted proxies the one they tell",
    "route.name": "the route's name",
    "route.params.NAME": "a capture of the route's path",
    "consumer.name": "the consumer that was recognised",
    "consumer.groups": "its groups, with commas",
    "consumer.plan": "its plan",
    "consumer.scopes": "what its credential may do, with spaces",
    "consumer.credential": "the id of its key, or the subject of its token; never the secret",
    "consumer.metadata.NAME": "of its `metadata`",
    "claims.NAME": "a claim of the verified token; dots go into objects",
    "service.name": "the service that is asked",
}
"""What a template may name; a name without a value in a request is the empty string."""

SIMPLE = frozenset(name for name in VARIABLES if not name.endswith("NAME"))
NAMED = tuple(name.removesuffix("NAME") for name in VARIABLES if name.endswith("NAME"))
TEMPLATE_PART = re.compile(r"\$\$\{|\$\{([^}]*)\}")
VARIABLE_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
CLAIM_NAME = re.compile(r"[^\s\x00-\x1f\"\\{}]+\Z")
MAX_TEMPLATE_VARIABLES = 100


class Variable:
    """One `${…}` of a template: `kind` is a key of VARIABLES without `.NAME`, `name` the rest or ''."""

    __slots__ = ("kind", "name")

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name

    def __repr__(self) -> str:
        return f"${{{self.kind}{'.' + self.name if self.name else ''}}}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Variable) and (self.kind, self.name) == (other.kind, other.name)

    def __hash__(self) -> int:
        return hash((self.kind, self.name))


class Template:
    """Text with `${…}` of the request in it, checked and taken apart; it is filled in elsewhere.

    `parts` is a tuple of `str` (literal, never two in a row) and `Variable`.
    """

    __slots__ = ("parts", "source")

    def __init__(self, source: str) -> None:
        """Raises `PydanticCustomError` (bad_template) for a name that does not exist."""
        self.source = source
        self.parts: tuple[str | Variable, ...] = tuple(split_template(source))

    @property
    def constant(self) -> str | None:
        """The text, when it is the same for every request."""
        if not self.parts:
            return ""
        first = self.parts[0]
        return first if len(self.parts) == 1 and isinstance(first, str) else None

    @property
    def variables(self) -> tuple[Variable, ...]:
        return tuple(part for part in self.parts if isinstance(part, Variable))

    def __repr__(self) -> str:
        return f"Template({len(self.parts)} parts)" if "$$" in self.source else f"Template({self.source!r})"

    def __str__(self) -> str:
        return self.source

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            cls._parse, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "format": "template"}

    @classmethod
    def _parse(cls, value: object, info: ValidationInfo) -> Template:
        if isinstance(value, Template):
            return value
        if isinstance(value, Expanded):
            value.used = True
            template = cls(value.template)
        elif isinstance(value, str):
            template = cls(value)
        elif isinstance(value, (int, float)):
            template = cls(str(value).lower() if isinstance(value, bool) else str(value))
        else:
            raise wrong("wrong_type", f"{shown(value)} is not text", "text, with ${…} of the request in it")
        if isinstance(info.context, dict) and "templates" in info.context:
            info.context["templates"].append(template)
        return template


def split_template(source: str) -> list[str | Variable]:
    parts: list[str | Variable] = []
    literal = ""
    at = 0
    for match in TEMPLATE_PART.finditer(source):
        literal += source[at : match.start()]
        at = match.end()
        if match[1] is None:
            literal += "${"
            continue
        if literal:
            parts.append(literal)
            literal = ""
        parts.append(parse_variable(match[1]))
    literal += source[at:]
    if literal:
        parts.append(literal)
    if len(parts) > 2 * MAX_TEMPLATE_VARIABLES:
        raise wrong(
            "bad_template", "the template has too many parts", f"at most {MAX_TEMPLATE_VARIABLES} variables"
        )
    return parts


def parse_variable(text: str) -> Variable:
    """`request.header.X-Team` → Variable("request.header", "X-Team")."""
    if text in SIMPLE:
        return Variable(text, "")
    for prefix in NAMED:
        name = text[len(prefix) :]
        allowed = CLAIM_NAME if prefix == "claims." else VARIABLE_NAME
        if text.startswith(prefix) and len(name) <= 200 and allowed.match(name):
            return Variable(prefix[:-1], name)
    words = text if len(text) <= 60 else text[:59] + "…"
    hint = did_you_mean(text, VARIABLES)
    raise wrong(
        "bad_template",
        f"${{{words}}} does not exist" + (f"; {hint}" if hint else ""),
        "one of " + ", ".join(VARIABLES),
    )
