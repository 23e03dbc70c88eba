"""The document rooted at `api_gateway:` is understood as it is."""

import subprocess
import sys
from pathlib import Path

import pytest

from fastgw.config import check, load
from fastgw.policies import RESOLVER
from fastgw.testing.policy import Trial

HERE = Path(__file__).parent
TEMPLATE = HERE / "data" / "template.yaml"
ENV = {"JWT_SECRET": "s" * 32}


def text_without(*parts):
    """The document less some of its parts: (first line, last line) by what they hold."""
    lines = TEMPLATE.read_text().split("\n")
    for first, last in parts:
        start = next(i for i, line in enumerate(lines) if first in line)
        end = next(i for i in range(start, len(lines)) if last in lines[i])
        del lines[start : end + 1]
    return "\n".join(lines)


def test_check_lists_exactly_what_is_not_there_yet():
    config, problems = check(TEMPLATE, resolver=RESOLVER, env=ENV)
    assert config is None
    assert [(p.severity, p.code, p.line, p.path) for p in problems] == [
        ("error", "not_implemented", 64, "api_gateway.observability.tracing.exporter"),
    ]


def test_the_verb_exits_with_1():
    result = subprocess.run(
        [sys.executable, "-m", "fastgw", "check", str(TEMPLATE)],
        capture_output=True,
        text=True,
        env={"JWT_SECRET": "s", "PATH": ""},
        cwd=HERE.parents[1],
    )
    assert result.returncode == 1
    assert result.stdout.count("error[not_implemented]") == 1


@pytest.fixture(scope="module")
def config():
    text = text_without(
        ("service_discovery:", "refresh_interval"),
        ("exporter: jaeger", "exporter: jaeger"),
    )
    text += "\n  services: {user-service: 'http://u', order-service: 'http://o', product-service: 'http://p'}\n"
    return load(text, resolver=RESOLVER, env=ENV)


def test_the_rest_of_it_maps_to_ours(config):
    assert [str(listener.bind) for listener in config.server.listeners] == ["0.0.0.0:8080"]
    assert config.server.timeouts.total == 30
    assert [(route.path, route.service, route.strip_prefix) for route in config.routes] == [
        ("/api/users/*", "user-service", None),
        ("/api/orders/*", "order-service", "/api/orders"),
        ("/api/products/*", "product-service", None),
    ]
    assert config.routes[0].methods == ("DELETE", "GET", "POST", "PUT")
    assert config.observability.tracing.sample_rate == 0.1
    assert config.observability.logging.level == "info"
    assert config.observability.logging.format == "json"


def test_its_plugins_become_policies_in_their_order(config):
    assert [use.name for use in config.policies] == ["jwt", "rate_limit", "cache", "cors"]
    jwt, limit, _, cors = (use.options for use in config.policies)
    assert tuple(jwt.excluded_paths) == ("/health", "/metrics")
    assert (limit.requests, limit.per, limit.burst) == (60, 60, 100)
    assert tuple(map(str, limit.by)) == ("claim:sub",)
    assert tuple(cors.headers) == ("Content-Type", "Authorization")


def test_its_rate_limit_limits(config):
    limit = Trial("rate_limit", config.policies[1].options.model_dump(exclude_unset=True))

    def ask(subject):
        return limit.ask(prepare=lambda exchange: setattr(exchange, "claims", {"sub": subject}))

    assert all(ask("ada").passed for _ in range(100))
    refused = ask("ada")
    assert (refused.status, refused.problem["key"], refused.header("Retry-After")) == (429, "claim:sub", "1")
    assert ask("bob").passed


def test_what_its_excluded_paths_expect_is_served(config):
    assert [(entry.endpoint, entry.path) for entry in config.server.public_endpoints] == [
        ("health", "/health"),
        ("metrics", "/metrics"),
    ]


@pytest.mark.parametrize(
    ("was", "becomes", "place"),
    [
        ("port: 8080", "prot: 8080", "api_gateway.server.prot"),
        ("strip_prefix: true", "strip: true", "api_gateway.routing.routes[1].strip"),
        ("name: cors", "name: corss", "api_gateway.plugins[3].name"),
        ("requests_per_minute: 60", "requests_per_minute: many", "api_gateway.plugins[1].config.requests_per_minute"),
        ("level: info", "level: loud", "api_gateway.observability.logging.level"),
    ],
)
def test_mistakes_are_told_at_their_place(was, becomes, place):
    text = TEMPLATE.read_text().replace(was, becomes)
    _, problems = check(text, resolver=RESOLVER, env=ENV)
    line = next(i for i, row in enumerate(text.split("\n"), 1) if becomes in row)
    found = {(p.path, p.line) for p in problems if p.code != "not_implemented"}
    assert (place, line) in found, problems


def test_discovery_that_no_service_needs_is_told():
    text = TEMPLATE.read_text()
    text += "\n  services: {user-service: 'http://u', order-service: 'http://o', product-service: 'http://p'}\n"
    _, problems = check(text, resolver=RESOLVER, env=ENV)
    assert ("unused", 46, "api_gateway.service_discovery") in {(p.code, p.line, p.path) for p in problems}


def test_what_is_kept_and_how_much(config):
    cache = next(use for use in config.policies if use.name == "cache")
    assert cache.options.ttl == 300
    assert config.cache.entries == 1000


def test_the_circuit_breaker_is_for_every_service(config):
    for service in config.services.values():
        breaker = service.circuit_breaker
        assert (breaker.failure_threshold, breaker.timeout, breaker.half_open_requests) == (5, 60.0, 3)
        assert breaker.scope == "endpoint"


def test_services_that_are_not_declared_come_from_discovery():
    text = text_without(
        ("- name: caching", "max_size"),
        ("exporter: jaeger", "exporter: jaeger"),
    )
    text += "\n  services: {order-service: 'http://o'}\n"
    services = load(text, resolver=RESOLVER, env=ENV).services
    assert services["order-service"].discovery is None
    for name in ("user-service", "product-service"):
        options = services[name].discovery
        assert (options.type, options.address, options.refresh) == ("consul", "consul:8500", 30)
        assert services[name].endpoints == ()


def test_two_balancers_for_one_service_are_a_conflict():
    text = (
        TEMPLATE.read_text()
        .replace("strip_prefix: true", "load_balancer: random")
        .replace("order-service", "product-service")
    )
    _, problems = check(text, resolver=RESOLVER, env=ENV)
    place = "api_gateway.routing.routes[2].load_balancer"
    assert ("conflict", place) in {(p.code, p.path) for p in problems}


AUTHENTICATED = """
api_gateway:
  routing: {routes: [{path: /x, service: a}]}
  services: {a: "http://127.0.0.1:9001"}
  plans: {gold: {scopes: ["x"]}}
  consumers:
    - name: ada
      plan: gold
      keys: ["sha256:0000000000000000000000000000000000000000000000000000000000000000"]
      certificates: ["subject:CN=ada"]
      password: "$2b$12$C6UzMDM.H6dfI/f/IKcEeO7ZBpQ5jNhjOZqFhWAdKSpyLkRJqLp2i"
      signing_keys: [{id: k, secret: a secret of more than 32 bytes it is}]
  plugins:
    - name: authentication
      config: CONFIG
"""


@pytest.mark.parametrize(
    ("given", "policy", "facts"),
    [
        ("{type: api_key, header: X-Key, excluded_paths: [/health]}", "key_auth", {"header": "X-Key"}),
        ("{type: basic, realm: shop}", "basic_auth", {"realm": "shop"}),
        ("{type: mtls, optional: true}", "mtls", {"optional": True}),
        ("{type: hmac, max_age: 1m}", "hmac", {"max_age": 60.0}),
        ("{type: forward, service: a}", "forward_auth", {"service": "a"}),
        ("{type: jwt, secret: another secret of more than 32 bytes}", "jwt", {"forward_token": False}),
        ("{secret: another secret of more than 32 bytes}", "jwt", {}),
    ],
)
def test_ways_to_authenticate(given, policy, facts):
    config = load(AUTHENTICATED.replace("CONFIG", given), resolver=RESOLVER, env={})
    (use,) = config.policies
    assert use.name == policy
    assert {name: getattr(use.options, name) for name in facts} == facts
    assert config.consumers[0].plan == "gold" and config.plans["gold"].scopes == ("x",)


def test_a_way_to_authenticate_that_is_none():
    config, problems = check(AUTHENTICATED.replace("CONFIG", "{type: api_kye}"), resolver=RESOLVER, env={})
    assert config is None
    place = "api_gateway.plugins[0].config.type"
    assert ("bad_choice", place, 15) in {(p.code, p.path, p.line) for p in problems}
    wrong = AUTHENTICATED.replace("plan: gold", "plan: gild").replace("CONFIG", "{type: api_key}")
    config, problems = check(wrong, resolver=RESOLVER, env={})
    assert [(p.code, p.path, p.line) for p in problems] == [("unknown_plan", "api_gateway.consumers[0].plan", 8)]
