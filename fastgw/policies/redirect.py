"""`redirect`: sends the client elsewhere."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator

from fastgw._core.exchange import Hook
from fastgw._core.static_reply import Redirect as NativeRedirect
from fastgw.config.fields import wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.templating import Template, Variable
from fastgw.policies._parts import parts_of
from fastgw.policies.base import Policy

HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)"
LITERAL = re.compile(r"[!$&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~%#]*\Z")
ABSOLUTE = re.compile(rf"https?://(?:{HOST}(?::[0-9]{{1,5}})?)(?P<rest>.*)\Z")
REQUEST_HOST = (Variable("request.host", ""), "")


def _safe(template: Template) -> Template:
    """A caller must not be able to choose the site: the authority is literal, or the host that was asked."""
    parts = template.parts
    for part in parts:
        if isinstance(part, str) and not LITERAL.match(part):
            raise wrong(
                "bad_value", "the location holds characters that no URL may hold", "percent-encoded text"
            )
    first = parts[0] if parts else ""
    if isinstance(first, Variable):
        if first.kind == "request.path":
            return template
        raise wrong("bad_value", f"the location begins with {first!r}, which the caller chooses",
                    "/path…, https://host… or ${request.path}")  # fmt: skip
    if first.startswith("/"):
        if first.startswith("//") or first.startswith("/\\"):
            raise wrong("bad_value", "the location begins with '//', which is another site", "https://host/…")
        return template
    if first in ("http://", "https://"):
        host = parts[1] if len(parts) > 1 else ""
        if not isinstance(host, Variable) or host.kind != "request.host":
            raise wrong(
                "bad_value", "the caller could choose the site", "https://${request.host}/… or https://host/…"
            )
        return _after_authority(template, parts[2:])
    match = ABSOLUTE.match(first)
    if match is None:
        raise wrong("bad_value", "this is not a location", "/path…, https://host… or ${request.path}")
    rest: tuple[str | Variable, ...] = (match["rest"],) if match["rest"] else ()
    return _after_authority(template, (*rest, *parts[1:]))


def _after_authority(template: Template, rest: tuple[str | Variable, ...]) -> Template:
    if rest:
        first = rest[0]
        ends = first.kind == "request.path" if isinstance(first, Variable) else first[0] in "/?#"
        if not ends and not (isinstance(first, str) and re.match(r":[0-9]{1,5}(?:[/?#]|\Z)", first)):
            raise wrong(
                "bad_value", "what follows the host could become a part of it", "a '/' after the host"
            )
        if isinstance(first, str) and re.match(r":[0-9]{1,5}\Z", first) and len(rest) > 1 \
                and not (isinstance(rest[1], Variable) and rest[1].kind == "request.path"):  # fmt: skip
            raise wrong(
                "bad_value", "what follows the port could become a part of it", "a '/' after the port"
            )
    return template


class RedirectOptions(Room):
    """Where to."""

    location: Annotated[Template, AfterValidator(_safe)] = key(
        doc="A path, an absolute URL, or a template such as `https://${request.host}${request.path}`. Values "
        "that come from the request are percent-encoded, and cannot become a host.",
        example="/new/${route.params.id}",
    )
    status: Literal[301, 302, 303, 307, 308] = key(302, "301 and 308 are remembered by browsers.")
    keep_path: bool = key(False, "Append the request's path to the location.")
    keep_query: bool = key(True, "Append the request's query to the location.")


class Redirect(Policy):
    """Answers every request that comes to it with a Location. A route with it needs no service.

    Failure: cannot fail. Whatever a request holds, its values never choose the site.
    """

    name = "redirect"
    Options = RedirectOptions
    terminal = True
    options: RedirectOptions

    def hook(self) -> Hook:
        options = self.options
        return NativeRedirect(
            options.status, parts_of(options.location), options.keep_path, options.keep_query
        )
