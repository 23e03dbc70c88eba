"""The room `stores`: where policies keep what several workers, or several hosts, must know alike."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from fastgw.config.fields import Duration, Name, Secret, shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.discovery import BesideFile

EXPECTED_URL = "redis://host:port/database, rediss://… for TLS, or unix:///path"
DATABASE = re.compile(r"/?[0-9]{0,5}\Z")

StoreName = Literal["memory", "redis"]
"""`memory`: each worker by itself, lost when it ends. `redis`: `stores.redis`."""
OnFailure = Literal["open", "closed"]


def parse_url(value: object) -> str:
    """A URL without a password: that has a key of its own, which is never shown."""
    if not isinstance(value, str):
        raise wrong("wrong_type", f"{shown(value)} is not a URL", EXPECTED_URL)
    text = str(value)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise wrong("bad_value", "the URL cannot be read", EXPECTED_URL) from None
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise wrong("bad_value", "the URL holds a user or a password", "`username` and `password` beside the `url`")
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/") or len(text) > 120:
            raise wrong("bad_value", f"{shown(text)} is not the path of a socket", EXPECTED_URL)
    elif parts.scheme not in ("redis", "rediss") or not parts.hostname or port == 0 or not DATABASE.match(parts.path):
        raise wrong("bad_value", f"{shown(text)} is not the URL of a Redis server", EXPECTED_URL)
    if parts.query or parts.fragment:
        raise wrong("bad_value", f"{shown(text)} has a query", "the keys of this room")
    return text


RedisUrl = Annotated[
    str, BeforeValidator(parse_url), WithJsonSchema({"type": "string", "examples": ["redis://127.0.0.1:6379/0"]})
]


class StoreBreaker(Room):
    """After some failures in a row the store is left alone for a while: its users get their `on_failure` at once."""

    failures: int = key(5, "So many in a row.", ge=1, le=1000)
    pause: Duration = key(1.0, "How long it is left alone; then one call tries. Doubles while it fails.",
                          ge=0.01, le=600)  # fmt: skip
    max_pause: Duration = key(30.0, "The longest pause.", ge=0.01, le=3600)


class Redis(Room):
    """A Redis server, or one that speaks as it does. Nothing connects before a policy uses it."""

    url: RedisUrl = key(
        doc="`redis://host:port/database`, `rediss://…` for TLS, or `unix:///path`.", example="redis://127.0.0.1:6379/0"
    )
    username: str | None = key(None, "The ACL user.", min_length=1, max_length=200, example="fastgw")
    password: Secret | None = key(None, "The password of the user, or of the server.", example="${REDIS_PASSWORD:-}")
    ca: BesideFile | None = key(
        None, "A file with the certificates that sign for a rediss:// server; by default those of the host.",
        min_length=1, max_length=4096, example="redis-ca.crt",
    )  # fmt: skip
    prefix: Name = key("fastgw", "What its keys begin with, before a colon.")
    deadline: Duration = key(0.02, "So long may a policy wait for an answer.", ge=0.001, le=5, example="20ms")
    timeout: Duration = key(1.0, "So long may a connection take to come about, or to answer, before it is given up.",
                            ge=0.01, le=60)  # fmt: skip
    max_connections: int = key(16, "Connections of one worker; with all of them busy a call fails.", ge=1, le=1000)
    breaker: StoreBreaker = key(StoreBreaker(), "When it fails.")

    @model_validator(mode="after")
    def _fits(self) -> Redis:
        if self.username is not None and not self.password:
            raise wrong("missing_key", "a `username` needs its `password`", "password: ${…}")
        if self.ca is not None and not self.url.startswith("rediss://"):
            raise wrong("conflict", "`ca` is for TLS, and the url is not rediss://", "rediss://…")
        return self


class Stores(Room):
    """Where state is kept that several workers or hosts share. Policies name it: `store: redis`."""

    redis: Redis | None = key(None, "A Redis server.")
