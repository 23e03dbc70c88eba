"""The target, normalised once: what is known to have fooled gateways, and what must hold for any target."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw._core.target import normalize_target

# target: (normalize, strict, raw); None is refused
CASES = {
    "/a/b": ("/a/b", "/a/b", "/a/b"),
    "/a/../b": ("/b", None, "/a/../b"),
    "/a/%2e%2e/b": ("/b", None, "/a/%2e%2e/b"),
    "/a/.%2E/b": ("/b", None, "/a/.%2E/b"),
    "/../../etc": ("/etc", None, "/../../etc"),
    "/a/..": ("/", None, "/a/.."),
    "/a//b": ("/a/b", None, "/a//b"),
    "//a": ("/a", None, "//a"),
    "/a/./b": ("/a/b", None, "/a/./b"),
    "/a%2fb": ("/a%2Fb", None, "/a%2fb"),
    "/a/..%2fb": (None, None, "/a/..%2fb"),
    "/a/..%5cb": (None, None, "/a/..%5cb"),
    "/a%2f..": (None, None, "/a%2f.."),
    "/a%2f%2e%2e%2fb": (None, None, "/a%2f%2e%2e%2fb"),
    "/a%5C..%2Fb": (None, None, "/a%5C..%2Fb"),
    "/a/.%2Fb": (None, None, "/a/.%2Fb"),
    "/a%2f..b": ("/a%2F..b", None, "/a%2f..b"),
    "/a%2f...%2fb": ("/a%2F...%2Fb", None, "/a%2f...%2fb"),
    "/a.%2fb..": ("/a.%2Fb..", None, "/a.%2fb.."),
    "/a%5cb": ("/a%5Cb", None, "/a%5cb"),
    "/a\\b": (None, None, None),
    "/a%00": (None, None, None),
    "/a%zz": (None, None, None),
    "/a%2": (None, None, None),
    "/a#b": (None, None, None),
    "/%41": ("/A", "/A", "/%41"),
    "/%7e": ("/~", "/~", "/%7e"),
    "/%c3%a9": ("/%C3%A9", "/%C3%A9", "/%c3%a9"),
    "/a/..;x/b": (None, None, "/a/..;x/b"),
    "/a/..;": (None, None, "/a/..;"),
    "/a/.;/b": (None, None, "/a/.;/b"),
    "/a/%2e.;x=1/b": (None, None, "/a/%2e.;x=1/b"),
    "/a/..%3bx/b": (None, None, "/a/..%3bx/b"),
    "/a;v=../b;.": ("/a;v=../b;.", "/a;v=../b;.", "/a;v=../b;."),
    "/a;..;x/.b": ("/a;..;x/.b", "/a;..;x/.b", "/a;..;x/.b"),
    "/a/...;x": ("/a/...;x", "/a/...;x", "/a/...;x"),
    "/.well-known/x": ("/.well-known/x", "/.well-known/x", "/.well-known/x"),
    "/\x7f": (None, None, None),
    "/\xe9": (None, None, None),
    "/a?\xe9": (None, None, None),
    "/%252e%252e/a": ("/%252e%252e/a", "/%252e%252e/a", "/%252e%252e/a"),
    "http://h/x": ("/x", "/x", "/x"),
    "http://h": ("/", "/", "/"),
    "http://u@h/x": (None, None, None),
    "ftp://h/x": (None, None, None),
    "*": (None, None, None),
    "x": (None, None, None),
}


@pytest.mark.parametrize("target", CASES)
@pytest.mark.parametrize(("mode", "column"), [("normalize", 0), ("strict", 1), ("raw", 2)])
def test_known_bypasses(target, mode, column):
    found = normalize_target(target.encode(), mode)
    assert (None if found is None else found[0].decode()) == CASES[target][column]


def test_slashes_are_merged_only_when_wanted():
    assert normalize_target(b"/a//b", merge_slashes=False) == (b"/a//b", None)
    assert normalize_target(b"/a//../b", merge_slashes=False) == (b"/a/b", None)


def test_the_query_is_left_alone():
    assert normalize_target(b"/a/../b?x=../%2e//&y=%zz") == (b"/b", b"x=../%2e//&y=%zz")
    assert normalize_target(b"/a?") == (b"/a", b"")
    assert normalize_target(b"/a?b?c") == (b"/a", b"b?c")


def test_asterisk_is_for_options():
    assert normalize_target(b"*", method="OPTIONS") == (b"*", None)


PIECES = st.sampled_from(
    ["/", "//", ".", "..", "%2e", "%2E%2e", "%2f", "a", "b", "%41", "%7e", "%c3", ";", "%3B", "%5c", "%252e", "...",
     "%20"]
)
TARGETS = st.lists(PIECES, max_size=14).map(lambda pieces: ("/" + "".join(pieces)).encode())


def hides_dots(path):
    """Does a server that decodes slashes, or takes parameters off, see a dot segment?"""
    pieces = re.split(rb"/|%2f|%5c", path, flags=re.IGNORECASE)
    return any(re.split(rb";|%3b", piece, maxsplit=1, flags=re.IGNORECASE)[0] in (b".", b"..") for piece in pieces)


@settings(max_examples=2000, deadline=None)
@given(TARGETS)
def test_once_is_enough(target):
    found = normalize_target(target)
    if found is not None:
        assert normalize_target(found[0]) == (found[0], None)


@settings(max_examples=2000, deadline=None)
@given(TARGETS)
def test_nothing_is_left_to_resolve(target):
    found = normalize_target(target)
    if found is None:
        assert hides_dots(unquote_unreserved(target))
        return
    path = found[0]
    assert not hides_dots(path)
    assert path.startswith(b"/")
    assert b"" not in path.split(b"/")[1:-1]
    assert b"%2e" not in path.lower() and b"%41" not in path


def unquote_unreserved(target):
    return target.replace(b"%2e", b".").replace(b"%2E", b".")


@settings(max_examples=1000, deadline=None)
@given(TARGETS)
def test_strict_takes_only_what_normalize_would_leave(target):
    found = normalize_target(target, "strict")
    if found is not None:
        assert normalize_target(target, "normalize") == found
