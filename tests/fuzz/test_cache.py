"""What services and clients may say of caches, and what nearly is that: nothing is read out of bounds, and what is
decided stays within what RFC 9111 allows whatever else is said."""

from hypothesis import example, given
from hypothesis import strategies as st

from fastgw._core.cache_conditional import matches, ranges
from fastgw._core.cache_directives import parse, parse_age, parse_date, parse_structured
from fastgw._core.cache_freshness import Rules, judged
from fastgw._core.cache_key import normalised
from tests.fuzz.conftest import run

NOW = 1_800_000_000
WORDS = st.sampled_from(
    ["max-age", "s-maxage", "no-store", "no-cache", "private", "public", "must-revalidate", "proxy-revalidate",
     "must-understand", "stale-while-revalidate", "stale-if-error", "max-stale", "min-fresh", "only-if-cached", "x"]
)  # fmt: skip
VALUES = st.sampled_from(["60", "0", "-1", "9" * 20, "1.5", '"60"', '"a, b"', '"', '"\\"', "", " 60", "a"])
GLUE = st.sampled_from([",", ", ", ",,", " ", "\t", ";", "=", '"', "\\"])
PIECES = st.one_of(
    WORDS,
    st.tuples(WORDS, st.sampled_from(["=", " =", "= ", "=="]), VALUES).map("".join),
    GLUE,
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=6),
)
FIELD = st.lists(PIECES, max_size=12).map("".join)
DATES = st.one_of(
    st.sampled_from(
        ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "0"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=34),
)


def test_parsers():
    @given(FIELD | DATES, st.binary(max_size=60))
    @example('no-cache="a', b"\\")
    def check(field, raw):
        for value in (field.encode("latin-1"), raw):
            told = parse(value)
            for name, seconds in told.items():
                if isinstance(seconds, int) and not isinstance(seconds, bool):
                    assert 0 <= seconds <= 2**31, name
            parse_structured(value)
            parse_date(value)
            age = parse_age(value)
            assert age is None or 0 <= age <= 2**31
            matches(value, b'"a"')
            for first, length in ranges(value, 100) or ():
                assert length > 0 and first + length <= 100
            for name in (b"accept-encoding", b"accept-language", b"x"):
                once = normalised(name, value)
                assert normalised(name, once) == once

    run(check, 120)


def test_decisions():
    @given(FIELD, FIELD, DATES, DATES, FIELD, st.integers(100, 599), st.booleans())
    def check(control, targeted, sent, expires, age, status, identified):
        lines = [f"Cache-Control: {control}", f"CDN-Cache-Control: {targeted}", f"Date: {sent}", f"Expires: {expires}"]
        raw = "\r\n".join([f"HTTP/1.1 {status} X", *lines, f"Age: {age}", "", ""]).encode("latin-1")
        why, lifetime, initial, keep, revalidate, error, strict = judged(raw, Rules(if_error=5), identified, NOW)
        assert all(0 <= each <= 2**31 for each in (lifetime, initial, keep, revalidate, error))
        told = parse_structured(targeted.strip(" \t").encode()) or parse(control.strip(" \t").encode())
        if why == "":
            assert status >= 200 and status not in (206, 304)
            assert "private" not in told
            assert "no-store" not in told or "must-understand" in told
            assert not identified or {"public", "s-maxage", "must-revalidate"} & set(told)
            if {"must-revalidate", "proxy-revalidate", "no-cache"} & set(told):
                assert strict and revalidate == error == 0

    run(check, 120)
