"""What schemas of several policies share: header names that may be edited, and templates on their way to
_core."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from fastgw.config.fields import MADE_BY_GATEWAY, HeaderName, shown, wrong
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


ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9_*.-]+)(:[0-9]{1,5}|:\*)?\Z")


def _origin(value: object) -> str:
    """RFC 6454: scheme "://" host [":" port], in lower case; `*.` may stand for any subdomain, `:*` for any
    port."""
    if not isinstance(value, str):
        raise wrong("wrong_type", f"{shown(value)} is not an origin", "https://example.com")
    text = value.lower()
    match = ORIGIN.match(text)
    if text in ("*", "null"):
        return text
    if match is None:
        raise wrong("bad_value", f"{shown(value)} is not an origin", "https://example.com, without a path")
    host = match[2]
    if "*" in (host.removeprefix("*.") if host.startswith("*.") else host):
        raise wrong("bad_value", f"{shown(value)} has a `*` in the wrong place", "https://*.example.com")
    if host.startswith("*.") and "." not in host[2:]:
        raise wrong(
            "bad_value", f"{shown(value)} would allow a whole top-level domain", "https://*.example.com"
        )
    return text


Origin = Annotated[str, BeforeValidator(_origin)]
"""An origin, in lower case; `*.` may stand for any subdomain, `:*` for any port."""
