"""The budget for tokens seen for the first time: by a clock of the test's own."""

import asyncio

import pytest

from fastgw._core.exchange import Problem
from fastgw.policies import _verifying
from fastgw.policies._verifying import BURST, MOST, SHARE, WASTED, Verifying


class Clock:
    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return self.at


def costly(clock, seconds, value="good"):
    def verify():
        clock.at += seconds
        return value

    return verify


def test_what_the_budget_allows_is_verified_at_once():
    async def test():
        clock = Clock()
        verifying = Verifying(clock)
        assert verifying.run(costly(clock, BURST / 2), "a") == "good"
        assert verifying.run(costly(clock, BURST), "a") == "good"
        later = verifying.run(costly(clock, BURST), "a")
        assert asyncio.isfuture(later) and verifying.count == 1
        verifying.timer.cancel()
        verifying.advance()
        assert not later.done(), "nothing is left, and no time has passed"
        clock.at += BURST / SHARE
        verifying.timer.cancel()
        verifying.advance()
        assert await later == "good"

    asyncio.run(test())


def test_no_more_than_its_share_of_the_time():
    async def test():
        clock = Clock()
        verifying = Verifying(clock)
        spent = []

        def verify():
            spent.append(0.0001)
            clock.at += 0.0001

        for _ in range(MOST):
            verifying.run(verify, "a")
        while verifying.count:
            clock.at += 0.001                        # others are served
            verifying.timer.cancel()
            verifying.advance()
            verifying.timer = verifying.timer or asyncio.get_running_loop().call_later(60, print)
        assert sum(spent) <= clock.at * SHARE + BURST + 0.0001
        verifying.timer.cancel()

    asyncio.run(test())


def test_addresses_take_turns_and_the_longest_line_gives_way():
    async def test():
        clock = Clock()
        verifying = Verifying(clock)
        verifying.credit = 0.0
        order = []

        def ask(client):
            return verifying.run(lambda: order.append(client), client)

        flood = [ask("flood") for _ in range(MOST)]
        refused = ask("flood")
        assert isinstance(refused, Problem) and refused.code == "verification_busy" and refused.status == 503
        mine = ask("me")
        assert asyncio.isfuture(mine) and verifying.count == MOST
        assert flood[-1].done() and flood[-1].result().code == "verification_busy"
        flood[0].cancel()                            # who left costs nothing
        clock.at += 1.0
        verifying.timer.cancel()
        verifying.advance()
        assert order[:3] == ["me", "flood", "flood"] and len(order) == MOST - 1
        assert verifying.count == 0 and verifying.waiting == {}

    asyncio.run(test())


def test_an_error_is_for_who_asked():
    async def test():
        verifying = Verifying(Clock())
        verifying.credit = -1.0

        def broken():
            raise ValueError("no")

        later = verifying.run(broken, "a")
        verifying.credit = 1.0
        verifying.timer.cancel()
        verifying.advance()
        assert isinstance(later.exception(), ValueError)

    asyncio.run(test())


def test_without_a_loop_it_is_done_at_once():
    assert Verifying().run(lambda: 7, "a") == 7
    assert _verifying.BURST <= 0.002, "what a request of somebody else may wait"


def test_what_is_not_good_costs_more():
    clock = Clock()
    verifying = Verifying(clock)
    assert verifying.spend(costly(clock, BURST)) == "good"
    after_good = verifying.credit

    def bad():
        clock.at += BURST
        return Problem(401, "bad_token", "")

    verifying.credit = BURST
    assert isinstance(verifying.spend(bad), Problem)
    assert after_good == pytest.approx(0.0)
    assert verifying.credit == pytest.approx(BURST * (1 - WASTED))

    def broken():
        clock.at += BURST
        raise ValueError

    verifying.credit = BURST
    with pytest.raises(ValueError):
        verifying.spend(broken)
    assert verifying.credit == pytest.approx(BURST * (1 - WASTED))
