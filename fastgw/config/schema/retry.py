"""`retry`: what is sent again, when, and how much of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema

from fastgw.config.fields import Duration, Ratio, Size, shown, wrong
from fastgw.config.schema.base import Room, key

GRPC_STATUSES = (
    "ok", "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists",
    "permission_denied", "resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented",
    "internal", "unavailable", "data_loss", "unauthenticated",
)  # fmt: skip
"""Their place is their number."""
FAILURES = ("connect", "reset", "timeout")
WORDS = "connect, reset, timeout, a status from 400 to 599, 5xx, or grpc: and the name of a status"


def parse_reason(value: object) -> str:
    text = str(value).strip().lower() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if text in FAILURES or text == "5xx" or (text.isascii() and text.isdigit() and 400 <= int(text) <= 599):
        return text
    if text.startswith("grpc:") and text[5:] in GRPC_STATUSES[1:]:
        return text
    raise wrong("bad_choice", f"{shown(value)} is nothing that can be sent again for", WORDS)


def listed(value: Any) -> Any:
    return [value] if isinstance(value, (str, int)) and not isinstance(value, bool) else value


Reason = Annotated[
    str,
    BeforeValidator(parse_reason),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["connect", "timeout", 503, "grpc:unavailable"]}),
]


class RetryBudget(Room):
    """How many requests of a service may be repeats, in one worker: what keeps retries from multiplying an outage."""

    ratio: Ratio = key(0.2, "Repeats per request, over time.")
    per_second: float = key(3.0, "Repeats a second that are free, for services that are seldom asked.", ge=0, le=10000)


class Retry(Room):
    """What is sent again. Only what its client cannot see: nothing of an answer has left, and the body is still here.
    Each time another endpoint is asked, as long as there is one."""

    attempts: int = key(3, "Tries altogether; 1 is none beyond the first.", ge=1, le=10)
    retry_on: Annotated[tuple[Reason, ...], BeforeValidator(listed)] = key(
        ("connect", "reset", "502", "503", "504"),
        "`connect`: no connection came about. `reset`: it ended before an answer began. `timeout`: no answer in time. "
        "Statuses of answers, `5xx` for all of them. `grpc:unavailable` and the like: statuses of gRPC, told before a "
        "message.",
        min_length=1,
        max_length=50,
        example=["connect", "reset", 503],
    )
    methods: tuple[Literal["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "POST", "PATCH"], ...] = key(
        ("GET", "HEAD", "OPTIONS", "PUT", "DELETE"),
        "Methods that may be sent again once something was sent. POST and PATCH are not idempotent: whoever lists them "
        "says that the service knows how to deal with that.",
    )
    backoff: Duration = key(
        0.025, "Most of the wait before the second try; doubles from there. The wait is drawn between 0 and that.",
        ge=0, le=60,
    )  # fmt: skip
    max_backoff: Duration = key(
        1.0, "The longest wait, also where the service asks for one by `Retry-After`; a longer one is not waited for.",
        ge=0, le=600,
    )  # fmt: skip
    per_try: Duration | None = key(
        None, "How long a try may take to its first byte, if that is less than `timeouts.response`.", ge=0.001, le=3600
    )
    body: Size = key(
        64 * 1024, "Bytes of a request's body that are kept to be sent again; a larger one is sent once.",
        ge=0, le=16 * 1024 * 1024,
    )  # fmt: skip
    trust_idempotency_key: bool = key(
        False,
        "Whether a client's `Idempotency-Key` makes any method one that may be sent again. It is a promise of the "
        "client's; only the service can keep it.",
    )  # fmt: skip
    budget: RetryBudget = key(RetryBudget(), "How many there may be.")
