"""What `mirror` finds by comparing answers, how it counts it, and what its options may be."""

import asyncio
import gzip
import json

import orjson
import pytest

from fastgw._core.mirror import Mirror, Tally
from fastgw.config import check, load
from fastgw.policies import RESOLVER
from fastgw.policies import _mirror as comparing
from fastgw.policies._mirror import Comparison, Report, Rules, Seen, differences, merged, ranked
from fastgw.policies.mirror import Compare

TEXT = """
services: {{live: 'http://127.0.0.1:1', shadow: 'http://127.0.0.1:2'}}
routes:
  - {{name: r, path: /x, service: live, policies: [{{mirror: {options}}}]}}
"""
JSON = b"Content-Type: application/json\r\n"
WHAT = ("GET", "/things", "id")


def told(body=b"{}", status=200, lines=JSON, grpc=-1):
    if not isinstance(body, (bytes, type(None))):
        body = orjson.dumps(body)
    return status, grpc, lines, body


def found(live, shadow, **options):
    rules = Rules.of(Compare(**options))
    return [one[:3] for one in differences(rules, live, shadow) if one is not None]


# ---------------------------------------------------------------- what differs


@pytest.mark.parametrize(
    ("live", "shadow", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),                        # the order of members says nothing
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1}, {"a": 2}, [("body", "/a", "another value")]),
        ({"a": 1}, {"a": "1"}, [("body", "/a", "number became text")]),
        ({"a": True}, {"a": 1}, [("body", "/a", "true or false became number")]),
        ({"a": None}, {"a": []}, [("body", "/a", "null became array")]),
        ({"a": 1}, {}, [("body", "/a", "missing")]),
        ({}, {"a": None}, [("body", "/a", "added")]),
        ([1, 2], [1], [("body", "/", "another length")]),
        ({"a": [{"b": 1}, {"b": 2}]}, {"a": [{"b": 1}, {"b": 3}]}, [("body", "/a/*/b", "another value")]),
        ({"a/b": {"~": 1}}, {"a/b": {"~": 2}}, [("body", "/a~1b/~0", "another value")]),
        ("text", "other", [("body", "/", "another value")]),
    ],
)  # fmt: skip
def test_json(live, shadow, expected):
    assert found(told(live), told(shadow)) == expected


@pytest.mark.parametrize(
    ("pointer", "hidden"),
    [
        ("/a/*/b", True), ("/a/0/b", True), ("/*/*/*", True), ("/a", True), ("/a/*", True), ("/a/b", False),
        ("/a/x/b", False),
    ],
)
def test_what_may_differ(pointer, hidden):
    live, shadow = {"a": [{"b": 1}]}, {"a": [{"b": 2}]}
    assert (found(told(live), told(shadow), ignore=[pointer]) == []) == hidden
    assert found(told({"x": 1}), told({}), ignore=["/x"]) == []
    assert found(told({"a/b": 1}), told({"a/b": 2}), ignore=["/a~1b"]) == []


def test_statuses_and_headers():
    lines = b"X-A: 1\r\nX-B: 1\r\nDate: now\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n"
    other = b"X-B: 2\r\nX-C: 3\r\nDate: then\r\nset-cookie: a\r\n"
    live, shadow = told(b"", lines=lines), told(b"", 204, other)
    assert found(live, shadow) == [
        ("status", "", "another status"),
        ("header", "set-cookie", "another value"),
        ("header", "x-a", "missing"),
        ("header", "x-b", "another value"),
        ("header", "x-c", "added"),
    ]
    assert found(live, shadow, status=False, only_headers=["X-B", "Date"]) == [
        ("header", "date", "another value"), ("header", "x-b", "another value"),
    ]  # fmt: skip
    assert found(live, shadow, status=False, ignore_headers=["x-A", "x-B", "X-C", "Set-Cookie"]) == []
    assert found(live, shadow, headers=False) == [("status", "", "another status")]
    assert found(told(grpc=0), told(grpc=14)) == [("status", "", "another status")]


def test_bodies_that_are_not_json():
    text = b"Content-Type: text/plain\r\n"
    assert found(told(b"abc", lines=text), told(b"abd", lines=text)) == [("body", "", "other bytes")]
    assert found(told(b"abc", lines=text), told(b"ab", lines=text)) == [("body", "", "another length")]
    assert found(told(b"{", lines=JSON), told(b"}", lines=JSON)) == [("body", "", "other bytes")]
    assert found(told(b'{"a":1}'), told(b'{ "a": 1}'), body="exact") == [("body", "", "another length")]
    assert found(told(b'{"a":1}'), told(b'{"a":2}'), body="none") == []
    assert found(told(None), told(b"{}")) == []                        # too large to be here
    deep = b"[" * 5000 + b"]" * 5000
    assert found(told(deep), told(b"[]")) != []


def test_codings():
    zipped = JSON + b"Content-Encoding: gzip\r\n"
    live = told(gzip.compress(b'{"a":1}', 1), lines=zipped)
    shadow = told(gzip.compress(b'{"a":1}', 9), lines=zipped)
    assert found(live, shadow) == []
    assert found(live, told({"a": 2}), headers=False) == [("body", "/a", "another value")]
    bomb = gzip.compress(bytes(8 * comparing.MAX_DECODED))
    assert found(told(bomb, lines=zipped), told({}), headers=False) == [("body", "", "another length")]
    assert found(told(b"broken", lines=zipped), told(b"br0ken", lines=zipped)) == [("body", "", "other bytes")]


def test_a_value_with_many_parts_is_walked_so_far():
    many = {"a": list(range(10 * comparing.MAX_NODES)), "b": 1}
    other = {"a": [-1] * len(many["a"]), "b": 1}
    count = 0
    for one in differences(Rules.of(Compare()), told(many), told(other)):
        count += one is not None
    assert 0 < count <= comparing.MAX_NODES


# ---------------------------------------------------------------- what is kept


def comparison(**options):
    return Comparison(Rules.of(Compare(**options)), "shadow", {})


def run(one, pairs):
    async def submit():
        for live, shadow in pairs:
            one.submit("r", WHAT, live, shadow)
        while one.timer is not None:
            await asyncio.sleep(0)

    asyncio.run(submit())


def test_kinds_are_counted_once_for_each_pair():
    one = comparison(examples=1)
    live = {"items": [{"price": i} for i in range(10)]}
    shadow = {"items": [{"price": i + 1} for i in range(10)]}
    run(one, [(told(live), told(shadow))] * 3 + [(told(live), told(live))])
    report = one.reports["r", "shadow"]
    assert report.outcomes["different"] == 3 and report.outcomes["equal"] == 1
    (row,) = ranked(report)
    assert (row["count"], row["name"], row["what"]) == (3, "/items/*/price", "another value")
    (example,) = row["examples"]
    assert (example["live"], example["shadow"], example["path"]) == ("0", "1", "/things")


def test_values_are_cut_and_those_of_credentials_are_not_there():
    one = comparison()
    live = {"session": {"id": "s3cret-1"}, "user": {"password": "s3cret-2"}, "text": "x" * 500, "list": [1, 2]}
    shadow = {"session": {"id": "s3cret-3"}, "user": {"password": "s3cret-4"}, "text": "y" * 500, "list": {}}
    lines = JSON + b"Set-Cookie: s3cret-5\r\nX-Api-Key: s3cret-6\r\nAuthorization: s3cret-7\r\n"
    run(one, [(told(live, lines=lines), told(shadow))])
    rows = ranked(one.reports["r", "shadow"])
    text = json.dumps(rows)
    assert "s3cret" not in text and text.count('"***"') >= 7 and "x" * 90 not in text
    by_name = {row["name"]: row["examples"][0] for row in rows}
    assert by_name["/text"]["live"] == "x" * 80 + "…"
    assert (by_name["/list"]["live"], by_name["/list"]["shadow"]) == ("array of 2", "object of 0")


def test_kinds_are_bounded(monkeypatch):
    monkeypatch.setattr(comparing, "MAX_KINDS", 10)
    one = comparison()
    run(one, [(told({f"k{i}": 1}), told({})) for i in range(30)])
    report = one.reports["r", "shadow"]
    assert len(report.kinds) == 10 and report.unlisted == 20 and report.outcomes["different"] == 30


def test_differences_of_a_pair_are_bounded():
    one = comparison()
    run(one, [(told({f"k{i}": 1 for i in range(500)}), told({}))])
    assert len(one.reports["r", "shadow"].kinds) == comparing.MAX_FOUND


def test_what_does_not_fit_is_counted():
    one = comparison()
    run(one, [(told(), told())] * (comparing.PENDING + 5))
    outcomes = one.reports["r", "shadow"].outcomes
    assert outcomes["equal"] == comparing.PENDING and outcomes["busy"] == 5
    one.skipped("r", "live")
    one.skipped("r", "shadow")
    assert (outcomes["live_failed"], outcomes["shadow_failed"]) == (1, 1)


def test_a_large_comparison_is_made_in_slices():
    one = comparison()
    large = {"a": [{"b": i} for i in range(8000)]}

    async def turns():
        one.submit("r", WHAT, told(large), told({**large, "z": 1}))
        count = 0
        while one.timer is not None:
            one.timer.cancel()
            one.turn()
            count += 1
        return count

    assert asyncio.run(turns()) > 3
    assert one.reports["r", "shadow"].outcomes["different"] == 1


def test_a_comparison_that_fails_does_not_stop_the_next(monkeypatch):
    one = comparison()
    real = comparing.differences
    calls = []

    def once(*args):
        calls.append(args)
        if len(calls) == 1:
            raise RuntimeError
        return real(*args)

    monkeypatch.setattr(comparing, "differences", once)
    run(one, [(told(), told())] * 2)
    assert len(calls) == 2 and one.reports["r", "shadow"].outcomes["equal"] == 1


def test_reports_of_workers_are_added_up():
    kind, other = ("200 → 200", "body", "/a", "another value"), ("200 → 200", "body", "/b", "missing")
    example = {"at": 1.0}
    first = Report(since=5, kinds={kind: Seen(2, 10, 20, [example])}, unlisted=1)
    second = Report(since=3, kinds={kind: Seen(3, 8, 30, [{"at": 2.0}]), other: Seen(9, 1, 2)})
    first.outcomes["equal"], second.outcomes["equal"] = 4, 5
    total = merged([{("r", "s"): first}, {("r", "s"): second}, {}])["r", "s"]
    assert (total.since, total.unlisted, total.outcomes["equal"]) == (3, 1, 9)
    seen = total.kinds[kind]
    assert (seen.count, seen.first, seen.last) == (5, 8, 30)
    assert [one["at"] for one in seen.examples] == [2.0, 1.0]
    assert [row["count"] for row in ranked(total)] == [9, 5]
    assert first.kinds[kind].count == 2 and first.kinds[kind].examples == [example]


# ---------------------------------------------------------------- options


def test_defaults():
    config = load(TEXT.format(options="{service: shadow}"), resolver=RESOLVER, env={})
    options = config.routes[0].policies[0].options
    assert (options.share, options.timeout, options.compare) == (1.0, 5.0, None)
    assert options.headers == {"X-Mirrored": "1"}


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("{}", "missing_key", "service"),
        ("{service: nobody}", "unknown_service", "nobody"),
        ("{service: shadow, share: 0}", "out_of_range", "share"),
        ("{service: shadow, headers: {Host: a}}", "bad_value", "rewrite_host"),
        ('{service: shadow, headers: {X-A: "a\\r\\nb"}}', "bad_value", "printable"),
        ("{service: shadow, remove_headers: [Content-Length]}", "bad_value", "made by the gateway"),
        ("{service: shadow, max_in_flight: 0}", "out_of_range", "max_in_flight"),
        ("{service: shadow, compare: {ignore: [a]}}", "bad_value", "JSON pointer"),
        ("{service: shadow, compare: {body: exact, ignore: [/a]}}", "conflict", "body: json"),
        ("{service: shadow, compare: {headers: false, ignore_headers: [X]}}", "conflict", "headers: true"),
        ("{service: shadow, compare: {status: false, headers: false, body: none}}", "conflict", "nothing is compared"),
        ("{service: shadow, compare: {max_body: 1MiB}}", "out_of_range", "max_body"),
    ],
)
def test_what_does_not_fit(options, code, words):
    _, problems = check(TEXT.format(options=options), resolver=RESOLVER, env={})
    errors = [problem for problem in problems if problem.severity == "error"]
    assert [problem.code for problem in errors] == [code] and words in str(errors[0]), problems


def test_a_service_that_only_gets_copies_is_used():
    _, problems = check(TEXT.format(options="{service: shadow}"), resolver=RESOLVER, env={})
    assert not problems


def test_the_hook_says_what_it_is():
    hook = Mirror("shadow", 1.0, 10**9, 5, 100, tally=Tally())
    assert repr(hook) == "<Mirror to shadow, 0 under way>"
