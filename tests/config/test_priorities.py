"""`priorities`, and what limits say about classes and tenants: short forms, and what is refused."""

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER

CLASSES = "priorities: {classes: [high, low], default: low}\n"


def checked(text="", service="", route="", top=CLASSES):
    return check(
        f"{top}{text}\nplans: {{gold: {{}}}}\nconsumers: [{{name: ada}}]\n"
        f"services: {{up: {{endpoints: ['http://127.0.0.1:1'], concurrency: {{max: 3, {service}}}}}}}\n"
        f"routes: [{{name: r, path: /x, service: up, {route}}}]\n",
        resolver=RESOLVER,
    )


def good(*args, **more):
    config, problems = checked(*args, **more)
    assert config is not None, problems
    return config


def test_short_forms():
    config = good(service="queue: {max: 5, fair: consumer, codel: {}}")
    queue = config.services["up"].concurrency.queue
    assert str(queue.fair.by) == "${consumer.name}" and queue.fair.weights == {}
    assert (queue.codel.target, queue.codel.interval) == (0.02, 0.1)
    for word, wanted in (("plan", "${consumer.plan}"), ("client_ip", "${client.ip}"), ("route", "${route.name}")):
        assert str(good(service=f"queue: {{max: 5, fair: {word}}}").services["up"].concurrency.queue.fair.by) == wanted
    fair = good(service="queue: {max: 5, fair: {by: '${claims.tenant}', weights: {gold: 3}}}")
    assert fair.services["up"].concurrency.queue.fair.weights == {"gold": 3}
    assert str(good(service="queue: {max: 5, fair: {}}").services["up"].concurrency.queue.fair.by) == "${consumer.name}"


def test_without_classes_nothing_is_asked():
    assert good(top="").priorities is None


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ({"top": "priorities: {classes: [], default: a}"}, "out_of_range", "classes"),
        ({"top": "priorities: {classes: [a, a], default: a}"}, "duplicate_name", "twice"),
        ({"top": "priorities: {classes: [a, retry], default: a}"}, "bad_value", "behind all others"),
        ({"top": "priorities: {classes: [a, b], default: c}"}, "bad_choice", "no class 'c'"),
        ({"top": "priorities: {classes: [a, b]}"}, "missing_key", "default"),
        ({"route": "priority: lower"}, "bad_choice", "no class 'lower'"),
        ({"route": "priority: low", "top": ""}, "bad_choice", "no class 'low'"),
        ({"service": "shares: {nobody: 50%}"}, "bad_choice", "no class 'nobody'"),
        ({"service": "shares: {low: 0%}"}, "out_of_range", "0%"),
        ({"service": "queue: {fair: consumer}"}, "missing_key", "there is none"),
        ({"service": "queue: {codel: {}}"}, "missing_key", "there is none"),
        ({"service": "queue: {max: 3, fair: nobody}"}, "bad_choice", "names nobody"),
        ({"service": "queue: {max: 3, fair: {weights: {silver: 2}}}"}, "unknown_plan", "no plan 'silver'"),
        ({"service": "queue: {max: 3, fair: {weights: {gold: 0}}}"}, "out_of_range", "gold"),
        ({"service": "queue: {max: 3, codel: {target: 1s, interval: 1s}}"}, "out_of_range", "not longer"),
    ],
)
def test_what_is_refused(given, code, words):
    config, problems = checked(**given)
    assert config is None
    assert any(one.code == code and words in str(one) for one in problems), problems


@pytest.mark.parametrize(
    ("rule", "code", "words"),
    [
        ("{priority: '${request.header.X-Class}'}", "bad_value", "chooses its own class"),
        ("{priority: urgent}", "bad_choice", "no class 'urgent'"),
        ("{priority: high, routes: [s]}", "bad_choice", "no route 's'"),
        ("{priority: high, plans: [silver]}", "unknown_plan", "no plan 'silver'"),
        ("{priority: high, consumers: [eve]}", "bad_choice", "no consumer 'eve'"),
        ("{plans: [gold]}", "missing_key", "priority"),
    ],
)
def test_rules_that_are_refused(rule, code, words):
    config, problems = checked(top=f"priorities: {{classes: [high, low], default: low, rules: [{rule}]}}\n")
    assert config is None
    assert any(one.code == code and words in str(one) for one in problems), problems


def test_rules_that_are_taken():
    rules = (
        "{priority: high, routes: [r], plans: [gold], consumers: [ada], groups: [g], callers: 10.0.0.0/8, "
        "headers: {X-A: '*'}}, {priority: '${request.header.X-Class}', callers: [10.0.0.0/8, '::1']}, "
        "{priority: '${consumer.metadata.class}'}"
    )
    config = good(top=f"priorities: {{classes: [high, low], default: low, rules: [{rules}]}}\n", route="priority: high")
    assert len(config.priorities.rules) == 3 and config.routes[0].priority == "high"
