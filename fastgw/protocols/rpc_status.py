"""google.rpc.Status: how a call ended, from the fields of a gRPC answer, and what an HTTP client is told of it."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from google.protobuf import descriptor_pool, json_format
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from fastgw._core.grpc_status import NAMES, TO_HTTP, UNKNOWN

MAX_DETAILS = 64 * 1024
"""Bytes of grpc-status-details-bin; longer ones are left out."""
assert error_details_pb2    # imported for the types it registers, which details are mostly of


@dataclass(slots=True)
class RpcStatus:
    """`code` is a number of google.rpc.Code or any other; `details` are JSON."""

    code: int
    message: str = ""
    details: list[Any] = field(default_factory=list)

    @property
    def name(self) -> str:
        """NOT_FOUND, …; UNKNOWN for a number that has no name."""
        return NAMES[self.code] if 0 <= self.code < len(NAMES) else "UNKNOWN"

    @property
    def http(self) -> int:
        """The HTTP status (google/rpc/code.proto)."""
        return TO_HTTP[self.code] if 0 <= self.code < len(TO_HTTP) else 500

    def as_json(self) -> dict[str, Any]:
        """google.rpc.Status in JSON."""
        return {"code": self.code, "message": self.message, "details": self.details}


def parse_status(status: str, message: str | None, details: str | None, pool: Any = None) -> RpcStatus:
    """From `grpc-status`, `grpc-message` and `grpc-status-details-bin`. What cannot be read is UNKNOWN, or left out:
    these fields are the service's."""
    code = int(status) if status.isascii() and status.isdigit() and len(status) <= 5 else UNKNOWN
    text = unquote_to_bytes(message or "").decode("utf-8", "replace")
    found = RpcStatus(code, text)
    if details and code and len(details) <= MAX_DETAILS:
        found.details = parse_details(details, pool)
    return found


def parse_details(text: str, pool: Any = None) -> list[Any]:
    try:
        # PROTOCOL-HTTP2: a receiver must take padded and unpadded base64
        data = base64.b64decode(text + "=" * (-len(text) % 4))
        status = status_pb2.Status.FromString(data)
    except (binascii.Error, ValueError, DecodeError):
        return []
    return [detail_json(one, pool) for one in status.details]


def detail_json(detail: Any, pool: Any) -> Any:
    """An Any by a type that the service's files have, or Google's; of another type, its bytes."""
    for each in (pool, descriptor_pool.Default()):
        if each is None:
            continue
        try:
            return json_format.MessageToDict(detail, descriptor_pool=each)
        except (json_format.Error, ValueError, TypeError, KeyError, RecursionError, DecodeError):
            continue
    return {"@type": detail.type_url, "value": base64.b64encode(detail.value).decode()}
