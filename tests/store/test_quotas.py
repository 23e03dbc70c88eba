"""Periods of a calendar, and what is counted in them in a real Redis."""

import asyncio
import datetime
from zoneinfo import ZoneInfo

import pytest

from fastgw.config.schema.stores import Redis
from fastgw.store.quotas import Calendar, Meter
from fastgw.store.redis import RedisStore
from tests.store.redis_server import RedisServer, needed


def moment(text, zone):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("per", "zone", "at", "name", "start", "end"),
    [
        ("month", "UTC", "2026-11-21T13:00", "2026-11", "2026-11-01", "2026-12-01"),
        ("month", "UTC", "2026-12-31T23:59:59", "2026-12", "2026-12-01", "2027-01-01"),
        ("month", "Europe/Berlin", "2026-03-31T12:00", "2026-03", "2026-03-01", "2026-04-01"),
        ("month", "UTC", "2024-02-29T00:00", "2024-02", "2024-02-01", "2024-03-01"),
        ("day", "America/New_York", "2026-11-21T23:59", "2026-11-21", "2026-11-21", "2026-11-22"),
        ("week", "UTC", "2027-01-03T12:00", "2026-W53", "2026-12-28", "2027-01-04"),
        ("hour", "Asia/Kolkata", "2026-11-21T13:59:59", "2026-11-21T13+0530", "2026-11-21T13:00", "2026-11-21T14:00"),
    ],
)
def test_periods(per, zone, at, name, start, end):
    period = Calendar(per, zone).at(moment(at, zone))
    assert (period.name, period.start, period.end) == (name, moment(start, zone), moment(end, zone))


def test_days_on_which_the_clocks_change():
    calendar = Calendar("day", "Europe/Berlin")
    for day, hours in (("2026-03-29", 23), ("2026-10-25", 25), ("2026-11-21", 24)):
        period = calendar.at(moment(f"{day}T12:00", "Europe/Berlin"))
        assert period.end - period.start == hours * 3600
    # two hours from 2 to 3 o'clock, and they are not the same
    calendar = Calendar("hour", "Europe/Berlin")
    first = calendar.at(datetime.datetime(2026, 10, 25, 0, 30, tzinfo=datetime.UTC).timestamp())
    second = calendar.at(datetime.datetime(2026, 10, 25, 1, 30, tzinfo=datetime.UTC).timestamp())
    assert (first.name, second.name) == ("2026-10-25T02+0200", "2026-10-25T02+0100")
    assert first.end == second.start and second.end - second.start == 3600


@pytest.mark.parametrize("per", ["hour", "day", "week", "month"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Africa/Cairo"])
def test_periods_follow_each_other_without_a_gap(per, zone):
    calendar = Calendar(per, zone)
    now = moment("2026-01-15T05:00", zone)
    seen = set()
    for _ in range(500 if per != "hour" else 9000):
        period = calendar.period(now)
        assert period.start <= now < period.end and period.name not in seen
        seen.add(period.name)
        after = calendar.period(period.end)
        assert after.start <= period.end < after.end
        now = period.end
        if after.name in seen:                       # zones that go back by half an hour: the rest of the same hour
            assert per == "hour" and after.name == period.name
            break


@needed
def test_what_is_counted(tmp_path):
    now = [moment("2026-11-21T13:00", "UTC")]
    later = moment("2026-12-02T00:00", "UTC")

    async def main(server):
        store = RedisStore(Redis(url=server.url, deadline=5, timeout=5))
        meter = Meter(store, "calls", Calendar("month", "UTC"), keep=86400, now=lambda: now[0])

        async def take(subject, limit, cost=1):
            future = asyncio.get_running_loop().create_future()
            meter.take(subject, limit, cost, lambda taken, error: future.set_result(taken))
            return await future

        found = await asyncio.gather(*(take("acme", 5) for _ in range(8)))
        assert sum(one.admitted for one in found) == 5
        assert (found[-1].used, found[-1].period.name) == (5, "2026-11")
        assert not (await take("other", 5, cost=6)).admitted, "what is refused is not counted"
        assert (await take("other", 5, cost=5)).used == 5
        assert (await take("free", None, cost=100)).admitted
        assert await meter.grant("acme", 2, meter.calendar.at(now[0])) == 2
        assert [(await take("acme", 5)).admitted for _ in range(3)] == [True, True, False]
        rows = {subject: (used, granted) async for subject, used, granted in meter.usage("2026-11")}
        assert rows == {"acme": (7, 2), "other": (5, 0), "free": (100, 0)}
        assert await meter.of("acme", "2026-11") == (7, 2)
        assert await meter.reset("acme", "2026-11") is True and await meter.reset("acme", "2026-11") is False
        assert (await take("acme", 5)).used == 1
        now[0] = later
        fresh = await take("acme", 5)
        assert (fresh.used, fresh.granted, fresh.period.name) == (1, 0, "2026-12"), "a new month"
        ends = [int(await store.execute("", "PTTL", meter.key("2026-12", what))) for what in ("used",)]
        left = (meter.calendar.at(now[0]).end - now[0] + 86400) * 1000
        assert left - 60_000 < ends[0] <= left, "until the end of the month, and as long as it is kept"
        full = meter.key("2027-01", "used")
        await store.execute(full, "HSET", full, *(word for n in range(2500) for word in (f"s{n}", n)))
        many = [row async for row in meter.usage("2027-01")]
        assert len(many) == 2500 and ("s77", 77, 0) in many
        await store.close()

    with RedisServer(tmp_path) as server:
        asyncio.run(main(server))
