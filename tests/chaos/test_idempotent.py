"""What clients of idempotent requests see while one of three endpoints goes wrong: nothing. With ejection and retries,
under load without a pause. The first line of each scenario is its row of the table in docs/resilience.md."""

import re
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.world import CLIENTS, Load, asked_since, gateway_for, states
from tests.patience import until

PAGE = Path(__file__).parents[2] / "docs" / "resilience.md"
FAILURES = ["connect", "reset", "timeout", "502", "503", "504"]
RETRY = {"attempts": 3, "retry_on": FAILURES, "backoff": "5ms", "per_try": "700ms"}
OUTLIERS = {"consecutive_failures": 3, "consecutive_errors": 3, "ejection_time": "60s"}


def counted(gateway, name):
    """A counter, over all of its labels."""
    lines = re.findall(rf"^fastgw_{name}_total(?:{{[^}}]*}})? (\S+)$", gateway.admin("/metrics")[1], re.MULTILINE)
    return sum(map(float, lines))


def goes_wrong(world, what, retry=RETRY):
    """One of three goes wrong under load; the gateway, and who asked it after it was left out."""
    endpoints, _ = world
    gateway = gateway_for(world, outliers=OUTLIERS, retry=retry)
    with Load(gateway) as load:
        # the budget is fed by requests: a fifth of these may be sent again
        until(lambda: len(load.answers) > 300 and {answer[1] for answer in load.answers} == {0, 1, 2}, "answers of all")
        what(endpoints[1])
        until(lambda: states(gateway)[1] == "ejected", "ejection")
        known = time.monotonic()
        until(lambda: len(load.since(known + 1)) > 200, "requests without it")
        assert not load.failures(), load.failures()
        assert not asked_since(load, known + 1, 1)
    return gateway


def test_killed(world):
    """its process is killed | 0 failures; 3 retries until it is ejected, and one for each that was under way"""
    gateway = goes_wrong(world, lambda one: one.kill())
    # what a kept connection swallowed is sent again once besides, and may meet it a second time
    assert 1 <= counted(gateway, "retries") <= 3 + 2 * CLIENTS
    assert counted(gateway, "silent_retries") <= 2 * CLIENTS


def test_black_holed(world):
    """it accepts and never answers, `per_try: 700ms` | 0 failures; each client waits for it at most twice"""
    gateway = goes_wrong(world, lambda one: one.freeze())
    # and those that were already on their way when the third one in a row ejected it
    assert 3 <= counted(gateway, "retries") <= 3 * CLIENTS


def test_answers_503(world):
    """it answers 503 | 0 failures; 3 retries until it is ejected, and one for each that was under way"""
    gateway = goes_wrong(world, lambda one: one.toggle("failing"))
    assert 3 <= counted(gateway, "retries") <= 3 + 2 * CLIENTS


def test_answers_500(world):
    """it answers 500, `retry_on` with `5xx` | 0 failures; 3 retries until it is ejected, one for each under way"""
    retry = {**RETRY, "retry_on": ["connect", "reset", "timeout", "5xx"]}
    gateway = goes_wrong(world, lambda one: one.toggle("broken"), retry)
    assert 3 <= counted(gateway, "retries") <= 3 + 2 * CLIENTS


def test_slow(world):
    """it takes 3 s for each answer, `per_try: 700ms` | 0 failures; each client waits for it at most twice"""
    gateway = goes_wrong(world, lambda one: one.toggle("slow"))
    assert 3 <= counted(gateway, "retries") <= 3 * CLIENTS


def test_all_fail_and_retries_keep_to_their_budget(world):
    """all answer 503, `budget: {ratio: 0.1, per_second: 1}` | retries: 10 % of requests, and 1 a second by worker"""
    endpoints, _ = world
    budget = {"ratio": 0.1, "per_second": 1}
    begun = time.monotonic()
    gateway = gateway_for(world, retry={**RETRY, "attempts": 5, "budget": budget})
    with Load(gateway) as load:
        until(lambda: len(load.answers) > 100, "answers")
        for one in endpoints:
            one.toggle("failing")
        until(lambda: len(load.failures()) > 1000, "failures")
    requests, seconds = len(load.answers), time.monotonic() - begun
    retries = counted(gateway, "retries")
    assert 0 < retries <= 0.1 * (requests + CLIENTS) + 2 * (1 + seconds)
    assert counted(gateway, "retries_denied") > 500


def test_nobody_is_asked_more_than_its_share_when_all_come_back(world):
    """all were dead and come back one by one | 0 failures from the last good check on; each has a fifth to a half"""
    endpoints, _ = world
    check = {"type": "tcp", "interval": "200ms", "timeout": "5s", "healthy_threshold": 1, "unhealthy_threshold": 1}
    gateway = gateway_for(world, health_check=check, retry=RETRY)
    for one in endpoints:
        one.kill()
    until(lambda: states(gateway) == ["down"] * 3, "bad checks")
    with Load(gateway) as load:
        for one in endpoints:
            one.start()
        until(lambda: states(gateway) == ["up"] * 3, "good checks")
        back = time.monotonic()
        until(lambda: len(load.since(back + 0.2)) > 300, "requests")
        after = load.since(back + 0.2)
        assert {status for _, _, status in after} == {200}
        for who in range(3):
            assert len(after) / 5 < sum(one[1] == who for one in after) < len(after) / 2


def test_slow_and_hedged(world):
    """it takes 3 s for each answer, `hedge: {delay: 100ms}` | 0 failures; the longest answer takes less than 2.5 s"""
    endpoints, _ = world
    hedge = {"delay": "100ms", "budget": {"ratio": 1, "per_second": 100}}
    gateway = gateway_for(world, hedge=hedge)
    with Load(gateway) as load:
        until(lambda: len(load.answers) > 300 and {answer[1] for answer in load.answers} == {0, 1, 2}, "answers of all")
        endpoints[1].toggle("slow")
        until(lambda: counted(gateway, "hedges_won") >= 20, "hedges")
    assert not load.failures()
    assert load.longest < 2.5


def test_all_fail_and_a_breaker_keeps_the_load_from_them(world):
    """all answer 503, `circuit_breaker: {scope: service, timeout: 1s}` | open, 2 requests a second reach them"""
    endpoints, _ = world
    breaker = {"scope": "service", "failure_threshold": 10, "timeout": "1s", "half_open_requests": 2}
    gateway = gateway_for(world, circuit_breaker=breaker)
    with Load(gateway) as load:
        until(lambda: {answer[1] for answer in load.answers} == {0, 1, 2}, "answers of all")
        for one in endpoints:
            one.toggle("failing")
        until(lambda: any(who is None for _, who, _ in load.failures()), "an open breaker")
        opened = time.monotonic() + 0.2
        until(lambda: time.monotonic() > opened + 3, "3 s of that")
        failed = load.since(opened)
        asked = [answer for answer in failed if answer[1] is not None]
        seconds = time.monotonic() - opened
        assert len(asked) <= 2 * (seconds + 1)
        assert len(failed) > 10 * len(asked)
        for one in endpoints:
            one.toggle("failing")
        well = time.monotonic()
        until(lambda: any(status == 200 for _, _, status in load.since(well)), "answers")
        back = next(when for when, _, status in load.since(well) if status == 200)
        until(lambda: len([answer for answer in load.since(back) if answer[2] == 200]) > 300, "the whole load")
    assert back - well < 30


@pytest.mark.parametrize(
    "scenario", [name for name in dir(sys.modules[__name__]) if name.startswith("test_") and name != "test_table"]
)
def test_table(scenario):
    line = getattr(sys.modules[__name__], scenario).__doc__.strip()
    assert f"| {line} |" in PAGE.read_text()
