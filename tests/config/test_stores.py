"""The room `stores`, and policies that name a store or a service."""

import textwrap

from pydantic import BaseModel

from fastgw.config import check
from fastgw.config.registry import PolicySpec, Reference, Registry


class Options(BaseModel):
    store: str = "redis"
    service: str = "idp"


def references(options):
    return (Reference("store", options.store, ("store",)), Reference("service", options.service, ("service",)))


RESOLVER = Registry([PolicySpec("uses", Options, references=references)])
ROUTES = """
services: {a: 'http://127.0.0.1:1', idp: 'http://127.0.0.1:2'}
routes: [{path: /x, service: a, policies: [uses: %s]}]
"""


def problems(text):
    return [(p.code, p.path) for p in check(textwrap.dedent(text), resolver=RESOLVER, env={})[1]]


def test_a_service_that_only_a_policy_uses_is_used():
    assert problems("stores: {redis: {url: 'redis://h'}}\n" + ROUTES % "{}") == []


def test_what_is_not_there_is_told_where_it_is_named():
    found = problems(ROUTES % "{service: nobody}")
    assert ("missing_key", "routes[0].policies[0].uses.store") in found
    assert ("unknown_service", "routes[0].policies[0].uses.service") in found
    assert problems(ROUTES % "{store: memory}") == []


def test_a_password_in_the_url_is_refused_and_not_shown():
    config, found = check("stores: {redis: {url: 'redis://u:planted@h'}}\n" + ROUTES % "{}", resolver=RESOLVER, env={})
    assert config is None
    assert not any("planted" in str(problem) for problem in found)


def test_the_cache_needs_what_it_shares():
    cache = "cache: {%s}\nservices: {a: 'http://127.0.0.1:1'}\nroutes: [{path: /x, service: a}]\n"
    redis = "stores: {redis: {url: 'redis://h'}}\n"
    assert ("missing_key", "cache.purges") in problems(cache % "purges: redis")
    level = "second_level: {store: redis}"
    assert problems(redis + cache % level) == [("conflict", "cache")]
    assert problems(redis + cache % f"purges: redis, {level}") == []
    assert problems(redis + cache % "purges: redis, second_level: {}") == [("missing_key", "cache.second_level")]
