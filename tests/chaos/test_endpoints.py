"""Three endpoints, each a process, under load: one dies, hangs, flaps, comes back. Each scenario says its numbers.

No retries are configured: what is told of failures is what checks and ejection alone make of them.
"""

import json
import time
from collections import Counter

import pytest

from tests.chaos.world import CLIENTS, Load, asked_since, gateway_for, states
from tests.patience import until

CHECK = {"type": "tcp", "interval": "200ms", "timeout": "1s", "healthy_threshold": 2, "unhealthy_threshold": 2}


def test_one_dies_and_comes_back(world):
    """At most 3 failures in a row until it is ejected, beside those that were under way; once its check has failed too,
    none. Back again, it gets its share, and nobody fails on the way."""
    endpoints, _ = world
    outliers = {"consecutive_failures": 3, "ejection_time": "3s"}
    gateway = gateway_for(world, outliers=outliers, health_check=CHECK)
    with Load(gateway) as load:
        until(lambda: {answer[1] for answer in load.answers} == {0, 1, 2}, "answers of all")
        died = time.monotonic()
        endpoints[1].kill()
        until(lambda: states(gateway)[1] == "down", "failed check")
        known = time.monotonic()
        until(lambda: len(load.since(known + 0.5)) > 200, "requests without it")
        # those under way when it died are lost too: one for each client at most
        assert len(load.failures(died)) <= 3 + CLIENTS
        assert not load.failures(known + 0.5)
        endpoints[1].start()
        until(lambda: states(gateway)[1] == "up", "good checks")
        back = time.monotonic() + 0.1
        until(lambda: len(load.since(back)) > 300, "requests")
        assert not load.failures(known + 0.5)
        share = Counter(answer[1] for answer in load.since(back))
        assert share[1] > 0.2 * sum(share.values())


def test_one_hangs(world):
    """A process that is stopped: its kernel accepts, nobody answers. Each client waits for it at most once: after the
    response timeout (a second) it is ejected, and from then on nobody fails."""
    endpoints, _ = world
    outliers = {"consecutive_failures": 3, "ejection_time": "60s"}
    gateway = gateway_for(world, outliers=outliers, timeouts={"response": "1s"}, balance="least_requests")
    with Load(gateway) as load:
        until(lambda: {answer[1] for answer in load.answers} == {0, 1, 2}, "answers of all")
        hung = time.monotonic()
        endpoints[2].freeze()
        until(lambda: states(gateway)[2] == "ejected", "ejection")
        known = time.monotonic()
        assert known - hung < 30
        until(lambda: len(load.since(known + 1.1)) > 200, "requests without it")
        failures = load.failures(hung)
        # what waits for it now is not sent elsewhere: two rounds of all clients before the third failure in a row
        assert 3 <= len(failures) <= 2 * CLIENTS
        assert {status for _, _, status in failures} == {504}
        assert not load.failures(known + 1.1)
        assert not asked_since(load, known + 1.1, 2)


def test_one_hangs_and_checks_find_it(world):
    """By checks alone: down after two that time out (bound: 2 intervals and 2 timeouts, with jitter about 1.5 s)."""
    endpoints, _ = world
    check = {"path": "/health", "interval": "200ms", "timeout": "500ms", "unhealthy_threshold": 2}
    gateway = gateway_for(world, health_check=check, timeouts={"response": "5s"})
    until(lambda: states(gateway) == ["up"] * 3, "good checks")
    hung = time.monotonic()
    endpoints[0].freeze()
    until(lambda: states(gateway)[0] == "down", "bad checks")
    assert time.monotonic() - hung < 30
    with Load(gateway) as load:
        until(lambda: len(load.answers) > 100, "requests")
        assert not load.failures() and {answer[1] for answer in load.answers} == {1, 2}
        endpoints[0].thaw()
        until(lambda: states(gateway)[0] == "up", "good checks")
        back = time.monotonic()
        until(lambda: asked_since(load, back, 0), "its share")
    assert not load.failures()


def test_one_flaps(world):
    """It dies and comes back again and again: its ejections grow, so that its failures become rare, and at the end of
    it all endpoints are asked."""
    endpoints, _ = world
    outliers = {"consecutive_failures": 1, "ejection_time": "200ms", "max_ejection_time": "2s"}
    gateway = gateway_for(world, outliers=outliers)
    with Load(gateway) as load:
        until(lambda: {answer[1] for answer in load.answers} == {0, 1, 2}, "answers of all")
        for _ in range(4):
            endpoints[0].kill()
            until(lambda: states(gateway)[0] == "ejected", "ejection")
            endpoints[0].start()
            until(lambda: states(gateway)[0] == "unchecked", "end of the ejection")
        failures = len(load.failures())
        row = json.loads(gateway.admin("/services/s/endpoints")[1])[0]
        # one failure ejects; those under way are lost with it: one for each client at most
        assert row["ejections"] >= 4 and failures <= (1 + row["ejections"]) * (1 + CLIENTS)
        last = time.monotonic()
        until(lambda: asked_since(load, last, 0), "its share")
    assert {status for _, _, status in load.failures()} <= {502, 504}


def test_all_die_and_come_back(world):
    """Nobody is healthy: one is asked all the same (`panic: any`), so that the service is there again as soon as one
    is, without waiting for a check."""
    endpoints, _ = world
    gateway = gateway_for(world, health_check={**CHECK, "interval": "60s"}, outliers={"ejection_time": "60s"})
    with Load(gateway) as load:
        until(lambda: {answer[1] for answer in load.answers} == {0, 1, 2}, "answers of all")
        for one in endpoints:
            one.kill()
        dead = time.monotonic()
        until(lambda: len(load.failures(dead)) > 100, "failures")
        for one in endpoints:
            one.start()
        back = time.monotonic()
        until(lambda: any(answer[2] == 200 for answer in load.since(back)), "an answer")
        assert time.monotonic() - back < 30             # half the interval of checks


def test_who_comes_back_is_not_overrun(world):
    """With a slow start of 4 s, an endpoint that comes back gets a tenth of its share at first: in its first second
    fewer than one request in five (its share is one in three), and its whole share in the end."""
    endpoints, _ = world
    gateway = gateway_for(world, health_check=CHECK, outliers={}, balance={"type": "random", "slow_start": "4s"})
    endpoints[0].kill()
    until(lambda: states(gateway)[0] == "down", "bad check")
    with Load(gateway) as load:
        until(lambda: len(load.answers) > 100, "requests without it")
        endpoints[0].start()
        until(lambda: asked_since(load, 0, 0), "its first request")
        first = next(when for when, who, _ in load.since(0) if who == 0)
        time.sleep(4.5)                              # the slow start itself: nothing else is waited for
        last = time.monotonic()
        until(lambda: len(load.since(last)) > 1000, "requests with all of them")

        def share(begin, end):
            who = Counter(one for when, one, _ in load.since(begin) if when < end)
            return who[0] / sum(who.values())

        assert share(first, first + 1) < 1 / 5
        assert share(last, last + 60) == pytest.approx(1 / 3, abs=0.1)
