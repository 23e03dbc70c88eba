"""How long an answer is fresh, and whether it is kept at all: RFC 9111 3 and 4.2."""

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw._core.cache_freshness import Rules, judged

NOW = 1_800_000_000
MOST = 2**31


def head(lines, status=200):
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n\r\n".encode()


def judge(lines, status=200, rules=None, identified=False, delay=0):
    return judged(head(lines, status), rules or Rules(), identified, NOW, delay)


def date(offset):
    return formatdate(NOW + offset, usegmt=True)


@pytest.mark.parametrize(
    ("lines", "lifetime"),
    [
        ("Cache-Control: max-age=60", 60),
        ("Cache-Control: max-age=60, s-maxage=5", 5),
        ("Cache-Control: s-maxage=5\r\nCache-Control: max-age=60", 5),
        (f"Cache-Control: max-age=60\r\nExpires: {date(5)}", 60),
        (f"Expires: {date(90)}\r\nDate: {date(0)}", 90),
        (f"Expires: {date(90)}", 90),
        ("Cache-Control: max-age=60\r\nExpires: 0", 60),
        ("CDN-Cache-Control: max-age=7\r\nCache-Control: no-store", 7),
        ('CDN-Cache-Control: max-age="7"\r\nCache-Control: max-age=9', 9),
        (f"CDN-Cache-Control: max-age=7\r\nExpires: {date(90)}", 7),
        ("CDN-Cache-Control: a\r\nCDN-Cache-Control: max-age=7\r\nCache-Control: max-age=1", 7),
        ("Cache-Control: max-age=99999999999", MOST),
    ],
)
def test_lifetimes(lines, lifetime):
    why, found, age, *_ = judge(lines)
    assert (why, found, age) == ("", lifetime, 0)


@pytest.mark.parametrize(
    ("lines", "age", "delay"),
    [
        ("Age: 30", 30, 0),
        ("Age: 30", 34, 4),
        (f"Date: {date(-100)}", 100, 0),
        (f"Date: {date(-100)}\r\nAge: 300", 300, 0),
        (f"Date: {date(5000)}", 0, 0),
        ("Date: yesterday", 0, 0),
        ("Age: many", 0, 0),
        ("Age: 99999999999999", MOST, 9),
    ],
)
def test_ages(lines, age, delay):
    assert judge(f"Cache-Control: max-age=60\r\n{lines}", delay=delay)[2] == age


@pytest.mark.parametrize(
    ("lines", "status", "why"),
    [
        ("X: y", 200, "no-freshness"),
        ("Cache-Control: no-store, max-age=60", 200, "no-store"),
        ("Cache-Control: private, max-age=60", 200, "private"),
        ('Cache-Control: private="a", max-age=60', 200, ""),
        ("Cache-Control: max-age=60\r\nSet-Cookie: a=b", 200, "set-cookie"),
        ("Cache-Control: max-age=60", 206, "status"),
        ("Cache-Control: max-age=60", 304, "status"),
        ("Cache-Control: max-age=60", 299, ""),
        ("Cache-Control: no-store, must-understand, max-age=60", 200, ""),
        ("Cache-Control: no-store, must-understand, max-age=60", 299, "status"),
        ("Last-Modified: x", 200, ""),
        ("Last-Modified: x", 500, "no-freshness"),
        ('Cache-Control: no-cache\r\nETag: "a"', 200, ""),
        ("Cache-Control: no-cache", 200, "no-freshness"),
        ("Cache-Control: max-age=0, must-revalidate", 200, "no-freshness"),
    ],
)
def test_what_is_kept(lines, status, why):
    assert judge(lines, status)[0] == why


@pytest.mark.parametrize(
    ("control", "kept"),
    [("max-age=60", False), ("max-age=60, public", True), ("s-maxage=60", True), ("max-age=60, must-revalidate", True)],
)
def test_answers_to_those_who_say_who_they_are(control, kept):
    assert (judge(f"Cache-Control: {control}", identified=True)[0] == "") is kept
    assert judge(f"Cache-Control: {control}", identified=True, rules=Rules(personal=True))[0] == ""


def test_private_answers_are_kept_for_one():
    rules = Rules(personal=True)
    assert judge("Cache-Control: private, max-age=5", identified=True, rules=rules)[0] == ""
    assert judge("Cache-Control: private, max-age=5", identified=False, rules=rules)[0] == "private"


def test_stale_answers():
    rules = Rules(while_revalidate=10, if_error=20, keep=0)
    assert judge("Cache-Control: max-age=1", rules=rules)[3:] == (20, 10, 20, False)
    assert judge("Cache-Control: max-age=1, stale-while-revalidate=3, stale-if-error=4", rules=rules)[3:] == (
        4, 3, 4, False)  # fmt: skip
    assert judge("Cache-Control: max-age=1, must-revalidate, stale-if-error=4", rules=rules)[4:] == (0, 0, True)
    assert judge("Cache-Control: s-maxage=1", rules=rules)[4:] == (0, 0, True)
    assert judge("Cache-Control: s-maxage=1, stale-if-error=4", rules=rules)[4:] == (0, 4, False)
    assert judge("Cache-Control: no-cache\r\nETag: a", rules=Rules(if_error=20))[4:] == (0, 0, True)


def test_lifetimes_of_the_operator():
    rules = Rules(ttls={200: 30, 404: 5})
    assert judge("X: y", rules=rules)[:2] == ("", 30)
    assert judge("X: y", 404, rules)[:2] == ("", 5)
    assert judge("Cache-Control: max-age=1", rules=rules)[1] == 1
    assert judge("Cache-Control: no-store", rules=rules)[0] == "no-store"
    rules = Rules(ttls={200: 30}, override=True)
    assert judge("Cache-Control: no-store, max-age=1", rules=rules)[:2] == ("", 30)
    assert judge("Cache-Control: no-cache", rules=rules)[:2] == ("", 30)
    assert judge("Cache-Control: private", rules=rules)[0] == "private"
    with pytest.raises(ValueError, match="206"):
        Rules(ttls={206: 1})


def test_heuristics():
    lines = f"Last-Modified: {date(-1000)}\r\nDate: {date(0)}"
    assert judge(lines)[1] == 0
    assert judge(lines, rules=Rules(heuristic=0.1))[1] == 100
    assert judge(lines, rules=Rules(heuristic=0.1, heuristic_max=7))[1] == 7
    assert judge(lines, 500, Rules(heuristic=0.1))[0] == "no-freshness"
    assert judge(f"{lines}\r\nCache-Control: public", 500, Rules(heuristic=0.1))[1] == 100
    assert judge(f"{lines}\r\nCache-Control: max-age=3", rules=Rules(heuristic=0.1))[1] == 3


def test_types():
    rules = Rules(types=[b"application/json", b"text/"])
    for kind, kept in (("application/json", True), ("text/html; charset=x", True), ("image/png", False)):
        assert (judge(f"Cache-Control: max-age=1\r\nContent-Type: {kind}", rules=rules)[0] == "") is kept
    assert judge("Cache-Control: max-age=1", rules=rules)[0] == "type"


WHENEVER = st.integers(-(2**40), 2**33)


@given(
    age=st.none() | st.integers(0, 10**20),
    lifetime=st.none() | st.integers(0, 10**20),
    sent=st.none() | WHENEVER.filter(lambda when: -62_000_000_000 < when < 253_000_000_000),
    expires=st.none() | WHENEVER.filter(lambda when: -62_000_000_000 < when < 253_000_000_000),
    now=st.integers(0, 2**40),
    delay=st.integers(-(2**40), 2**40),
    stale=st.none() | st.integers(0, 10**20),
)
def test_no_time_is_too_far_away(age, lifetime, sent, expires, now, delay, stale):
    lines = ["ETag: x"]
    if age is not None:
        lines.append(f"Age: {age}")
    if lifetime is not None:
        lines.append(f"Cache-Control: max-age={lifetime}")
    if stale is not None:
        lines.append(f"Cache-Control: stale-if-error={stale}")
    for name, when in (("Date", sent), ("Expires", expires)):
        if when is not None:
            made = time.gmtime(when)
            day, clock = time.strftime("%a, %d %b", made), time.strftime("%H:%M:%S", made)
            lines.append(f"{name}: {day} {made.tm_year:04} {clock} GMT")
    why, found, initial, keep, revalidating, failing, _ = judged(head("\r\n".join(lines)), Rules(), False, now, delay)
    assert why == ""
    assert all(0 <= each <= MOST for each in (found, initial, keep, revalidating, failing))
    if lifetime is not None:
        assert found == min(lifetime, MOST)
    if age is not None:
        assert initial >= min(age, MOST)
    if sent is not None and sent <= now:
        assert initial >= min(now - sent, MOST)
