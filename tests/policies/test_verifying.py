"""The budget for tokens seen for the first time: by a clock of the test's own."""

import asyncio

import pytest

from fastgw._core.exchange import Problem
from fastgw._core.verified import Verified
from fastgw.policies import _verifying
from fastgw.policies._verifying import BURST, MOST, PROVEN, SHARE, WASTED, Verifying


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
        verifying = Verifying(clock, clock)
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
        verifying = Verifying(clock, clock)
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
        verifying = Verifying(clock, clock)
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
        verifying = Verifying(Clock(), Clock())
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


def test_what_is_not_good_costs_more_and_what_is_signed_less():
    clock = Clock()
    verifying = Verifying(clock, clock)
    assert verifying.spend(costly(clock, BURST)) == "good"
    after_good = verifying.credit

    def bad():
        clock.at += BURST
        return Problem(401, "bad_token", "")

    verifying.credit = BURST
    assert isinstance(verifying.spend(bad), Problem)
    assert after_good == pytest.approx(0.0)
    assert verifying.credit == pytest.approx(BURST * (1 - WASTED))

    for signed in (Verified(None, {}, b"", 0, 0, None), {"keyid": "a"}):
        verifying.credit = BURST
        assert verifying.spend(costly(clock, BURST, signed)) is signed
        assert verifying.credit == pytest.approx(BURST * (1 - PROVEN))

    def broken():
        clock.at += BURST
        raise ValueError

    verifying.credit = BURST
    with pytest.raises(ValueError):
        verifying.spend(broken)
    assert verifying.credit == pytest.approx(BURST * (1 - WASTED))


def test_who_is_alone_with_good_tokens_waits_for_nobody_and_a_flood_leaves_him_his_share():
    """Good ones one after the other, each of which takes a signature's time and half as much besides."""
    async def test():
        clock, good = Clock(), Verified(None, {}, b"", 0, 0, None)
        verifying = Verifying(clock, clock)
        for _ in range(1000):
            assert verifying.run(costly(clock, 50e-6, good), "a") is good
            clock.at += 25e-6

        def bad():
            clock.at += 50e-6
            return Problem(401, "bad_token", "")

        begun, spent = clock.at, 0.0
        for _ in range(MOST):
            verifying.run(bad, "flood")
        mine = verifying.run(costly(clock, 50e-6, good), "me")
        while not mine.done():
            clock.at += 0.001
            verifying.timer.cancel()
            verifying.advance()
        assert clock.at - begun < 0.01, "his turn is the second at the latest"
        begun, before = clock.at, verifying.count
        while verifying.count > before - 100:
            clock.at += 0.001
            verifying.timer.cancel()
            verifying.advance()
        spent = 100 * 50e-6
        assert spent <= (clock.at - begun) * SHARE / WASTED + 0.0005, "bad ones have a sixteenth of the time"
        verifying.timer.cancel()

    asyncio.run(test())
