"""`csrf`: pages of other sites may not change anything with the cookies of a user."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from fastgw._core.csrf import Csrf as NativeCsrf
from fastgw._core.exchange import Hook
from fastgw.config.fields import shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies._parts import Origin
from fastgw.policies._report import Report
from fastgw.policies.base import Policy


def _named(value: object) -> object:
    if value in ("*", "null"):
        raise wrong("bad_value", f"{shown(value)} is nobody in particular", "https://app.example.com")
    return value


class CsrfOptions(Room):
    """Whose pages may change something here, beside our own."""

    trusted_origins: tuple[Annotated[Origin, BeforeValidator(_named)], ...] = key(
        (),
        "Other origins whose pages may: exact, `https://*.example.com` (any subdomain), `http://localhost:*` (any "
        "port).",
        max_length=1000,
        example=["https://app.example.com"],
    )
    websockets: bool = key(True, "Handshakes of WebSockets are looked at too.")
    mode: Literal["enforce", "log"] = key("enforce", "`log`: say which would be refused, and let them pass.")


class Csrf(Policy):
    """Refuses requests of pages from other sites with 403 `cross_site`, by what browsers say about them.

    GET, HEAD and OPTIONS pass: they must not change anything. Of the others, `Sec-Fetch-Site` must be `same-origin` or
    `none`; where a browser does not send it, `Origin` must be of the host that was asked. What sends neither is no
    browser. Order: before what waits for somebody. Failure: closed.
    """

    name = "csrf"
    Options = CsrfOptions
    options: CsrfOptions

    def hook(self) -> Hook:
        report = Report("csrf", "would be refused") if self.options.mode == "log" else None
        origins = [origin.encode() for origin in self.options.trusted_origins]
        return NativeCsrf(origins, self.options.websockets, report)
