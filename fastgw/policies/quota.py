"""`quota`: so many requests in an hour, a day, a week or a month of the calendar, counted in Redis."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, model_validator

from fastgw._core.exchange import Exchange, Problem
from fastgw._core.policy import Later
from fastgw.config.fields import TOKEN, Duration, Name, shown, wrong
from fastgw.config.registry import Reference
from fastgw.config.schema.base import Room, key
from fastgw.policies._credentials import refused
from fastgw.policies.base import BuildContext, Policy, PolicyError
from fastgw.store import StoreError
from fastgw.store.quotas import Calendar, Meter, Per, Taken
from fastgw.store.redis import RedisStore

DAY = 86400.0
MOST = 1_000_000_000_000
MAX_SUBJECT = 200
"""Characters. What is longer counts by its hash."""
EXPECTED_BY = "consumer, client_ip, global or claim:NAME"


def _zone(value: object) -> object:
    if isinstance(value, str):
        try:
            ZoneInfo(value)
        except (OSError, ValueError, KeyError):
            raise wrong("bad_value", f"{shown(value)} is not a time zone", "a name such as Europe/Berlin") from None
    return value


def _by(value: object) -> object:
    if isinstance(value, str):
        kind, colon, name = value.partition(":")
        if value in ("consumer", "client_ip", "global") or (kind == "claim" and colon and TOKEN.match(name)):
            return value
    raise wrong("bad_choice", f"{shown(value)} is nobody to count for", EXPECTED_BY)


class QuotaOptions(Room):
    """What may be used, of how long a time, and for whom it counts."""

    name: Name = key(
        doc="What is counted, in answers and in the export. Quotas with the same name, `per` and `timezone` count "
        "together.", example="api-calls",
    )  # fmt: skip
    requests: int | None = key(
        None, "How much of it may be used in a period. Left out, it is counted and not limited.", ge=0, le=MOST,
        example=100_000,
    )  # fmt: skip
    plans: dict[Name, Annotated[int, "requests"] | None] = key(
        {}, "How much consumers of a plan may use instead; null: without limit.", max_length=1000,
        example={"gold": 1_000_000},
    )  # fmt: skip
    per: Per = key("month", "The period, by the calendar: `hour`, `day`, `week` (from Monday on) or `month`.")
    timezone: Annotated[str, BeforeValidator(_zone)] = key(
        "UTC", "Whose calendar: a name of the IANA database.", max_length=100, example="Europe/Berlin"
    )
    by: Annotated[str, BeforeValidator(_by)] = key(
        "consumer", f"For whom it counts: {EXPECTED_BY}. Who has none of it is refused with 401.", max_length=200
    )
    cost: int = key(1, "What a request uses.", ge=1, le=1_000_000)
    warn_at: float | None = key(
        None, "From this part of the quota on answers say X-Quota-Warning.", ge=0.01, le=1, example=0.8
    )
    headers: bool = key(True, "Send X-Quota-Limit, X-Quota-Remaining and X-Quota-Reset (seconds) with every answer.")
    keep: Duration = key(400 * DAY, "How long the counts of a period stay when it is over.", ge=DAY, le=3650 * DAY,
                         example="400d")  # fmt: skip
    store: Literal["redis"] = key("redis", "Where it is counted: `stores.redis`.")
    on_failure: Literal["open", "closed"] = key(
        doc="Without Redis: `closed` refuses with 503, `open` lets requests pass, and they are not counted."
    )

    @model_validator(mode="after")
    def _sane(self) -> QuotaOptions:
        for name, limit in self.plans.items():
            if limit is not None and not 0 <= limit <= MOST:
                raise wrong("out_of_range", f"{limit} for the plan {name!r}", f"from 0 to {MOST}")
        if self.plans and self.by != "consumer":
            raise wrong("conflict", "`plans` are consumers', and this quota counts by something else", "`by: consumer`")
        return self


class Quota(Policy):
    """Counts what a consumer uses in a period of the calendar, and refuses what is more than his plan allows.

    429 `quota_exceeded`, with Retry-After to the end of the period; what is refused is not counted. One round trip to
    Redis per request, shared with others of the same turn. Listed, exported, reset and granted by the admin API and
    `fastgw quotas`. 401 `unauthorized`, 503 `store_unavailable`.
    Order: after authentication, and after what refuses for other reasons.
    Failure: as `on_failure` says.
    """

    name = "quota"
    Options = QuotaOptions
    options: QuotaOptions

    @classmethod
    def needs_identity(cls, options: QuotaOptions) -> bool:
        return options.by == "consumer" or options.by.startswith("claim:")

    @classmethod
    def references(cls, options: QuotaOptions) -> Iterable[Reference]:
        return [Reference("store", options.store, ("store",))]

    def __init__(self, options: QuotaOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        store = context.store(options.store)
        if not isinstance(store, RedisStore):
            raise PolicyError("a quota is counted in Redis")
        unknown = sorted(set(options.plans) - set(context.plans))
        if unknown:
            raise PolicyError(f"there is no plan {unknown[0]!r}")
        self.meter = Meter(store, options.name, Calendar(options.per, options.timezone), options.keep)
        self.claim = options.by.partition(":")[2]
        self.noted = f"quota:{context.policy_key}"

    def subject(self, exchange: Exchange) -> str | None:
        by = self.options.by
        if by == "consumer":
            return exchange.consumer.name if exchange.consumer is not None else None
        if by == "client_ip":
            return exchange.client_ip
        if by == "global":
            return "*"
        value = exchange.claims.get(self.claim) if exchange.claims is not None else None
        if not isinstance(value, (str, int)) or value == "":
            return None
        text = str(value)
        return text if len(text) <= MAX_SUBJECT else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def limit(self, exchange: Exchange) -> int | None:
        plan = exchange.consumer.plan if exchange.consumer is not None else None
        return self.options.plans.get(plan, self.options.requests) if plan else self.options.requests

    def request(self, exchange: Exchange) -> Problem | Later | None:
        subject = self.subject(exchange)
        if subject is None:
            return refused("unauthorized", "Bearer", "Nobody is known whose quota this could be.")
        limit = self.limit(exchange)
        later = Later()

        def told(taken: Taken | None, error: StoreError | None) -> None:
            # of an exchange that is over, and may be somebody else's by now, nothing is touched
            if later.waited:
                later(self.failed(error) if taken is None else self.taken(exchange, taken, limit))

        try:
            self.meter.take(subject, limit, self.options.cost, told)
        except StoreError as error:
            return self.failed(error)
        return later

    def failed(self, error: StoreError | None) -> Problem | None:
        if self.options.on_failure == "open":
            return None
        reason = error.reason if error is not None else "failed"
        return Problem(503, "store_unavailable", f"Quotas cannot be looked up ({reason}).", side=2)

    def taken(self, exchange: Exchange, taken: Taken, limit: int | None) -> Problem | None:
        reset = max(1, math.ceil(taken.period.end - time.time()))
        if limit is not None:
            exchange.vars[self.noted] = (limit + taken.granted, taken.used, reset)
        if taken.admitted:
            return None
        name = self.options.name
        return Problem(
            429, "quota_exceeded",
            f"The quota {name} of this {self.options.per} is used up; it begins anew in {reset} s.",
            headers=(("Retry-After", str(reset)),),
            members={"quota": name, "period": taken.period.name, "retry_after": reset},
        )  # fmt: skip

    def response_head(self, exchange: Exchange) -> None:
        noted = exchange.vars.get(self.noted)
        if noted is None:
            return
        limit, used, reset = noted
        response = exchange.response
        if self.options.headers:
            response.set("X-Quota-Limit", str(limit))
            response.set("X-Quota-Remaining", str(max(0, limit - used)))
            response.set("X-Quota-Reset", str(reset))
        if self.options.warn_at is not None and used >= limit * self.options.warn_at:
            response.set("X-Quota-Warning", f"{self.options.name}; used={used}; limit={limit}")
