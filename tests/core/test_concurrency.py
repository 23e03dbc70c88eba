"""The limit that is learnt: against models of services that queue."""

import pytest

from fastgw._core.concurrency import Gradient

MS = 1_000_000
WINDOW = 100 * MS
QUICK = {"window": WINDOW, "interval": 3600 * 1000 * MS, "probes": 20}


def run(gradient, takes, *, seconds, now=0, offered=10_000):
    """Answers at a service that takes `takes(limit)` ns with that many under way, as many as may be; the time after."""
    end = now + seconds * 1000 * MS
    while now < end:
        busy = min(int(gradient.limit), offered)
        took = takes(busy)
        for _ in range(busy):
            gradient.add(took, now, busy)
        now += took
    return now


def capacity(at_once, ms=10):
    """A service that works on so many at once, the rest queue."""
    return lambda busy: int(ms * MS * max(1.0, busy / at_once))


@pytest.mark.parametrize("at_once", [10, 40, 200])
def test_it_finds_what_a_service_can_do(at_once):
    gradient = Gradient(**QUICK)
    run(gradient, capacity(at_once), seconds=60)
    # the buffer lets a quarter queue, and the square root is what is tried beyond
    assert at_once <= gradient.limit <= at_once * 1.25 + 3 * at_once**0.5 + 3
    assert 10 * MS <= gradient.ideal <= 11.5 * MS


def test_it_shrinks_when_the_service_can_do_less():
    gradient = Gradient(**QUICK)
    now = run(gradient, capacity(200), seconds=30)
    assert gradient.limit >= 200
    run(gradient, capacity(20), seconds=30, now=now)
    assert gradient.limit <= 60


def test_it_does_not_grow_unused():
    gradient = Gradient(**QUICK)
    run(gradient, capacity(1000), seconds=30, offered=10)
    assert gradient.limit <= 40


def test_bounds():
    gradient = Gradient(**QUICK, least=5, most=50)
    assert gradient.limit == 5
    now = run(gradient, capacity(1000), seconds=30)
    assert gradient.limit == 50
    run(gradient, capacity(1), seconds=300, now=now)
    assert gradient.limit == 5
    with pytest.raises(ValueError, match="least"):
        Gradient(least=10, most=9)
    with pytest.raises(ValueError, match="least"):
        Gradient(least=0, most=9)


def test_the_ideal_is_measured_anew():
    gradient = Gradient(window=WINDOW, interval=10_000 * MS, jitter=0.2, probes=20, least=3)
    now = run(gradient, capacity(50), seconds=9)
    before = gradient.limit
    assert before >= 50 and not gradient.probing
    # with `least` alone the service shows what it takes now
    seen = set()
    end = now + 4000 * MS
    while now < end:
        now = run(gradient, capacity(50, ms=20), seconds=0.01, now=now)
        seen.add(gradient.probing)
    assert seen == {True, False}
    assert 20 * MS <= gradient.ideal <= 23 * MS
    assert gradient.limit > 10
