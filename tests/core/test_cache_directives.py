"""Cache-Control and its like, dates and numbers: what is read, and what of it that is wrong."""

import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw._core.cache_conditional import matches, ranges, unmodified
from fastgw._core.cache_directives import parse, parse_age, parse_date, parse_structured
from fastgw._core.cache_key import normalised

EPOCH_1994 = 784111777


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("max-age=60", {"max-age": 60}),
        ("MaX-aGe=60, PUBLIC", {"max-age": 60, "public": True}),
        ("no-store,no-cache , private", {"no-store": True, "no-cache": True, "private": True}),
        ("max-age=1, max-age=9", {"max-age": 1}),
        ('max-age="60"', {"max-age": 60}),
        ("max-age=00060", {"max-age": 60}),
        ("max-age=99999999999999999999", {"max-age": 2**31}),
        ("max-age=-1", {"max-age": 0, "invalid": True}),
        ("max-age=60.5", {"max-age": 0, "invalid": True}),
        ("max-age=a", {"max-age": 0, "invalid": True}),
        ("max-age", {"max-age": 0, "invalid": True}),
        ("max-age =60", {"max-age": 0, "invalid": True}),
        ("max-age= 60", {"max-age": 0, "invalid": True}),
        ("max-age='60'", {"max-age": 0, "invalid": True}),
        ('x="max-age=60", max-age=1', {"max-age": 1}),
        ('x="a\\", max-age=60", max-age=1', {"max-age": 1}),
        ("=60, max-age=5", {"max-age": 5}),
        ('no-cache="Set-Cookie, a"', {"fields": ["set-cookie", "a"]}),
        ("private=x", {"fields": ["x"]}),
        ('no-cache=""', {"no-cache": True}),
        ('private="a;b"', {"private": True, "fields": ["a"]}),
        ("max-stale", {"max-stale": True}),
        ("max-stale=5, min-fresh=6, only-if-cached", {"max-stale": 5, "min-fresh": 6, "only-if-cached": True}),
        (
            "s-maxage=5, stale-while-revalidate=6, stale-if-error=7, must-understand",
            {"s-maxage": 5, "stale-while-revalidate": 6, "stale-if-error": 7, "must-understand": True},
        ),
        ("must-revalidate, proxy-revalidate, no-transform",
         {"must-revalidate": True, "proxy-revalidate": True, "no-transform": True}),
        ("nothing-to-see-here, , ,", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_directives(value, told):
    assert parse(value.encode()) == told


def test_more_names_than_are_told_apart_are_as_though_there_were_none():
    value = 'no-cache="' + ", ".join(f"x{i}" for i in range(40)) + '"'
    assert parse(value.encode())["no-cache"] is True


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("max-age=60, public", {"max-age": 60, "public": True}),
        ("foobar, max-age=60", {"max-age": 60}),
        ("max-age=60;x=1;y", {"max-age": 60}),
        ('a=?1, b=:aGk=:, c="x", d=1.5, max-age=60', {"max-age": 60}),
        ("max-age=60, &&&", None),
        ('max-age="60"', None),
        ("max-age =60", None),
        ("max-age= 60", None),
        ("max-age=60,", None),
        ("max-age=1.5", None),
        ("max-age", None),
        ("", None),
        ('x="unended', None),
        ("x=1.2.3", None),
        ("no-store=?0, max-age=5", {"max-age": 5}),
    ],
)
def test_structured_fields_are_valid_or_say_nothing(value, told):
    assert parse_structured(value.encode()) == told


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", EPOCH_1994),
        ("Sunday, 06-Nov-94 08:49:37 GMT", EPOCH_1994),
        ("Sun Nov  6 08:49:37 1994", EPOCH_1994),
        ("SUN, 06 nov 1994 08:49:37 gmt", EPOCH_1994),
        ("Thursday, 18-Aug-50 02:01:18 GMT", 2544400878),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Sun, 06 Nov 1994 08:49:37 UTC", None),
        ("Sun, 06 Nov 94 08:49:37 GMT", None),
        ("Sun 06 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06-Nov-1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 8:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08.49.37 GMT", None),
        ("Sun, 06 Nov 1994 24:49:37 GMT", None),
        ("Sun, 00 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Foo 1994 08:49:37 GMT", None),
        ("Someday, 06-Nov-94 08:49:37 GMT", None),
        ("0", None),
        ("-1", None),
        ("", None),
    ],
)
def test_dates(value, seconds):
    assert parse_date(value.encode()) == seconds


@given(st.datetimes(min_value=datetime.datetime(1, 1, 1), max_value=datetime.datetime(9999, 12, 31)))
def test_every_date_is_the_seconds_it_names(when):
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    text = (f"{days[when.weekday()]}, {when.day:02} {months[when.month - 1]} {when.year:04} "
            f"{when.hour:02}:{when.minute:02}:{when.second:02} GMT")  # fmt: skip
    since = when.replace(microsecond=0) - datetime.datetime(1970, 1, 1)
    assert parse_date(text.encode()) == since.days * 86400 + since.seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("5", 5), ("0, 7200", 0), ("7200, 0", 7200), ("7200;foo=1", 7200), ("7200.0", None), ("-5", None), ("abc", None),
     ("2147483649", 2**31), ("9" * 40, 2**31), ("", None)],
)  # fmt: skip
def test_ages(value, seconds):
    assert parse_age(value.encode()) == seconds


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("bytes=0-1", [(0, 2)]),
        ("bytes=5-", [(5, 5)]),
        ("bytes=-3", [(7, 3)]),
        ("bytes=-30", [(0, 10)]),
        ("bytes=0-999", [(0, 10)]),
        ("bytes=0-0, 9-9", [(0, 1), (9, 1)]),
        ("bytes=9-9,0-0", [(9, 1), (0, 1)]),
        ("bytes=0-1,100-", [(0, 2)]),
        ("bytes=10-", None),
        ("bytes=-0", None),
        ("bytes=99999999999999999999999-", None),
        ("bytes=0-5,3-9", []),
        ("bytes=5-1", []),
        ("bytes=a-", []),
        ("bytes=", []),
        ("items=0-1", []),
        ("bytes=0-1 2-3", []),
        ("bytes=" + ",".join(f"{i}-{i}" for i in range(17)), []),
    ],
)
def test_ranges(value, found):
    assert ranges(value.encode(), 10) == found


@given(st.binary(max_size=60).map(lambda tail: b"bytes=" + tail), st.integers(0, 2**40))
def test_ranges_lie_within_the_body(value, size):
    for first, length in ranges(value, size) or ():
        assert first >= 0 and length > 0 and first + length <= size


@pytest.mark.parametrize(
    ("listed", "etag", "same"),
    [
        ('"a"', '"a"', True),
        ('W/"a"', '"a"', True),
        ('"a"', 'W/"a"', True),
        ('"x", "a" , "y"', '"a"', True),
        ('"x,a", "b"', '"a"', False),
        ("*", '"a"', True),
        ("a", "a", True),
        ('"A"', '"a"', False),
        ("", '"a"', False),
        ('"a"', "", False),
    ],
)
def test_entity_tags_are_compared_weakly(listed, etag, same):
    assert matches(listed.encode(), etag.encode()) is same


@pytest.mark.parametrize(
    ("headers", "fine"),
    [
        ('If-None-Match: "a"', True),
        ('If-None-Match: "b"\r\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT', False),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", True),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT", False),
        ("If-Modified-Since: yesterday", False),
        ("Accept: */*", False),
    ],
)
def test_conditions(headers, fine):
    raw = f"GET / HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n".encode()
    assert bool(unmodified(raw, b'"a"', EPOCH_1994)) is fine


@pytest.mark.parametrize(
    ("name", "first", "second", "same"),
    [
        ("foo", "1, 2", "1,2", True),
        ("foo", "1,2", "2,1", False),
        ("foo", "a", "A", False),
        ("accept-encoding", "gzip, br", "br,gzip", True),
        ("accept-encoding", "gzip;q=1.0, br", "BR, x-gzip", True),
        ("accept-encoding", "gzip;q=0.5, br", "gzip, br", False),
        ("accept-encoding", "gzip, br;q=0", "gzip", True),
        ("accept-encoding", "gzip, identity;q=0", "gzip", False),
        ("accept-language", "en, de", "DE,en", True),
        ("accept-language", "en, de;q=0.5", "de, en;q=0.5", False),
    ],
)
def test_values_that_mean_the_same_are_the_same(name, first, second, same):
    one, other = normalised(name.encode(), first.encode()), normalised(name.encode(), second.encode())
    assert (one == other) is same


@given(st.binary(max_size=200))
@example(b'no-cache="')
@example(b"a=\\")
@example(b'x="\\')
def test_no_input_is_too_strange(value):
    parse(value)
    parse_structured(value)
    parse_date(value)
    parse_age(value)
    matches(value, b'"a"')
    ranges(value, 10)
    normalised(b"accept-encoding", value)
