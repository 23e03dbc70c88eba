"""`websocket` and `websocket_broadcast` of a route."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from fastgw.config.fields import Duration, Size, shown, wrong
from fastgw.config.schema.base import Room, key

TARGET = re.compile(r"/[!$&'()*+,\-./0-9:;=@A-Z_a-z~%?]*\Z")


class MessageRate(Room):
    """A token bucket per socket. Pings, pongs and close frames count as messages."""

    rate: int = key(doc="So many messages …", ge=1, le=1_000_000, example=20)
    per: Duration = key(1.0, "… in so much time.", ge=0.001, le=86400)
    burst: int | None = key(
        None, "How many may come at once. Left out, `rate`.", ge=1, le=1_000_000, example=100
    )
    direction: Literal["client", "service", "both"] = key(
        "client", "Whose messages: each side has a bucket of its own."
    )


class Ping(Room):
    """The side that is pinged must send something in time: a pong, or anything else."""

    interval: Duration = key(30.0, "A side from which nothing came for so long is pinged.", ge=0.1, le=86400)
    timeout: Duration = key(
        10.0, "How long it has to answer; then the socket is closed (1011).", ge=0.1, le=3600
    )
    to: Literal["client", "service", "both"] = key("client", "Who is pinged.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {"interval": value}


class WebSocket(Room):
    """A route whose clients may open WebSockets (RFC 6455). A bare `true` or `false` is the short form."""

    enabled: bool = key(True, "Whether they may.")
    idle_timeout: Duration = key(
        300.0,
        "How long a socket may be quiet in both directions; then it is closed (1001).",
        ge=1,
        le=7 * 86400,
    )
    max_age: Duration | None = key(
        None, "How long a socket may be open; then it is closed (1001).", ge=1, le=366 * 86400, example="12h"
    )
    max_frame: Size | None = key(
        None, "Bytes of payload of one frame, compressed or not; more closes (1009).", ge=125, example="1MiB"
    )
    max_message: Size | None = key(
        None, "Bytes of payload of all frames of a message; more closes (1009).", ge=125, example="4MiB"
    )
    messages: MessageRate | None = key(None, "How many messages may pass; more closes (1008).")
    ping: Ping | None = key(
        None, "Pings of the gateway's own, which keep a socket alive. A duration is its `interval`."
    )
    recheck: bool = key(
        False, "Close (1008) when the token expires by which `jwt` or `oauth2_introspection` let the handshake pass."
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"enabled": value} if isinstance(value, bool) else value


def _target(value: object) -> object:
    if isinstance(value, str) and len(value) <= 8192 and TARGET.match(value):
        return value
    raise wrong("bad_value", f"{shown(value)} is no path", "a path, with a query where it has one: /feed?all=1")


class WebSocketBroadcast(Room):
    """Each worker opens one stream to the service when the first client comes, for all of its clients."""

    path: Annotated[str, BeforeValidator(_target)] = key(
        doc="What the service is asked for: the path, and the query.", example="/feed"
    )
    source: Literal["websocket", "sse"] = key(
        "websocket", "How the service speaks: a WebSocket, or Server-Sent Events, whose `data` become text messages."
    )
    max_message: Size = key(1024 * 1024, "Bytes of one message of the service; a larger one ends its stream.", ge=125)
    queue: int = key(256, "Messages that may wait for one client.", ge=1, le=100_000)
    queue_size: Size = key(1024 * 1024, "Bytes of messages that may wait for one client.", ge=1024, le=2**30)
    slow: Literal["drop", "close"] = key(
        "drop", "When more would wait: `drop` the oldest of them, or `close` the client (1013)."
    )
    retry: Duration = key(
        0.5, "The pause before a stream that ended is opened anew; it doubles until something comes.", ge=0.01, le=3600
    )
    max_retry: Duration = key(30.0, "The longest pause.", ge=0.01, le=86400)
