"""Whatever is done to a configuration: problems, never another exception, and soon."""

import copy
import random
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.config import Config, check
from fastgw.config.report import as_excerpts, as_lines
from fastgw.policies import RESOLVER

EXAMPLE = (Path(__file__).parents[2] / "config.example.yaml").read_text()
TEMPLATE = (Path(__file__).parent / "data" / "template.yaml").read_text()
JUNK = [
    "",
    "null",
    "[]",
    "{}",
    "-1",
    "1e999",
    "'",
    '"',
    "~ (",
    "${",
    "${X}",
    "${request.id}",
    "*",
    "&a",
    "<<",
    "\t",
    "\0",
    "é",
    "\U0001f600",
    ": ",
    "- ",
    "9" * 400,
    "../..",
    "http://",
    "unix:",
    "true",
    "!!int x",
    "{id}",
    "%zz",
]
VALUES = [
    None,
    True,
    -1,
    2**70,
    1.5,
    float("inf"),
    "",
    "x",
    "~ (",
    "${X}",
    "${request.id}",
    [],
    {},
    [[]],
    {"x": 1},
    [None],
    {"": ""},
    "/a/{",
    "*",
    "http://a:b",
    "é",
    "a" * 5000,
    [1, "a"],
    {"name": []},
]


def examine(text):
    began = time.process_time()
    config, problems = check(text + "\n", resolver=RESOLVER, env={"JWT_SECRET": "s" * 32}, file="f.yaml")
    took = time.process_time() - began
    assert took < 1
    assert (config is None) == any(problem.severity == "error" for problem in problems)
    assert config is None or isinstance(config, Config)
    assert all(problem.line > 0 for problem in problems if problem.code != "wrong_type" or problem.path)
    as_lines(problems)
    as_excerpts(problems, text, RESOLVER)


def mutate(text, rng):
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((0, 0, 1, 3, 20, 200)))
        kind = rng.randrange(3)
        middle = rng.choice(JUNK) if kind == 0 else "" if kind == 1 else text[at:end] * 2
        text = text[:at] + middle + text[end:]
    return text


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("origin", [EXAMPLE, TEMPLATE], ids=["example", "template"])
def test_mutated_text(origin, seed):
    rng = random.Random(seed)
    for _ in range(20):
        examine(mutate(origin, rng))


def places(value, path=()):
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def around(tree, path):
    """The part of a tree that a path goes through: its top-level key, and of that the one item. What it refers to is
    missing then, which is one more thing to complain about."""
    top, *rest = path
    value = tree[top]
    if not rest:
        return {top: value}, (top,)
    if isinstance(value, list):
        return {top: [value[rest[0]]]}, (top, 0, *rest[1:])
    return {top: {rest[0]: value[rest[0]]}}, tuple(path)


@pytest.mark.parametrize("origin", [EXAMPLE, TEMPLATE], ids=["example", "template"])
def test_every_value_replaced_by_something_else(origin):
    rng = random.Random(0)
    whole = yaml.safe_load(origin)
    for number, path in enumerate(places(whole)):
        if not path:
            continue
        tree = copy.deepcopy(whole)
        if number % 25:                              # with all the rest around it each time, this would take minutes
            tree, path = around(tree, path)
        parent = tree
        for step in path[:-1]:
            parent = parent[step]
        parent[path[-1]] = rng.choice(VALUES)
        examine(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.text(max_size=200))
def test_any_text(text):
    examine("routes:\n" + text)
