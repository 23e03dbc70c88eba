"""What follows from what was seen: the rules alone."""

import pytest
from pydantic import ValidationError

from fastgw._core.trial import BOUNDS, TrialCounts
from fastgw.server.canary import Rules, Side, both_sides, judge, words
from fastgw.server.shared import Slots


def side(requests, errors=0, seconds=0.010, slow=0, slow_seconds=1.0):
    """`slow` of the requests took `slow_seconds`, the others `seconds`."""
    buckets = [0] * len(BOUNDS)
    for count, time in ((requests - slow, seconds), (slow, slow_seconds)):
        buckets[next(i for i, bound in enumerate(BOUNDS) if bound >= time)] += count
    return Side(requests, errors, buckets=buckets)


def rules(**given):
    return Rules.model_validate({"share": "10%", **given})


@pytest.mark.parametrize(
    "given, old, new, over, wanted",
    [
        ({}, side(900), side(100), False, None),
        ({}, side(900), side(100), True, "promoted"),
        ({}, side(900), side(99, 99), False, None),
        ({}, side(900), side(99), True, "returned"),
        ({}, side(99), side(100), True, "returned"),
        # an absolute limit, and one that follows the plan in force
        ({"max_error_rate": "1%"}, side(900), side(100, 1), True, "promoted"),
        ({"max_error_rate": "1%"}, side(900), side(100, 2), False, "returned"),
        ({"max_error_rate": "1%"}, side(0), side(100, 1), True, "promoted"),
        ({"max_error_rate": "+1%"}, side(1000, 50), side(100, 6), True, "promoted"),
        ({"max_error_rate": "+1%"}, side(1000, 50), side(100, 7), True, "returned"),
        ({"max_error_rate": "1%"}, side(1000, 50), side(100, 5), True, "returned"),
        # latency: p99 at the end, half of them at once
        ({"max_p99": "+20%"}, side(900), side(100, seconds=0.0115), True, "promoted"),
        ({"max_p99": "+20%"}, side(900), side(100, seconds=0.013), True, "returned"),
        ({"max_p99": "+20%"}, side(900), side(100, seconds=0.013), False, "returned"),
        ({"max_p99": "+20%"}, side(900), side(100, slow=2), False, None),
        ({"max_p99": "+20%"}, side(900), side(100, slow=2), True, "returned"),
        ({"max_p99": "+20%"}, side(900), side(100, slow=1), True, "promoted"),
        ({"max_p99": "+20%"}, side(900, slow=10), side(100, slow=2), True, "promoted"),
        ({"max_p99": "100ms"}, side(900, slow=90), side(100, slow=2), True, "returned"),
        ({"max_p99": "2s"}, side(900), side(100, slow=50), True, "promoted"),
        ({"min_requests": 1}, side(1), side(1), True, "promoted"),
    ],
)
def test_judge(given, old, new, over, wanted):
    found = judge(rules(**given), old, new, over)
    assert (found and found.result) == wanted


@pytest.mark.parametrize(
    "given",
    [{"share": "0%"}, {"share": 1}, {"watch": "0s"}, {"watch": "61m"}, {"max_p99": "+20"}, {"max_p99": "fast"},
     {"max_error_rate": "1.2"}, {"max_error_rate": "++1%"}, {"by": "header:"}, {"by": "ip"}, {"min_requests": 0}],
)  # fmt: skip
def test_rules_that_mean_nothing(given):
    with pytest.raises(ValidationError):
        rules(**given)


@pytest.mark.parametrize("seconds", [0.00001, 0.000031, 0.00104, 0.0123, 0.5, 1.0, 59.0])
def test_times_are_known_to_three_percent(seconds):
    found = side(10, seconds=seconds).quantile(0.5)
    assert seconds <= found <= seconds * 1.04 + 0.000002


def test_counts_of_workers_are_added_up_and_begin_at_zero():
    counts = [TrialCounts(), TrialCounts()]
    old, new = both_sides(counts)
    assert (old.requests, new.requests, old.quantile(0.99), sum(new.buckets)) == (0, 0, None, 0)
    counts[0].reset()
    with pytest.raises(ValueError, match="bytes"):
        TrialCounts(bytearray(100))


def test_a_report_in_words():
    report = {
        "state": "returned", "reason": "2.00% of its requests failed", "file": "new.yaml", "share": "10%",
        "watch": 60.0, "seconds": 12.3, "old": side(900).view(), "new": side(100, 2).view(),
    }  # fmt: skip
    text = words(report)
    assert "Returned after 12 s: 2.00% of its requests failed." in text
    assert text.splitlines()[-1].split()[:5] == ["new", "plan", "100", "2", "2.00%"]
    assert "been tried" in words({"state": "none"})


def test_slots_that_a_tried_configuration_used_begin_anew():
    before = Slots(4).next(1, ["a", "b"])
    tried = before.next(2, ["a", "c"])
    assert tried.others(before) == [3]               # and again, when it is tried a second time
    assert before.next(2, ["a", "d"]).others(before) == [3]
    assert tried.others(tried) == []
