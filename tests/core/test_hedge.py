"""The percentile that hedges wait for."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw._core.hedge import Hedge, Latencies
from fastgw._core.retry import Budget

MS = 1_000_000


def test_nothing_is_known_of_a_few():
    known = Latencies(0.95)
    for _ in range(99):
        known.add(5 * MS)
        assert known.value == 0
    for _ in range(32):
        known.add(5 * MS)
    assert 5 * MS <= known.value <= 5 * MS * 1.13


@given(st.integers(0, 2**50))
def test_any_time_has_its_place(ns):
    known = Latencies(0.5)
    for _ in range(128):
        known.add(ns)
    if 1024 <= ns < 2**40:
        assert ns < known.value <= ns * 1.125 + 1
    else:
        assert known.value > 0


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
def test_the_percentile_of_many(share):
    made = random.Random(7)
    times = [int(made.lognormvariate(16, 0.7)) for _ in range(4000)]
    known = Latencies(share)
    for one in times:
        known.add(one)
    true = sorted(times)[int(len(times) * share)]
    assert true * 0.85 < known.value < true * 1.25


def test_what_was_is_forgotten():
    known = Latencies(0.9)
    for _ in range(20_000):
        known.add(MS)
    assert known.value < 2 * MS
    for _ in range(20_000):
        known.add(50 * MS)
    assert known.value >= 50 * MS
    for _ in range(100_000):
        known.add(MS)
    assert known.value < 2 * MS


def test_what_is_no_hedge():
    with pytest.raises(ValueError, match="share"):
        Latencies(0)
    with pytest.raises(ValueError, match="tuple"):
        Hedge(Budget(), methods=("NOTHING",))
