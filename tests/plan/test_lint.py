"""Shadowed and ambiguous routes: warnings for what the order of the file alone decides."""

import time

import pytest

from fastgw.config import load
from fastgw.plan import lint as module
from fastgw.plan.lint import lint
from fastgw.policies import RESOLVER


def told(*routes):
    tree = {"services": {"s": "http://127.0.0.1:1"}, "routes": [{"service": "s", **route} for route in routes]}
    return lint(load(tree, resolver=RESOLVER))


def warnings(*routes):
    return [(p.code, p.path) for p in told(*routes)]


SHADOWED = [("shadowed_route", "routes[1]")]
AMBIGUOUS = [("ambiguous_route", "routes[1]")]
A, B = {"headers": {"A": "1"}}, {"headers": {"B": "1"}}


def test_shadowed_and_ambiguous_routes():
    assert warnings({"path": "/x"}, {"path": "/y"}) == []
    assert warnings({"path": "/x/{a}"}, {"path": "/x/{b}", "methods": ["GET"]}) == []
    first = {"path": "/x", "headers": {"A": "1"}, "methods": ["GET", "POST"]}
    assert warnings(first, {"path": "/x", "headers": {"A": "1"}, "methods": ["GET"]}) == [
        ("shadowed_route", "routes[1]")
    ]
    assert warnings({"path": "/x", "headers": {"A": "1"}}, {"path": "/x", "headers": {"A": "2"}}) == []
    both = ["GET", "POST"]
    assert warnings(
        {"path": "/x", "headers": {"X": "1"}, "methods": both},
        {"path": "/x", "headers": {"Y": "1"}, "methods": both},
        {"path": "/x", "headers": {"Y": "1"}, "methods": ["GET"]},
    ) == [("ambiguous_route", "routes[1]"), ("shadowed_route", "routes[2]")]
    assert warnings({"path": "/x", "headers": {"A": "1"}}, {"path": "/x", "headers": {"B": "1"}}) == [
        ("ambiguous_route", "routes[1]")
    ]


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ({"host": ["a.com", "b.com"]}, {"host": ["b.com", "a.com"]}, SHADOWED),
        ({"host": ["a.com", "b.com", "c.com"]}, {"host": ["b.com", "a.com"]}, SHADOWED),
        ({"host": ["a.com", "b.com"]}, {"host": ["b.com", "c.com"]}, SHADOWED),
        ({"host": "a.com"}, {"host": "b.com"}, []),
        ({"host": "*.a.com"}, {"host": "b.a.com"}, []),        # the exact one comes first
        ({}, {"host": "a.com"}, []),
        ({"host": ["a.com", "b.com"], **A}, {"host": ["b.com", "c.com"], **B}, AMBIGUOUS),
        ({"host": ["a.com", "b.com"], **A}, {"host": ["c.com"], **B}, []),
        ({"headers": {"A": "*"}}, {"headers": {"A": "1"}}, SHADOWED),
        ({"headers": {"A": "1"}}, {"headers": {"A": "*"}}, AMBIGUOUS),
        ({"headers": {"A": "~ [0-9]"}}, {"headers": {"A": "1"}}, SHADOWED),
        ({"headers": {"A": "~ [0-9]"}}, {"headers": {"A": "12"}}, AMBIGUOUS),
        ({"headers": {"A": "*"}}, {"headers": {"A": "!"}}, []),
        ({"user_agent": "bot"}, {"user_agent": "tool"}, []),
        ({"user_agent": "bot"}, {"user_agent": "~ curl.*"}, AMBIGUOUS),
        ({"client_ip": "10.0.0.0/8"}, {"client_ip": "11.0.0.0/8"}, []),
        ({"client_ip": "10.0.0.0/8"}, {"client_ip": "10.1.0.0/16"}, SHADOWED),
        ({"client_ip": ["10.0.0.0/9", "10.128.0.0/9"]}, {"client_ip": "10.0.0.0/8"}, SHADOWED),
        ({"client_ip": ["10.0.0.0/9", "::/0"]}, {"client_ip": ["10.0.0.0/8"]}, AMBIGUOUS),
        ({"client_ip": ["9.0.0.0/8", "11.0.0.0/8", "::/1"]}, {"client_ip": ["10.0.0.0/8", "8000::/1"]}, []),
        ({"client_ip": "10.1.0.0/16"}, {"client_ip": "10.0.0.0/8"}, AMBIGUOUS),
        ({"client_ip": ["10.0.0.0/8", "::/0"]}, {"client_ip": ["10.1.0.0/16", "2001:db8::/32"]}, SHADOWED),
        ({"methods": ["GET"]}, {"methods": ["HEAD"]}, SHADOWED),
        ({"methods": ["HEAD"]}, {"methods": ["GET"]}, AMBIGUOUS),
        ({"methods": ["GET"]}, {"methods": ["POST"]}, []),
        ({"methods": ["GET"]}, {}, []),
    ],
)  # fmt: skip
def test_two_routes_of_one_path(first, second, wanted):
    assert warnings({"path": "/x", **first}, {"path": "/x", **second}) == wanted


def test_several_routes_together_leave_nothing():
    get, post, both = ({"path": "/x", "methods": methods} for methods in (["GET"], ["POST"], ["GET", "POST"]))
    (problem,) = told(get, post, both)
    assert (problem.code, problem.path) == ("shadowed_route", "routes[2]")
    assert "'/x' (line" in problem.message and "'/x#2' (line" in problem.message
    hosts = ["a.com", "b.com", ["a.com", "b.com"]]
    assert warnings(*({"path": "/x", "host": host} for host in hosts)) == [("shadowed_route", "routes[2]")]


def test_a_route_that_is_never_chosen_for_some_of_its_hosts():
    (problem,) = told({"path": "/x", "host": ["a.com", "b.com"]}, {"path": "/x", "host": ["b.com", "c.com"]})
    assert problem.message.startswith("is never chosen for b.com: '/x' (line")


def test_more_than_fifty_routes_lie_between():
    between = [{"path": "/x", "headers": {"V": str(i)}} for i in range(200)]
    first, last = {"path": "/x", "headers": {"V": "*"}}, {"path": "/x", "headers": {"V": "~ 9+"}}
    codes = warnings(first, *between, last)
    assert len(codes) == 201 and {code for code, _ in codes} == {"shadowed_route"}
    assert warnings(between[0], *between[1:], last) == [("ambiguous_route", "routes[200]")]


def quick(routes):
    tree = {"services": {"s": "http://127.0.0.1:1"}, "routes": [{"service": "s", **route} for route in routes]}
    config = load(tree, resolver=RESOLVER)
    began = time.process_time()                  # its own: the machine may have other things to do
    found = lint(config)
    assert time.process_time() - began < 5
    return found


def test_the_lint_of_many_routes_is_quick():
    assert quick({"path": f"/r{i % 500}/{{id}}", "headers": {"V": str(i)}} for i in range(5000)) == []
    assert quick({"path": "/x", "headers": {"V": str(i)}, "host": ["a.com", "b.com"]} for i in range(5000)) == []


def test_too_many_to_compare_is_said(monkeypatch):
    monkeypatch.setattr(module, "STEPS", 5000)
    small = [{"path": "/y", "headers": {"A": "1"}}, {"path": "/y", "headers": {"B": "1"}}]
    found = quick([*({"path": "/x", "client_ip": f"10.0.{i}.0/24"} for i in range(200)), *small])
    assert [(p.code, p.path) for p in found] == [("not_compared", "routes[0]"), ("ambiguous_route", "routes[201]")]
    assert found[0].message.startswith("200 routes have this path")


def test_any_table_is_linted_in_bounded_time():
    found = quick({"path": "/x", "headers": {f"H{i}": "*"}} for i in range(2000))
    assert "not_compared" in {p.code for p in found}


def test_a_slash_form_is_something_of_its_own():
    """`/a` there takes all of `/a`, and leaves `/a/` to who has it as well."""
    strict, get = {"path": "/a", "methods": ["GET", "POST"]}, {"methods": ["GET"]}
    slash = {**strict, "trailing_slash": "redirect"}
    assert warnings(strict, {**slash, **get}) == AMBIGUOUS
    assert warnings(slash, {**strict, **get}) == SHADOWED
    assert warnings(slash, {**slash, **get}) == SHADOWED
    assert warnings({**strict, "headers": {"x": "*"}}, {**slash, "headers": {"x": "1"}}) == AMBIGUOUS
