"""`rate_limit`: so many requests in so much time for each key, exact over all workers of the host."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from fastgw._core.exchange import Hook
from fastgw._core.limit import RateLimit as NativeRateLimit
from fastgw.config.fields import TOKEN, Duration, format_duration, shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies._parts import listed
from fastgw.policies.base import Policy

PLAIN = ("consumer", "client_ip", "route", "global")
NAMED = ("header", "claim", "cookie", "query")
EXPECTED = "consumer, client_ip, route, global, header:NAME, claim:NAME, cookie:NAME or query:NAME"
LABEL = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")


def _by(value: object) -> str:
    if isinstance(value, str):
        if value in PLAIN:
            return value
        kind, colon, name = value.partition(":")
        if kind in NAMED and colon and TOKEN.match(name):
            return value
    raise wrong("bad_choice", f"{shown(value)} is not a key", EXPECTED)


def _label(value: object) -> object:
    if isinstance(value, str) and not LABEL.match(value):
        raise wrong("bad_value", f"{shown(value)} is not a name for a limit", "letters, digits and . _ : -")
    return value


By = Annotated[str, BeforeValidator(_by)]


class RateLimitOptions(Room):
    """One limit. Several limits are several `rate_limit` policies."""

    requests: int = key(doc="So many requests …", ge=1, le=1_000_000_000, example=60)
    per: Duration = key(60.0, "… in so much time.", ge=0.001, le=366 * 86400, example="1m")
    burst: int | None = key(
        None,
        "How many may come at once: the capacity of the bucket. Left out, `requests`.",
        ge=1,
        le=1_000_000_000,
        example=100,
    )
    by: Annotated[tuple[By, ...], BeforeValidator(listed)] = key(
        ("client_ip",),
        f"Whose requests are counted together: {EXPECTED}, or a list of them. A request without the key "
        "counts "
        "by client_ip.",
        min_length=1,
        max_length=8,
        example="consumer",
    )
    name: Annotated[str | None, BeforeValidator(_label)] = key(
        None, "What the limit is called in a refusal. Left out, `60/1m` and its like.", example="free-plan"
    )
    headers: bool = key(True, "Send X-RateLimit-*, RateLimit and RateLimit-Policy with every answer.")
    when_full: Literal["refuse", "allow"] = key(
        "refuse",
        "When the host's table of buckets has no room for one more key: `refuse` (503 limiter_full) or "
        "`allow`.",
    )

    @model_validator(mode="after")
    def _sane(self) -> RateLimitOptions:
        interval = self.per * 1e9 / self.requests
        if interval < 10:
            raise wrong(
                "out_of_range", f"{self.requests} in {self.per:g} s", "at most 100 million per second"
            )
        if interval * (self.burst or self.requests) > 4e18:
            raise wrong(
                "out_of_range", "the burst would take more than a century to fill again", "a smaller burst"
            )
        return self


class RateLimit(Policy):
    """A token bucket per key, in memory that all workers of the host share: together they admit what one
    would.

    Order: after authentication when it counts by consumer or claim; before it when it is to protect the
    authentication. Failure: closed (see `when_full`). Levels survive a reload.
    """

    name = "rate_limit"
    Options = RateLimitOptions
    options: RateLimitOptions

    @classmethod
    def needs_identity(cls, options: RateLimitOptions) -> bool:
        return any(by == "consumer" or by.startswith("claim:") for by in options.by)

    def hook(self) -> Hook:
        options = self.options
        # rounded up to a whole nanosecond: never more than was asked for
        interval = math.ceil(round(options.per * 1e9, 3) / options.requests)
        name = options.name or f"{options.requests}/{format_duration(options.per)}"
        keys: list[Any] = []
        for by in options.by:
            kind, _, rest = by.partition(":")
            keys.append((kind, rest.encode("latin-1")))
        return NativeRateLimit(
            self.context.bucket_table,
            self.context.policy_key.encode(),
            interval,
            options.burst or options.requests,
            keys,
            name,
            max(1, math.ceil(options.per)),
            options.requests,
            options.headers,
            options.when_full == "allow",
        )
