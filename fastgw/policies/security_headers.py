"""`security_headers`: what browsers must not do with our answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from fastgw._core.exchange import Hook
from fastgw._core.security_headers import SecurityHeaders as NativeSecurityHeaders
from fastgw.config.fields import shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.tls import Hsts
from fastgw.policies._parts import EditableName
from fastgw.policies.base import Policy


def _value(value: object) -> object:
    """RFC 9110 §5.5: what may stand in a field value; lines of a long one are joined."""
    if not isinstance(value, str):
        raise wrong("wrong_type", f"{shown(value)} is not the value of a header", "text")
    text = " ".join(str(value).split())
    if not text or not text.isascii() or not text.isprintable():
        raise wrong("bad_value", f"{shown(value)} cannot be the value of a header", "printable ASCII")
    return text


Value = Annotated[str, BeforeValidator(_value)]
Opener = Literal["same-origin", "same-origin-allow-popups", "noopener-allow-popups", "unsafe-none"]


class SecurityHeadersOptions(Room):
    """The headers; null leaves one out."""

    hsts: Hsts | None = key(None, "`Strict-Transport-Security`, on answers that go over TLS.")
    csp: Value | None = key(None, "`Content-Security-Policy`.", example="default-src 'self'; frame-ancestors 'none'")
    csp_report_only: Value | None = key(None, "`Content-Security-Policy-Report-Only`.")
    content_type_options: Literal["nosniff"] | None = key("nosniff", "`X-Content-Type-Options`.")
    frame_options: Literal["DENY", "SAMEORIGIN"] | None = key("SAMEORIGIN", "`X-Frame-Options`.")
    referrer_policy: Value | None = key("strict-origin-when-cross-origin", "`Referrer-Policy`.")
    permissions_policy: Value | None = key(None, "`Permissions-Policy`.", example="camera=(), microphone=()")
    opener_policy: Opener | None = key(None, "`Cross-Origin-Opener-Policy`.")
    embedder_policy: Literal["require-corp", "credentialless", "unsafe-none"] | None = key(
        None, "`Cross-Origin-Embedder-Policy`."
    )
    resource_policy: Literal["same-origin", "same-site", "cross-origin"] | None = key(
        None, "`Cross-Origin-Resource-Policy`."
    )
    remove: tuple[EditableName, ...] = key(
        ("X-Powered-By", "X-AspNet-Version", "X-AspNetMvc-Version"),
        "Headers of services that are taken off.",
        max_length=50,
    )
    replace: bool = key(False, "Headers that a service has set itself are replaced.")


HEADERS = {
    "csp": "Content-Security-Policy",
    "csp_report_only": "Content-Security-Policy-Report-Only",
    "content_type_options": "X-Content-Type-Options",
    "frame_options": "X-Frame-Options",
    "referrer_policy": "Referrer-Policy",
    "permissions_policy": "Permissions-Policy",
    "opener_policy": "Cross-Origin-Opener-Policy",
    "embedder_policy": "Cross-Origin-Embedder-Policy",
    "resource_policy": "Cross-Origin-Resource-Policy",
}


class SecurityHeaders(Policy):
    """Puts headers on every answer, the gateway's own among them, that tell browsers what not to do with it.

    A service that sets one itself knows better, unless `replace`. Order: anywhere. Failure: none; it refuses nothing.
    """

    name = "security_headers"
    Options = SecurityHeadersOptions
    options: SecurityHeadersOptions

    def hook(self) -> Hook:
        options = self.options
        given = [(name.encode(), getattr(options, option)) for option, name in HEADERS.items()]
        headers = [(name, value.encode()) for name, value in given if value is not None]
        hsts = None
        if options.hsts is not None:
            hsts = f"max-age={int(options.hsts.max_age)}"
            hsts += "; includeSubDomains" if options.hsts.include_subdomains else ""
            hsts += "; preload" if options.hsts.preload else ""
        removed = [name.encode() for name in options.remove]
        return NativeSecurityHeaders(headers, hsts.encode() if hsts else None, removed, options.replace)
