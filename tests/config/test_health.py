"""`health_check:` and `outliers:` of a service: short forms, and what does not fit."""

import pytest

from fastgw.config import check, load
from tests.config.test_golden import RESOLVER

TEXT = """
services:
  a: {{endpoints: ['http://127.0.0.1:9001'], {room}}}
routes: [{{path: /x, service: a}}]
"""


def service(room):
    return load(TEXT.format(room=room), resolver=RESOLVER, env={}).services["a"]


def test_short_forms():
    assert service("health_check: /healthz").health_check.path == "/healthz"
    assert service("health_check: {statuses: 204}").health_check.statuses == ("204",)
    assert service("health_check: {statuses: [200, 3XX]}").health_check.statuses == ("200", "3xx")
    assert service("outliers: {}").outliers.consecutive_failures == 3
    assert not service("outliers: {}").outliers.rates
    assert service("outliers: {latency_above: 2}").outliers.rates
    assert service("host: a").health_check is None and service("host: a").outliers is None


@pytest.mark.parametrize(
    ("room", "code", "words"),
    [
        ("health_check: health", "bad_value", "health_check"),
        ("health_check: {path: '/a b'}", "bad_value", "path"),
        ("health_check: {host: \"a\\r\\nX: y\"}", "bad_value", "host"),
        ("health_check: {statuses: [600]}", "bad_value", "2xx"),
        ("health_check: {statuses: []}", "out_of_range", "statuses"),
        ("health_check: {type: tcp, path: /x}", "conflict", "type: http"),
        ("health_check: {type: grpc}", "bad_choice", "tcp"),
        ("health_check: {interval: 1ms}", "out_of_range", "100ms"),
        ("outliers: {ejection_time: 1h}", "conflict", "max_ejection_time"),
        ("outliers: {consecutive_errors: 0, consecutive_failures: 0}", "conflict", "nothing ejects"),
        ("outliers: {latency_above: 1}", "out_of_range", "1.5"),
        ("outliers: {max_ejected: 2}", "out_of_range", "max_ejected"),
    ],
)
def test_what_does_not_fit(room, code, words):
    _, problems = check(TEXT.format(room=room), resolver=RESOLVER, env={})
    (problem,) = [problem for problem in problems if problem.severity == "error"]
    assert problem.code == code and words in str(problem), problem
    assert problem.line == 3
