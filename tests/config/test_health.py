"""`health_check:` and `outliers:` of a service: short forms, and what does not fit."""

import importlib.util

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
    assert service("outliers: {grpc_errors: INTERNAL}").outliers.grpc_errors == ("internal",)
    assert service("outliers: {grpc_errors: []}").outliers.grpc_errors == ()
    assert service("health_check: {type: grpc}, protocol: h2c").health_check.service == ""
    assert service("health_check: {type: grpc, port: 9}").health_check.port == 9
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
        ("health_check: {type: ping}", "bad_choice", "tcp"),
        ("health_check: {type: tcp, host: a}", "conflict", "host"),
        ("health_check: {service: a.B}", "conflict", "type: grpc"),
        ("health_check: {type: grpc, path: /x}, protocol: h2c", "conflict", "type: http"),
        ("health_check: {type: grpc}", "conflict", "HTTP/2"),
        ("health_check: {type: grpc, service: 'a b'}, protocol: h2c", "bad_value", "service"),
        ("outliers: {grpc_errors: [ok]}", "bad_choice", "unavailable"),
        ("outliers: {grpc_errors: 14}", "bad_choice", "unavailable"),
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


def test_grpc_checks_without_their_packages(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "h2" else real(name))
    text = TEXT.format(room="health_check: {type: grpc}, protocol: h2c")
    _, problems = check(text, resolver=RESOLVER, env={})
    (problem,) = [problem for problem in problems if problem.severity == "error"]
    assert problem.code == "unavailable" and "pip install 'fastgw[grpc]'" in str(problem)
