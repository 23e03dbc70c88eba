"""`coalesce`: identical requests at the same time become one request to the upstream."""

from __future__ import annotations

from typing import Literal

from fastgw._core.coalesce import Coalesce as NativeCoalesce
from fastgw._core.exchange import Hook
from fastgw.config.fields import Duration, HeaderName, Size
from fastgw.config.schema.base import Room, key
from fastgw.policies.base import Policy


class CoalesceOptions(Room):
    """What is identical, and how long and how much is shared."""

    headers: tuple[HeaderName, ...] = key(
        ("Accept", "Accept-Encoding", "Accept-Language", "Origin", "Range"),
        "Request headers that belong to the key, beside scheme, host, path and query.",
        max_length=50,
    )
    across_identities: bool = key(
        False,
        "Callers that are not the same may share. Left false, the consumer and the headers Authorization "
        "and Cookie "
        "belong to the key. True only for what is the same for everybody.",
    )
    max_body: Size = key(
        1024 * 1024, "A larger answer is not shared: those who wait ask for themselves.", ge=1, le=67108864,
        example="1MiB",
    )  # fmt: skip
    max_waiters: int = key(1000, "So many may wait for one; more ask for themselves.", ge=1, le=100_000)
    timeout: Duration = key(10.0, "So long may one wait.", ge=0.05, le=3600, example="10s")
    on_failure: Literal["dispatch", "fail"] = key(
        "dispatch",
        "When the one request failed, timed out or may not be shared: `dispatch`, each of those who waited "
        "asks for "
        "itself; `fail`, after a failure (not for an answer that is private) they get the same refusal.",
    )


class Coalesce(Policy):
    """The first of several identical GETs of one worker goes upstream, the others get its answer.

    An answer that sets a cookie, says `private` or `no-store`, or whose `Vary` names a header that is not
    part of the key, is never shared; a request with a body or `Cache-Control: no-store` goes alone. Nothing is
    shared where a policy behind it changes bodies of responses. Order: after authentication and limits.
    Failure: see `on_failure`.
    """

    name = "coalesce"
    Options = CoalesceOptions
    options: CoalesceOptions

    def hook(self) -> Hook:
        options = self.options
        return NativeCoalesce(
            [header.lower().encode() for header in options.headers],
            options.across_identities,
            options.max_body,
            options.max_waiters,
            int(options.timeout * 1e9),
            options.on_failure == "fail",
        )
