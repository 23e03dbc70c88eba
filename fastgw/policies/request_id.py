"""`request_id`: every exchange has an id, which the upstream, the client and the log see alike."""

from __future__ import annotations

from fastgw._core.exchange import Hook
from fastgw._core.request_id import RequestId as NativeRequestId
from fastgw.config.fields import HeaderName
from fastgw.config.schema.base import Room, key
from fastgw.policies.base import Policy

MAX_ID = 128


class RequestIdOptions(Room):
    """How the id travels."""

    header: HeaderName = key("X-Request-ID", "The header that carries the id.", example="X-Correlation-ID")
    accept: bool = key(
        False,
        "Keep the id that any client sends. Without it, only a trusted proxy's id is kept. In both cases "
        "an id "
        f"is 1 to {MAX_ID} letters, digits and any of . _ - : + / = @, or a new one is made.",
    )
    response: bool = key(True, "Tell the client the id in the same header of the response.")


class RequestId(Policy):
    """Gives every exchange an id of 32 hex digits, or keeps the one that came with it.

    Order: first, so that everything after it, refusals too, carries the id. Failure: cannot fail.
    """

    name = "request_id"
    Options = RequestIdOptions
    options: RequestIdOptions

    def hook(self) -> Hook:
        options = self.options
        return NativeRequestId(options.header.encode(), options.accept, options.response, MAX_ID)
