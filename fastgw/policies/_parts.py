"""What schemas of several policies share: header names that may be edited, and templates on their way to
_core."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from fastgw.config.fields import MADE_BY_GATEWAY, HeaderName, wrong
from fastgw.config.templating import Template


def _editable(value: object) -> object:
    if isinstance(value, str) and value.lower() in MADE_BY_GATEWAY:
        hint = "`rewrite_host:` of the route" if value.lower() == "host" else "another header"
        raise wrong("bad_value", f"{value} is made by the gateway and cannot be edited", hint)
    return value


EditableName = Annotated[HeaderName, BeforeValidator(_editable)]
"""A header name that a configuration may set or remove."""

Part = bytes | tuple[str, bytes]


def parts_of(template: Template) -> tuple[Part, ...]:
    """bytes for literal text, (kind, name) for a variable: what `_core.template.Compiled` takes."""
    return tuple(
        part.encode("latin-1") if isinstance(part, str) else (part.kind, part.name.encode("latin-1"))
        for part in template.parts
    )


def _check(template: Template) -> Template:
    """RFC 9110 §5.5: a field value holds no CR, LF, NUL or other control."""
    for part in template.parts:
        if isinstance(part, str) and any((c < " " and c != "\t") or c == "\x7f" or c > "\xff" for c in part):
            raise wrong("bad_value", "the value holds characters that no header may hold", "printable text")
    return template


checked_value = AfterValidator(_check)


def listed(value: object) -> object:
    """One value stands for a list of one."""
    return value if isinstance(value, (list, tuple)) else (value,)
