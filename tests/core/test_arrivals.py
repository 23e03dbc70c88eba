"""Who may open connections, and how fast."""

import time

from fastgw._core.arrivals import Arrivals
from fastgw._core.bans import BanTable
from fastgw._core.bucket import BucketTable

FOUR = bytes(10) + b"\xff\xff\xc0\x00\x02\x01"
OTHER = bytes(10) + b"\xff\xff\xc0\x00\x02\x02"
SIX = b"\x20\x01\x0d\xb8" + bytes(12)
HOUR = 3600 * 10**9
LET_IN, TOO_FAST, KEPT_OUT = 0, 1, 2


def arrivals(bans=None, counts=None, **options):
    return Arrivals(counts or BucketTable.private(64), bans or BanTable.private(64), **options)


def test_a_rate_for_each_address():
    gate = arrivals(every_ns=HOUR, burst=3)
    assert [gate.look(FOUR) for _ in range(5)] == [LET_IN] * 3 + [TOO_FAST] * 2
    assert gate.look(OTHER) == LET_IN
    # of IPv6 the first 64 bits
    assert [gate.look(SIX[:8] + bytes([n]) * 8) for n in range(4)] == [LET_IN] * 3 + [TOO_FAST]


def test_it_comes_back():
    gate = arrivals(every_ns=20_000_000, burst=1)
    assert gate.look(FOUR) == LET_IN
    deadline = time.monotonic() + 60
    while gate.look(FOUR) != LET_IN:
        assert time.monotonic() < deadline


def test_failures_ban():
    bans, counts = BanTable.private(64), BucketTable.private(64)
    gate = arrivals(bans, counts, failures=3, window_ns=HOUR, length_ns=HOUR)
    for _ in range(2):
        gate.fail(FOUR)
        assert gate.look(FOUR) == LET_IN
    gate.fail(FOUR)
    assert gate.look(FOUR) == KEPT_OUT and gate.look(OTHER) == LET_IN
    ((address, seconds, status),) = bans.entries()
    assert (address, status) == ("192.0.2.1", 0) and 3000 < seconds <= 3600
    assert bans.lift(counts, "192.0.2.1")
    # those of somebody else, too
    bans.add(counts, "192.0.2.2", 60, 401)
    assert gate.look(OTHER) == KEPT_OUT
    assert arrivals(bans, counts, every_ns=1, burst=1).look(OTHER) == LET_IN, "a rate alone looks at no bans"


def test_who_is_too_fast_for_long_is_banned():
    gate = arrivals(every_ns=HOUR, burst=1, failures=3, window_ns=HOUR, length_ns=HOUR)
    assert [gate.look(FOUR) for _ in range(5)] == [LET_IN] + [TOO_FAST] * 3 + [KEPT_OUT]
