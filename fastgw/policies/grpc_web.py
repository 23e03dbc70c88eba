"""`grpc_web`: browsers call gRPC services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from fastgw._core.exchange import Problem, Refused
from fastgw._core.grpc_status import trailers_only
from fastgw.policies.base import NoOptions, Policy
from fastgw.protocols.grpc_web import (
    TEXT,
    WEB,
    TextDecoder,
    WebError,
    encoded,
    is_web,
    media_type,
    trailers_frame,
    wants_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastgw._core.exchange import Exchange
    from fastgw.policies.base import Answer

STATE = "grpc_web"
"""Where an exchange keeps its `Call`."""
OURS = ("grpc-status", "grpc-message", "grpc-status-details-bin")
NO_STATUS = [("grpc-status", "2"), ("grpc-message", "The service ended without a status.")]

Fields = list[tuple[str, str]]


@dataclass(slots=True)
class Call:
    """One call of a browser. `fields` are the trailers of an answer that has nothing else."""

    content_type: str
    text: bool
    decoder: TextDecoder | None
    active: bool = False
    fields: Fields | None = None


class GrpcWeb(Policy):
    """Translates gRPC-Web, binary and text, of browsers to gRPC. Other requests pass as they are.

    Trailers become the last frame of the body. What the gateway refuses after this policy is told the same way,
    with `grpc-status` and `grpc-message`. The service needs `protocol: h2` or `h2c`. Order: after `cors`, which
    pages of other origins need, with the request headers `Content-Type`, `X-Grpc-Web`, `X-User-Agent` and
    `Grpc-Timeout`; before what may refuse. Failure: a body that is not base64 where its type says so ends the call.
    """

    name = "grpc_web"
    http2 = True
    Options = NoOptions

    def request(self, exchange: Exchange) -> Answer:
        head = exchange.request
        content_type = head.get("content-type") or ""
        if not is_web(content_type):
            return None
        if exchange.method != "POST":
            return Problem(405, "method_not_allowed", "gRPC-Web is POST.", headers={"Allow": "POST"})
        kind, codec = media_type(content_type)
        text = wants_text(head.get("accept") or "", content_type)
        exchange.vars[STATE] = Call(
            (TEXT if text else WEB) + (codec or "+proto"), text, TextDecoder() if kind == TEXT else None
        )
        # what comes back is gRPC, whatever the page can take
        head.remove("Accept")
        exchange.speak_grpc("application/grpc" + codec)
        return None

    def request_body(self, exchange: Exchange, chunk: bytes, end: bool) -> bytes:
        call: Call | None = exchange.vars.get(STATE)
        if call is None or call.decoder is None:
            return chunk
        try:
            data = call.decoder.feed(chunk)
            if end:
                call.decoder.end()
        except WebError as error:
            raise Refused(Problem(400, "bad_request", f"Of the request, {error}.")) from None
        return data

    def response_head(self, exchange: Exchange) -> Answer:
        call: Call | None = exchange.vars.get(STATE)
        if call is None:
            return None
        response = exchange.response
        if exchange.is_local:
            if response.status >= 300:
                refuse(exchange, call)
            return None
        if response.status != 200:
            return None               # no gRPC at all: clients know what to make of the status
        call.active = True
        response.set("Content-Type", call.content_type)
        if "grpc-status" in response:
            call.fields = taken(response)
        return None

    def response_body(self, exchange: Exchange, chunk: bytes, end: bool) -> bytes:
        call: Call | None = exchange.vars.get(STATE)
        if call is None or not call.active:
            return chunk
        if end:
            trailers = exchange.response_trailers
            exchange.response_trailers = None
            fields = trailers.pairs() if trailers is not None else call.fields or NO_STATUS
            exchange.grpc_status = status_of(fields)
            chunk += trailers_frame(fields)
        return encoded(chunk) if call.text and chunk else chunk


def taken(head: Any) -> Fields:
    """The fields that tell how a call ended, out of a head."""
    fields = [(name, value) for name in OURS if (value := head.get(name)) is not None]
    for name in OURS:
        head.remove(name)
    return fields


def status_of(fields: Iterable[tuple[str, str]]) -> int:
    """grpc-status as a number, for the metrics; -1 when it is none that gRPC has."""
    text = next((value for name, value in fields if name.lower() == "grpc-status"), "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 2 else -1


def refuse(exchange: Exchange, call: Call) -> None:
    """An answer of the gateway itself: the same as a gRPC client is told, in a frame."""
    response = exchange.response
    reason = reason_of(response.get("content-type") or "", exchange.response_body or b"")
    response.set("Content-Type", "text/plain")
    trailers_only(exchange, reason)
    response.set("Content-Type", call.content_type)
    fields = taken(response)
    exchange.grpc_status = status_of(fields)
    body = trailers_frame(fields)
    exchange.response_body = encoded(body) if call.text else body


def reason_of(content_type: str, body: bytes) -> bytes:
    """The sentence in a refusal: the detail of a problem, or the plain text."""
    if content_type.startswith("application/problem+json"):
        problem = orjson.loads(body)
        return str(problem.get("detail") or problem.get("title") or "").encode()
    return body if content_type.startswith("text/plain") else b""
