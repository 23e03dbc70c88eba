"""Where things listen and where they are reached: `Bind` and `Origin`."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from pydantic import BeforeValidator, WithJsonSchema

from fastgw.config.fields import shown, wrong

EXPECTED_BIND = "host:port, [::]:port or unix:/path"
EXPECTED_URL = "http://host:port, https://host:port, tcp://host:port or unix:/path"
MAX_UNIX_PATH = 107
HOST_NAME = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?\Z"
)


class Bind(NamedTuple):
    """A place to listen at: either `host` (an IP address, no brackets) and `port`, or `unix` (a path)."""

    host: str
    port: int
    unix: str = ""

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Can it be reached from this host only?"""
        return bool(self.unix) or ipaddress.ip_address(self.host).is_loopback


class Origin(NamedTuple):
    """An upstream address: `scheme`, and either `host` (name or IP, no brackets) and `port`, or `unix`."""

    scheme: str
    host: str
    port: int
    unix: str = ""

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def parse_unix(value: str, expected: str) -> str:
    path = value[5:].removeprefix("//")
    if not path.startswith("/") or "\0" in path or len(path.encode("utf-8", "replace")) > MAX_UNIX_PATH:
        raise wrong(
            "bad_value", f"{shown(value)} is not a unix socket", f"unix:/path, at most {MAX_UNIX_PATH} bytes"
        )
    return path


def parse_bind(value: object) -> Bind:
    """`0.0.0.0:8080`, `[::]:8080`, `localhost:8080`, `:8080` (every address), `8080`, `unix:/run/gw.sock`."""
    if isinstance(value, Bind):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = f":{value}"
    if not isinstance(value, str):
        raise wrong("wrong_type", f"{shown(value)} is not an address to listen at", EXPECTED_BIND)
    text = str(value).strip()
    if text.startswith("unix:"):
        return Bind("", 0, parse_unix(text, EXPECTED_BIND))
    host, _, port = text.rpartition(":") if ":" in text else ("", "", text)
    if not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise wrong("bad_value", f"{shown(value)} has no port from 0 to 65535", EXPECTED_BIND)
    host = {"": "0.0.0.0", "*": "0.0.0.0", "localhost": "127.0.0.1"}.get(host, host)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise wrong("bad_value", f"{shown(value)} is ambiguous", "an IPv6 address in brackets: [::1]:8080")
    if not is_ip(host):
        raise wrong("bad_value", f"{shown(value)} does not begin with an IP address", EXPECTED_BIND)
    return Bind(str(ipaddress.ip_address(host)), int(port))


def parse_origin(value: object) -> Origin:
    """`http://host:port`, `https://`, `tcp://` (no path, query or user), or `unix:/path`."""
    if isinstance(value, Origin):
        return value
    if not isinstance(value, str):
        raise wrong("wrong_type", f"{shown(value)} is not a URL", EXPECTED_URL)
    text = str(value).strip()
    if text.startswith("unix:"):
        return Origin("http", "", 0, parse_unix(text, EXPECTED_URL))
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname or ""
    except ValueError:
        raise wrong("bad_value", f"{shown(value)} is not a URL", EXPECTED_URL) from None
    if parts.scheme not in ("http", "https", "tcp"):
        raise wrong("bad_value", f"{shown(value)} does not begin with http://", EXPECTED_URL)
    if "@" in parts.netloc:
        raise wrong(
            "bad_value", "a URL with a user or password in it", "the address only; set headers by a policy"
        )
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise wrong(
            "bad_value",
            f"{shown(value)} has more than an address",
            f"{EXPECTED_URL}; a path is put before the request's by `add_prefix` of a route",
        )
    if not (is_ip(host) or HOST_NAME.match(host)) or len(host) > 253:
        raise wrong("bad_value", f"{shown(value)} has no host that could exist", EXPECTED_URL)
    if port == 0 or (port is None and parts.scheme == "tcp"):
        raise wrong("bad_value", f"{shown(value)} has no port from 1 to 65535", EXPECTED_URL)
    return Origin(parts.scheme, host, port or (443 if parts.scheme == "https" else 80))


BindAddress = Annotated[Bind, BeforeValidator(parse_bind), WithJsonSchema({"type": ["string", "integer"]})]
OriginUrl = Annotated[
    Origin,
    BeforeValidator(parse_origin),
    WithJsonSchema({"type": "string", "pattern": r"^\s*(https?://|tcp://|unix:|\$\{)"}),
]
