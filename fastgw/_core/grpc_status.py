"""What a failure looks like to a gRPC client: an answer of trailers alone, HTTP 200 with `grpc-status`.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, "Trailers-Only"; a client that gets another HTTP
status than 200 can only guess, and never sees the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastgw._core.codes import CODES

if TYPE_CHECKING:
    from fastgw._core.exchange import Exchange

UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, RESOURCE_EXHAUSTED = 2, 4, 7, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE, UNAUTHENTICATED = 12, 13, 14, 16

# google/rpc/code.proto: the names, in the order of their numbers, and the HTTP status of each
NAMES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
TO_HTTP = (200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401)

# grpc/doc/http-grpc-status-mapping.md: what clients make of an HTTP status; all others are UNKNOWN
FROM_HTTP = {
    400: INTERNAL, 401: UNAUTHENTICATED, 403: PERMISSION_DENIED, 404: UNIMPLEMENTED,
    429: UNAVAILABLE, 502: UNAVAILABLE, 503: UNAVAILABLE, 504: UNAVAILABLE,
}  # fmt: skip

# what the gateway itself knows better than the HTTP status says
FROM_CODE = {
    "route_timeout": DEADLINE_EXCEEDED, "upstream_response_timeout": DEADLINE_EXCEEDED,
    "upstream_idle_timeout": DEADLINE_EXCEEDED, "body_too_large": RESOURCE_EXHAUSTED,
    "headers_too_large": RESOURCE_EXHAUSTED, "upstream_headers_too_large": RESOURCE_EXHAUSTED,
}  # fmt: skip

MESSAGE_MAX = 1024
"""Characters of a reason that are told; a client bounds all metadata together, at 8 KiB mostly."""


def expected(exchange: Exchange) -> bool:
    """True for a gRPC request: `application/grpc`, with a `+codec` or not. gRPC-Web is another protocol."""
    content_type = exchange.request.get("content-type") or ""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/grpc" or kind.startswith("application/grpc+")


def status_of_failure(code: str) -> int:
    """`grpc-status` of a failure in the middle of an answer."""
    known = CODES.get(code)
    return FROM_CODE.get(code) or FROM_HTTP.get(known.status if known else 500, UNKNOWN)


def percent_encoded(text: str) -> str:
    """`grpc-message`: Percent-Byte-Unencoded is %x20-24 and %x26-7E, every other byte of its UTF-8 is `%XX`."""
    data = text.encode("utf-8", "replace")
    return "".join(chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}" for byte in data)


def trailers_only(exchange: Exchange, body: bytes) -> None:
    """Makes the response one of trailers alone. `body` is the reason when it is plain text; else it is left out."""
    response = exchange.response
    kind = (response.get("content-type") or "").partition(";")[0].strip().lower()
    message = body.decode("utf-8", "replace").strip()[:MESSAGE_MAX] if kind == "text/plain" else ""
    status = FROM_CODE.get(exchange.code or "") or FROM_HTTP.get(response.status, UNKNOWN)
    response.status = 200
    response.set("Content-Type", "application/grpc")
    response.set("Grpc-Status", str(status))
    if message:
        response.set("Grpc-Message", percent_encoded(message))
    else:
        response.remove("Grpc-Message")
