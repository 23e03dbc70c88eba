"""`hedge` and `concurrency`: short forms, and what is refused."""

import pytest

from fastgw.config import check, load
from tests.config.test_golden import RESOLVER

TEXT = """
services:
  a: {{endpoints: ['http://127.0.0.1:9001', 'http://127.0.0.1:9002'], {given}}}
routes: [{{path: /x, service: a}}]
"""


def service(given):
    return load(TEXT.format(given=given), resolver=RESOLVER, env={}).services["a"]


def test_short_forms():
    assert service("hedge: 50ms").hedge.delay == 0.05
    assert service("hedge: p95").hedge.percentile == "p95"
    assert service("hedge: P99.9").hedge.percentile == "p99.9"
    assert service("concurrency: 7").concurrency.max == 7
    assert service("concurrency: {adaptive: {}}").concurrency.adaptive.min == 3


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ("hedge: {}", "missing_key", "how long"),
        ("hedge: p101", "bad_value", "percentile"),
        ("hedge: p49", "bad_value", "percentile"),
        ("hedge: {delay: 0}", "out_of_range", "delay"),
        ("hedge: {delay: 1s, max_extra: 9}", "out_of_range", "max_extra"),
        ("hedge: {delay: 1s, methods: [FETCH]}", "bad_choice", "methods"),
        ("concurrency: {}", "missing_key", "how many"),
        ("concurrency: 0", "out_of_range", "concurrency"),
        ("concurrency: {max: 3, adaptive: {}}", "conflict", "two ways"),
        ("concurrency: {adaptive: {min: 9, max: 3}}", "out_of_range", "more than"),
        ("concurrency: {adaptive: {percentile: 100%}}", "out_of_range", "between"),
    ],
)
def test_what_is_refused(given, code, words):
    _, problems = check(TEXT.format(given=given), resolver=RESOLVER, env={})
    errors = [problem for problem in problems if problem.severity == "error"]
    assert [problem.code for problem in errors] == [code]
    assert words in str(errors[0])


@pytest.mark.parametrize("given", ["hedge: 50ms", "concurrency: 7"])
def test_not_for_tcp(given):
    text = f"""
server: {{listeners: [{{bind: '127.0.0.1:1', protocol: tcp, tcp: {{service: a}}}}]}}
services:
  a: {{endpoints: ['tcp://127.0.0.1:9001'], {given}}}
"""
    _, problems = check(text, resolver=RESOLVER, env={})
    assert [problem.code for problem in problems if problem.severity == "error"] == ["conflict"]
