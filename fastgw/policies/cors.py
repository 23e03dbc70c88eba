"""`cors`: which other origins' pages may call, as browsers ask (Fetch standard, CORS protocol)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, model_validator

from fastgw._core.cors import Cors as NativeCors
from fastgw._core.exchange import Hook
from fastgw.config.fields import TOKEN, Duration, HeaderName, shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies._parts import Origin
from fastgw.policies.base import Policy


def _method(value: object) -> str:
    if not isinstance(value, str) or not TOKEN.match(value):
        raise wrong("bad_value", f"{shown(value)} is not a method", "GET, POST, … or *")
    return value.upper()


Method = Annotated[str, BeforeValidator(_method)]


class CorsOptions(Room):
    """Who may call, how."""

    origins: tuple[Origin, ...] = key(
        doc="Origins that may call: exact, `https://*.example.com` (any subdomain), `http://localhost:*` "
        "(any port), "
        "`*` (all), `null`.",
        min_length=1,
        max_length=1000,
        example=["https://example.com"],
    )
    methods: tuple[Method, ...] = key(
        ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"), "Methods they may use; `*` for all.", max_length=50
    )
    headers: tuple[HeaderName, ...] = key(
        ("Content-Type", "Authorization"), "Request headers they may send; `*` for all.", max_length=200
    )
    expose: tuple[HeaderName, ...] = key(
        (), "Response headers their scripts may read, beside the safelisted ones.", max_length=200,
        example=["X-Request-ID"],
    )  # fmt: skip
    credentials: bool = key(False, "Cookies and HTTP authentication may be sent along.")
    max_age: Duration = key(
        600.0, "How long a browser may remember a pre-flight.", ge=0, le=86400, example="10m"
    )

    private_network: bool = key(
        False, "Pages of public addresses may call a gateway that has a private one (Private Network Access)."
    )

    @model_validator(mode="after")
    def _safe(self) -> CorsOptions:
        # Fetch standard 3.2.5: with credentials `*` means the literal "*"; reflecting every origin instead
        # would hand the users' sessions to every page on the web
        if self.credentials and "*" in self.origins:
            raise wrong("conflict", "`credentials: true` with the origin `*`", "the origins by name")
        if self.credentials and "null" in self.origins:
            raise wrong("conflict", "`credentials: true` with the origin `null`, which any page can take on",
                        "the origins by name")  # fmt: skip
        if self.credentials and "*" in self.expose:
            raise wrong("conflict", "`credentials: true` with `expose: [\"*\"]`, which browsers then take for a name",
                        "the headers by name")  # fmt: skip
        return self


class Cors(Policy):
    """Answers pre-flights, and says on every answer which origin may read it.

    Order: anywhere; its place is before the others, so that pages can read what those refuse, and pre-flights, which
    carry no credentials, are answered first. CORS headers of the upstream are replaced. Failure: an origin that is not
    allowed gets no CORS headers (its pre-flight 403); a browser then refuses.
    """

    name = "cors"
    Options = CorsOptions
    preflight = True
    outermost = True
    options: CorsOptions

    def hook(self) -> Hook:
        options = self.options
        return NativeCors(
            [origin.encode() for origin in options.origins],
            [method.encode() for method in options.methods],
            [header.encode() for header in options.headers],
            [header.encode() for header in options.expose],
            options.credentials,
            int(options.max_age),
            options.private_network,
        )
