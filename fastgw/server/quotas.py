"""What operators see and change of quotas: the admin API's side of `store/quotas.py`, with a connection of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from fastgw.config import Config
from fastgw.policies.quota import QuotaOptions
from fastgw.store import StoreError, open_store
from fastgw.store.quotas import Calendar, Meter
from fastgw.store.redis import RedisStore

MOST = 200_000
"""Subjects of an answer. An export with fewer than there are would be a bill that is wrong."""
DEADLINE = 5.0
"""Seconds for a command: nobody's request waits for it."""


class QuotaProblem(Exception):
    """What cannot be done, for the admin API: status, code, and the reason as text."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code


@dataclass(slots=True)
class Counted:
    """A meter, and the options of the policies that share it: they may differ in what they allow."""

    meter: Meter
    options: list[QuotaOptions]


class QuotaDesk:
    """`current` gives the generation of the configuration in force, and what gives the whole of it."""

    def __init__(self, current: Callable[[], tuple[int, Callable[[], Config]]]) -> None:
        self.current = current
        self.generation = -1
        self.store: RedisStore | None = None
        self.opened: Any = None
        self.found: dict[str, list[Counted]] = {}
        self.consumers: dict[str, str | None] = {}

    async def follow(self) -> None:
        generation, whole = self.current()
        if generation == self.generation:
            return
        config = whole()
        options = config.stores.redis
        if self.store is not None and options != self.opened:
            await self.store.close()
            self.store = None
        if self.store is None and options is not None:
            patient = options.model_copy(update={"deadline": DEADLINE, "timeout": DEADLINE})
            store = open_store("redis", config.stores.model_copy(update={"redis": patient}))
            assert isinstance(store, RedisStore)
            self.store, self.opened = store, options
        self.found = self.meters(config)
        self.consumers = {one.name: one.plan for one in config.consumers}
        self.generation = generation

    def meters(self, config: Config) -> dict[str, list[Counted]]:
        kept: dict[tuple[str, str, str], Counted] = {}
        for use in chain(config.policies, *(route.policies for route in config.routes)):
            options = use.options
            if not isinstance(options, QuotaOptions) or self.store is None:
                continue
            identity = (options.name, options.per, options.timezone)
            if identity not in kept:
                calendar = Calendar(options.per, options.timezone)
                kept[identity] = Counted(Meter(self.store, options.name, calendar, options.keep), [])
            kept[identity].options.append(options)
        found: dict[str, list[Counted]] = {}
        for one in kept.values():
            found.setdefault(one.meter.name, []).append(one)
        return found

    async def named(self, name: str) -> Counted:
        await self.follow()
        found = self.found.get(name, [])
        if not found:
            raise QuotaProblem(404, "unknown_quota", f"There is no quota {name!r}.")
        if len(found) > 1:
            raise QuotaProblem(
                409, "ambiguous_quota", f"Quotas {name!r} differ in `per` or `timezone`: give them different names."
            )
        return found[0]

    def limit(self, counted: Counted, subject: str) -> int | None:
        """What the first of the policies allows; None without a limit."""
        options = counted.options[0]
        plan = self.consumers.get(subject) if options.by == "consumer" else None
        return options.plans.get(plan, options.requests) if plan else options.requests

    # ------------------------------------------------------------------ answers

    async def listing(self) -> list[dict[str, Any]]:
        await self.follow()
        now = time.time()
        rows = []
        for counted in chain.from_iterable(self.found.values()):
            calendar, options = counted.meter.calendar, counted.options[0]
            period = calendar.at(now)
            rows.append({
                "name": counted.meter.name, "per": calendar.per, "timezone": calendar.zone.key, "by": options.by,
                "requests": options.requests, "plans": dict(options.plans), "period": period.name,
                "resets_in": round(period.end - now),
            })  # fmt: skip
        return rows

    async def usage(self, name: str, period: str | None) -> tuple[str, list[dict[str, Any]]]:
        """The period, and a row for each subject, those that used most first."""
        counted = await self.named(name)
        wanted = period or counted.meter.calendar.at(time.time()).name
        rows: list[dict[str, Any]] = []
        async for subject, used, granted in self.asked(counted.meter.usage(wanted)):
            if len(rows) >= MOST:
                raise QuotaProblem(409, "too_many", f"More than {MOST} subjects: ask Redis itself.")
            limit = self.limit(counted, subject)
            rows.append({"subject": subject, "plan": self.consumers.get(subject), "used": used, "granted": granted,
                         "limit": limit})  # fmt: skip
        return wanted, sorted(rows, key=lambda row: (-row["used"], row["subject"]))

    async def asked(self, rows: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async for row in rows:
                yield row
        except StoreError as error:
            raise unreachable(error) from None

    async def grant(self, name: str, subject: str, requests: int) -> dict[str, Any]:
        counted = await self.named(name)
        period = counted.meter.calendar.at(time.time())
        try:
            granted = await counted.meter.grant(subject, requests, period)
        except StoreError as error:
            raise unreachable(error) from None
        return {"quota": name, "subject": subject, "period": period.name, "granted": granted}

    async def reset(self, name: str, subject: str) -> dict[str, Any]:
        counted = await self.named(name)
        period = counted.meter.calendar.at(time.time())
        try:
            there = await counted.meter.reset(subject, period.name)
        except StoreError as error:
            raise unreachable(error) from None
        if not there:
            raise QuotaProblem(404, "unknown_subject", f"{subject!r} has used nothing in {period.name}.")
        return {"quota": name, "subject": subject, "period": period.name, "used": 0}


def unreachable(error: StoreError) -> QuotaProblem:
    return QuotaProblem(503, "store_unavailable", f"Redis cannot be asked ({error.reason}).")
