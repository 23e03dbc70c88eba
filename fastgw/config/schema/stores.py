"""The room `stores`: where policies keep what several workers, or several hosts, must know alike."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from fastgw.config.fields import Duration, Name, Secret, shown, wrong
from fastgw.config.schema.address import HOST_NAME, is_ip
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.discovery import BesideFile

EXPECTED_URL = "redis://host:port/database, rediss://… for TLS, or unix:///path"
EXPECTED_NODE = "host:port"
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


def parse_node(value: object) -> str:
    """`host:port`, an IPv6 address in brackets."""
    if isinstance(value, str):
        try:
            parts = urlsplit(f"//{value}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if "@" in value:
            raise wrong("bad_value", "the address holds a user or a password", "`username` and `password`")
        if host and port and parts.netloc == value and (is_ip(host) or HOST_NAME.match(host)):
            return value
    raise wrong("bad_value", f"{shown(value)} is not the address of a server", EXPECTED_NODE)


Node = Annotated[str, BeforeValidator(parse_node), WithJsonSchema({"type": "string", "examples": ["10.0.0.1:6379"]})]


class Sentinel(Room):
    """Redis with Sentinels, which know the server that may be written to."""

    nodes: tuple[Node, ...] = key(
        doc="The Sentinels, `host:port` each; they are asked in this order.", min_length=1, max_length=32,
        example=["10.0.0.1:26379", "10.0.0.2:26379", "10.0.0.3:26379"],
    )  # fmt: skip
    master: Name = key(doc="What the Sentinels call the server.", example="mymaster")
    database: int = key(0, "The number of the database.", ge=0, le=99999)
    username: str | None = key(None, "The ACL user of the Sentinels themselves.", min_length=1, max_length=200)
    password: Secret | None = key(None, "The password of the Sentinels themselves.")

    @model_validator(mode="after")
    def _fits(self) -> Sentinel:
        if self.username is not None and not self.password:
            raise wrong("missing_key", "a `username` needs its `password`", "password: ${…}")
        return self


class Cluster(Room):
    """A Redis Cluster."""

    nodes: tuple[Node, ...] = key(
        doc="Some of its servers, `host:port` each; the others are learnt from them.", min_length=1, max_length=64,
        example=["10.0.0.1:6379", "10.0.0.2:6379"],
    )  # fmt: skip


class StoreBreaker(Room):
    """After some failures in a row the store is left alone for a while: its users get their `on_failure` at once."""

    failures: int = key(5, "So many in a row; what was sent in one piece, and to one server, counts once.",
                        ge=1, le=1000)  # fmt: skip
    pause: Duration = key(1.0, "How long it is left alone; then one call tries. Doubles while it fails.",
                          ge=0.01, le=600)  # fmt: skip
    max_pause: Duration = key(30.0, "The longest pause.", ge=0.01, le=3600)


class Redis(Room):
    """A Redis server, or what speaks as it does: one server (`url`), one that Sentinels know (`sentinel`), or a Cluster
    (`cluster`). Nothing connects before a policy uses it."""

    url: RedisUrl | None = key(
        None, "`redis://host:port/database`, `rediss://…` for TLS, or `unix:///path`.",
        example="redis://127.0.0.1:6379/0",
    )  # fmt: skip
    sentinel: Sentinel | None = key(None, "Instead of a `url`: the Sentinels that know where the server is.")
    cluster: Cluster | None = key(None, "Instead of a `url`: the servers of a Redis Cluster.")
    tls: bool = key(False, "Speak TLS to the servers of `sentinel` or `cluster`, Sentinels included.")
    username: str | None = key(None, "The ACL user.", min_length=1, max_length=200, example="fastgw")
    password: Secret | None = key(None, "The password of the user, or of the server.", example="${REDIS_PASSWORD:-}")
    ca: BesideFile | None = key(
        None, "A file with the certificates that sign for servers with TLS; by default those of the host.",
        min_length=1, max_length=4096, example="redis-ca.crt",
    )  # fmt: skip
    prefix: Name = key("fastgw", "What its keys begin with, before a colon.")
    deadline: Duration = key(0.02, "So long may a policy wait for an answer.", ge=0.001, le=5, example="20ms")
    timeout: Duration = key(1.0, "So long may a connection take to come about, or to answer, before it is given up.",
                            ge=0.01, le=60)  # fmt: skip
    max_connections: int = key(
        4, "Connections of one worker to one server. Commands of one turn share a write; with all of them busy they "
        "wait for the next, within the deadline.", ge=1, le=1000,
    )  # fmt: skip
    max_waiting: int = key(10_000, "Commands of one worker that may wait for one server; one more fails at once.",
                           ge=1, le=1_000_000)  # fmt: skip
    breaker: StoreBreaker = key(StoreBreaker(), "When it fails.")
    cert: BesideFile | None = key(
        None, "A file with the certificate that is shown to servers with TLS, then its chain, PEM.",
        min_length=1, max_length=4096, example="gateway.crt",
    )  # fmt: skip
    passphrase: Secret | None = key(None, "What the key is encrypted with.", example="${GATEWAY_KEY_PASSPHRASE}")
    # last, because its name hides the function that makes keys
    key: BesideFile | None = key(
        None, "A file with the private key of `cert`, PEM.", min_length=1, max_length=4096, example="gateway.key"
    )

    @property
    def encrypted(self) -> bool:
        return self.tls if self.url is None else self.url.startswith("rediss://")

    @property
    def where(self) -> str:
        """For logs: no user, no password."""
        if self.sentinel is not None:
            return f"{self.sentinel.master} at the Sentinels {', '.join(self.sentinel.nodes)}"
        return f"cluster {', '.join(self.cluster.nodes)}" if self.cluster is not None else str(self.url)

    @model_validator(mode="after")
    def _fits(self) -> Redis:
        given = [name for name in ("url", "sentinel", "cluster") if getattr(self, name) is not None]
        if not given:
            raise wrong("missing_key", "nothing says where Redis is", "`url:`, `sentinel:` or `cluster:`")
        if len(given) > 1:
            raise wrong("conflict", f"`{given[0]}` and `{given[1]}` exclude each other", "one of them")
        if self.tls and self.url is not None:
            raise wrong("conflict", "a `url` says itself whether TLS is spoken", "rediss://… without `tls`")
        if self.username is not None and not self.password:
            raise wrong("missing_key", "a `username` needs its `password`", "password: ${…}")
        if self.ca is not None and not self.encrypted:
            raise wrong("conflict", "`ca` is for TLS, and there is none", "rediss://…, or `tls: true`")
        if (self.cert is None) != (self.key is None):
            raise wrong("missing_key", "a certificate and its key belong together", "`cert` and `key`")
        if self.cert is not None and not self.encrypted:
            raise wrong("conflict", "`cert` is for TLS, and there is none", "rediss://…, or `tls: true`")
        if self.passphrase and self.key is None:
            raise wrong("conflict", "a passphrase without a key", "`cert` and `key`")
        return self


class Stores(Room):
    """Where state is kept that several workers or hosts share. Policies name it: `store: redis`."""

    redis: Redis | None = key(None, "Redis.")
