"""What `check` says of HTTP/2 towards services."""

import importlib.util

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER


def problems(service):
    text = f"services: {{up: {service}}}\nroutes: [{{path: /x, service: up}}]\n"
    return [f"{one.severity}[{one.code}] {one.path}: {one.message}; {one.expected} {one.hint}"
            for one in check(text, resolver=RESOLVER, env={})[1]]  # fmt: skip


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("{endpoints: ['http://a.example'], protocol: h2}", "error[conflict] services.up.endpoints[0]: "
         "`protocol: h2` is spoken with TLS, and this is http"),
        ("{endpoints: ['https://a.example'], protocol: h2c}", "error[conflict] services.up.endpoints[0]: "
         "`protocol: h2c` is spoken without TLS, and this is https"),
        ("{endpoints: ['http://a.example'], protocol: auto}",
         "warning[unused] services.up.protocol: no endpoint is https"),
        ("{endpoints: ['http://a.example'], http2: {max_concurrent_streams: 5}}",
         "warning[unused] services.up.http2: has no effect"),
        ("{endpoints: ['http://a.example'], protocol: h3}", "error[bad_choice] services.up.protocol:"),
        ("{endpoints: ['http://a.example'], protocol: h2c, http2: {ping_interval: 1ms}}",
         "error[out_of_range] services.up.http2.ping_interval:"),
    ],
)  # fmt: skip
def test_what_does_not_fit(service, expected):
    assert any(expected in problem for problem in problems(service)), problems(service)


@pytest.mark.parametrize(
    "service",
    [
        "{endpoints: ['https://a.example'], protocol: h2}",
        "{endpoints: ['http://a.example', 'unix:/tmp/x'], protocol: h2c, http2: {ping_interval: 30s}}",
        "{endpoints: ['https://a.example', 'http://b.example'], protocol: auto}",
    ],
)
def test_what_fits(service):
    assert problems(service) == []


@pytest.mark.parametrize(
    ("service", "fits"),
    [
        ("http://a.example", False),
        ("{endpoints: ['http://a.example'], protocol: auto}", False),
        ("{endpoints: ['https://a.example'], protocol: auto}", True),
        ("{endpoints: ['http://a.example'], protocol: h2c}", True),
    ],
)
def test_a_policy_that_speaks_grpc_wants_http2(service, fits):
    def found(everywhere, here):
        text = f"""
services: {{up: {service}, other: "http://b.example"}}
policies: [{everywhere}]
routes:
  - {{path: /x, split: [{{service: up, weight: 1}}], policies: [{here}]}}
  - {{path: /y, service: other}}
"""
        return [str(one) for one in check(text, resolver=RESOLVER, env={})[1] if one.severity == "error"]

    assert found("grpc_web", "") == [], "one for every route may be meant for some"
    if fits:
        assert found("", "grpc_web") == []
    else:
        (problem,) = found("", "grpc_web")
        assert "error[conflict] routes[0].policies[0]: grpc_web speaks gRPC to up, which is" in problem


def test_without_the_library(monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fastgw._core.h2" else there(name))
    (problem,) = problems("{endpoints: ['http://a.example'], protocol: h2c}")
    assert "error[not_built] services.up.protocol:" in problem and "libnghttp2-dev" in problem
