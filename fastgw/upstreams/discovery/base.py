"""What a source of endpoints is, and what it finds."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic_core import PydanticCustomError

from fastgw.config.schema.address import Origin, parse_origin
from fastgw.config.schema.discovery import Discovery

MAX_ANSWER = 8 * 1024 * 1024
"""Bytes of one answer; a longer one is an error."""
MAX_LINE = 1024 * 1024
"""Bytes of one event of a stream."""
MAX_LABELS = 16
MAX_LABEL = 200
HEAVIEST = 1000


class SourceError(Exception):
    """The source did not answer, or not as it should. The text is for logs: it never holds a token."""


class Found(NamedTuple):
    """One endpoint as a source tells it. `labels` are pairs, sorted by name. Sources tell no
    priority: only endpoints of the file have one."""

    origin: Origin
    weight: int = 1
    zone: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    priority: int = 0


@dataclass(slots=True, frozen=True)
class EndpointSet:
    """All endpoints of a service at one moment. `version` grows by one with every change; `changed` is seconds since
    1970; `source` says in a word or two who told them."""

    service: str
    source: str
    version: int
    endpoints: tuple[Found, ...]
    changed: float


Seen = Callable[[Iterable[Found]], None]
Alive = Callable[[], None]


class Source:
    """`run(seen, alive)` never returns by itself. It calls `seen(all endpoints)` whenever it has read them, `alive()`
    when it has learnt that nothing changed; it raises SourceError, OSError or TimeoutError and is then run anew, after
    a pause."""

    def __init__(self, service: str, options: Discovery) -> None:
        self.options = options
        self.name = options.service or service

    def __str__(self) -> str:
        return self.options.type

    async def run(self, seen: Seen, alive: Alive) -> None:
        raise NotImplementedError

    def found(
        self, host: str, port: object, weight: object = 1, zone: object = "", labels: Mapping[str, Any] | None = None
    ) -> Found:
        """SourceError when it is nothing to connect to."""
        text = f"[{host}]" if ":" in host else host
        return self.at(f"{self.options.scheme}://{text}:{port}", weight, zone, labels)

    def at(self, url: str, weight: object = 1, zone: object = "", labels: Mapping[str, Any] | None = None) -> Found:
        """The same for a URL, or for a bare host:port."""
        try:
            origin = parse_origin(url if "://" in url or url.startswith("unix:") else f"{self.options.scheme}://{url}")
        except PydanticCustomError as error:
            raise SourceError(f"it told an endpoint that is none: {error.message()}") from None
        if not origin.unix and origin.scheme != self.options.scheme:
            # whether TLS is spoken to a service is the configuration's decision, not that of a registry
            raise SourceError(f"it told {str(origin)[:200]!r}, and `scheme` of the discovery is {self.options.scheme}")
        whole = int(weight) if isinstance(weight, (int, float)) and not isinstance(weight, bool) else 1
        pairs = sorted((str(name)[:MAX_LABEL], str(value)[:MAX_LABEL]) for name, value in (labels or {}).items())
        return Found(origin, min(max(whole, 1), HEAVIEST), str(zone or "")[:MAX_LABEL], tuple(pairs[:MAX_LABELS]))

    def trust(self, ca: str | None = None) -> ssl.SSLContext | None:
        """The TLS context for an address that begins with https://; None for http."""
        address = self.options.address
        if address is not None and not address.startswith("https://"):
            return None
        try:
            return ssl.create_default_context(cafile=ca or self.options.ca)
        except (OSError, ssl.SSLError) as error:
            raise SourceError(f"its CA certificates cannot be read: {error}") from None


def all_of(found: Iterable[Found], most: int) -> tuple[tuple[Found, ...], int]:
    """Each origin once, in a fixed order, at most so many; and how many were left out."""
    unique: dict[Origin, Found] = {}
    for one in found:
        unique.setdefault(one.origin, one)
    ordered = sorted(unique.values(), key=lambda one: str(one.origin))
    return tuple(ordered[:most]), max(0, len(ordered) - most)

