"""What each subject used in an hour, a day, a week or a month of a calendar, counted in Redis.

    meter = Meter(store, "api-calls", Calendar("month", "Europe/Berlin"), keep=400 * 86400)
    meter.take("acme", limit=1000, cost=1, told=…)
    async for subject, used, granted in meter.usage(meter.calendar.at(now)): …

One hash per meter and period, so that all of a period can be listed; its name has the period as people write it.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from fastgw.store.base import StoreError
from fastgw.store.redis import RedisStore, Script, milliseconds

TAKE = Script((Path(__file__).parent / "quotas.lua").read_text())
GRANT = Script("""
local granted = redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return granted
""")
PAGE = 1000
"""Subjects of one HSCAN, about."""

Per = Literal["hour", "day", "week", "month"]
DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Period:
    """`name` as people write it (2026-11, 2026-W47, 2026-11-21, 2026-11-21T14+0100); start and end in seconds since
    1970."""

    name: str
    start: float
    end: float


class Calendar:
    """Periods as the calendar of a time zone has them: a day with a change of the clocks has 23 or 25 hours."""

    def __init__(self, per: Per, zone: str) -> None:
        self.per = per
        self.zone = ZoneInfo(zone)
        self.last = Period("", 0.0, 0.0)

    def at(self, now: float) -> Period:
        if not self.last.start <= now < self.last.end:
            self.last = self.period(now)
        return self.last

    def period(self, now: float) -> Period:
        local = datetime.datetime.fromtimestamp(now, self.zone)
        if self.per == "hour":
            # an hour the clocks go through twice is two, told apart by the offset
            start = now - (local.minute * 60 + local.second + local.microsecond / 1e6)
            return Period(local.strftime("%Y-%m-%dT%H%z"), round(start), round(start) + 3600.0)
        day = local.date()
        if self.per == "day":
            return Period(day.isoformat(), self.midnight(day), self.midnight(day + DAY))
        if self.per == "week":
            monday = day - day.weekday() * DAY
            year, week, _ = day.isocalendar()
            return Period(f"{year}-W{week:02}", self.midnight(monday), self.midnight(monday + 7 * DAY))
        first = day.replace(day=1)
        return Period(f"{day:%Y-%m}", self.midnight(first), self.midnight((first + 31 * DAY).replace(day=1)))

    def midnight(self, day: datetime.date) -> float:
        """The first moment of a day."""
        return datetime.datetime.combine(day, datetime.time(), self.zone).timestamp()


@dataclass(frozen=True, slots=True)
class Taken:
    admitted: bool
    used: int
    granted: int
    period: Period


class Meter:
    """Meters of the same name, period and time zone count together."""

    def __init__(
        self, store: RedisStore, name: str, calendar: Calendar, keep: float, now: Callable[[], float] = time.time
    ) -> None:
        self.store = store
        self.name = name
        self.calendar = calendar
        self.keep = keep
        self.now = now

    def key(self, period: str, what: str) -> str:
        # of one slot of a Cluster: the script needs both
        return self.store.key(f"quota:{{{self.name}:{self.calendar.per}@{self.calendar.zone.key}:{period}}}:{what}")

    def stays(self, period: Period) -> int:
        """Milliseconds."""
        return milliseconds(max(0.0, period.end - self.now()) + self.keep)

    def take(
        self, subject: str, limit: int | None, cost: int, told: Callable[[Taken | None, StoreError | None], None]
    ) -> None:
        """StoreError when it is known at once that there will be no answer."""
        period = self.calendar.at(self.now())

        def answered(reply: Any, error: StoreError | None) -> None:
            told(None if error is not None else Taken(reply[0] == 1, reply[1], reply[2], period), error)

        keys = self.key(period.name, "used"), self.key(period.name, "granted")
        self.store.run(TAKE, keys, (subject, -1 if limit is None else limit, cost, self.stays(period)), answered)

    async def of(self, subject: str, period: str) -> tuple[int, int]:
        """(used, granted)"""
        used, granted = self.key(period, "used"), self.key(period, "granted")
        return (int(await self.store.execute(used, "HGET", used, subject) or 0),
                int(await self.store.execute(granted, "HGET", granted, subject) or 0))  # fmt: skip

    async def usage(self, period: str) -> AsyncIterator[tuple[str, int, int]]:
        """(subject, used, granted), some at a time and in no order. One that was granted something and used nothing
        is not among them."""
        used, granted = self.key(period, "used"), self.key(period, "granted")
        cursor = 0
        seen: set[bytes] = set()
        while True:
            cursor, page = await self.store.execute(used, "HSCAN", used, cursor, "COUNT", PAGE)
            fresh = [subject for subject in page if subject not in seen]      # HSCAN may tell of one twice
            seen.update(fresh)
            if fresh:
                more = await self.store.execute(granted, "HMGET", granted, *fresh)
                for subject, extra in zip(fresh, more, strict=True):
                    yield subject.decode("utf-8", "replace"), int(page[subject]), int(extra or 0)
            if cursor == 0:
                return

    async def grant(self, subject: str, requests: int, period: Period) -> int:
        """So many more in this period; what was granted in all."""
        key = self.key(period.name, "granted")
        return int(await self.store.evaluate(GRANT, (key,), subject, requests, self.stays(period)))

    async def reset(self, subject: str, period: str) -> bool:
        """Forgets what the subject used. Was there anything?"""
        key = self.key(period, "used")
        return bool(await self.store.execute(key, "HDEL", key, subject))
