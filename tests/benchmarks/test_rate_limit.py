"""`python -m benchmarks.rate_limit` measures what it says, on a few requests."""

import re
import time

from benchmarks import rate_limit
from benchmarks.micro import measure as micro
from benchmarks.rate_limit import in_turns, page, whole


def busy(milliseconds):
    end = time.thread_time_ns() + 2_000_000 * milliseconds
    while time.thread_time_ns() < end:
        pass


def test_what_is_compared_takes_turns():
    seen = []
    runs = in_turns({"a": lambda n: seen.append(("a", n)), "b": lambda n: seen.append(("b", n))}, 3, 7)
    assert seen == [("a", 7), ("b", 7)] * 4
    assert [len(found) for found in runs.values()] == [3, 3]


def test_a_gateway_is_asked_with_few_keys_and_with_many():
    found = whole(2, 50, 60)
    assert found["keys"] == 60 and found["request_us"] > 0 and found["request_ratio"] > 0


def test_the_page_has_what_was_found():
    alone = {
        "one_load_ns": 99.0, "decision_1k_ns": 101.0, "decision_1m_ns": 122.0, "decision_ratio": 1.21,
        "policy_1k_ns": 203.0, "policy_1m_ns": 224.0, "policy_ratio": 1.1, "algorithms_ns": {"token_bucket": 33.0},
    }  # fmt: skip
    facts = {"commit": "c", "date": "d", "cpu": "p", "load": 1.0, "rounds": 3, "decision": alone,
             "instructions": {"without": 20_000.0, "one limit": 21_000.0}}  # fmt: skip
    text = page(facts)
    for said in ("101", "122", "1.21", "99 ns", "token_bucket", "+1,000"):
        assert said in text


def test_decisions_are_of_cases_that_the_kernels_have(monkeypatch):
    def named(kernel):
        text = (micro.HERE / "kernels" / f"{kernel}.pyx").read_text()
        names = re.findall(r'^    \("([^"]+)", ', text[text.index("CASES = [") :], re.MULTILINE)
        return {name: (lambda n, number=number: busy(number)) for number, name in enumerate(names)}

    monkeypatch.setattr(rate_limit, "cases", named)
    found = rate_limit.decisions(3, 1)
    assert found["decision_1m_ns"] > found["decision_1k_ns"] > 0 and found["decision_ratio"] > 1
    assert {"token_bucket", "two limits"} <= set(found["algorithms_ns"])
