"""`balance:` of a service: short forms, other words, and keys that do not fit."""

import pytest

from fastgw.config import check, load
from tests.config.test_golden import RESOLVER

TEXT = """
services:
  a: {{endpoints: ['http://127.0.0.1:9001'], balance: {balance}}}
routes: [{{path: /x, service: a}}]
"""


def balance(text):
    return load(TEXT.format(balance=text), resolver=RESOLVER, env={}).services["a"].balance


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("least_requests", "least_requests"),
        ("{type: ewma, decay: 1s}", "ewma"),
        ("least_connections", "least_requests"),
        ("{type: power_of_two}", "least_requests"),
        ("ip_hash", "consistent_hash"),
        ("{sticky: lb}", "round_robin"),
    ],
)
def test_words(text, kind):
    assert balance(text).type == kind


def test_the_long_form_of_short_ones():
    assert str(balance("ip_hash").hash_on) == "${client.ip}"
    assert balance("{sticky: lb}").sticky.cookie == "lb"
    assert balance("{type: consistent_hash}").algorithm == "maglev"
    assert balance("{type: consistent_hash, algorithm: ring}").algorithm == "ring"
    assert balance("{type: consistent_hash, bounded_load: 125%}").bounded_load == 1.25
    assert balance("{type: consistent_hash, bounded_load: off}").bounded_load is None


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("fastest", "bad_choice", "round_robin"),
        ("{decay: 1s}", "conflict", "type: ewma"),
        ("{type: random, hash_on: '${client.ip}'}", "conflict", "type: consistent_hash"),
        ("{type: consistent_hash, hash_on: always}", "bad_value", "the same for every request"),
        ("{type: consistent_hash, hash_on: '${request.heeder.X}'}", "bad_template", "request.header"),
        ("{type: consistent_hash, bounded_load: 1}", "bad_value", "1.01"),
        ("{type: consistent_hash, algorithm: ketama}", "bad_choice", "ring"),
        ("{type: ewma, algorithm: ring}", "conflict", "type: consistent_hash"),
        ("{type: consistent_hash, slow_start: 3s}", "conflict", "slow_start"),
        ("{sticky: 'a b'}", "bad_value", "balance.sticky"),
        ("{sticky: {path: '/; Domain=x'}}", "bad_value", "sticky.path"),
        ("{min_healthy: 0}", "out_of_range", "min_healthy"),
        ("{panic: maybe}", "bad_choice", "any"),
    ],
)
def test_what_does_not_fit(text, code, words):
    _, problems = check(TEXT.format(balance=text), resolver=RESOLVER, env={})
    (problem,) = [problem for problem in problems if problem.severity == "error"]
    assert problem.code == code and words in str(problem)
    assert problem.line == 3
