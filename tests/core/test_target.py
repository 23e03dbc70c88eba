"""The target, normalised once: what is known to have fooled gateways, and what must hold for any target."""

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
    "/a/..%2fb": ("/a/..%2Fb", None, "/a/..%2fb"),
    "/a%5cb": ("/a%5Cb", None, "/a%5cb"),
    "/a\\b": (None, None, None),
    "/a%00": (None, None, None),
    "/a%zz": (None, None, None),
    "/a%2": (None, None, None),
    "/a#b": (None, None, None),
    "/%41": ("/A", "/A", "/%41"),
    "/%7e": ("/~", "/~", "/%7e"),
    "/%c3%a9": ("/%C3%A9", "/%C3%A9", "/%c3%a9"),
    "/a/..;x/b": ("/a/..;x/b", None, "/a/..;x/b"),
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
    ["/", "//", ".", "..", "%2e", "%2E%2e", "%2f", "a", "b", "%41", "%7e", "%c3", ";", "%5c", "%252e", "...", "%20"]
)
TARGETS = st.lists(PIECES, max_size=14).map(lambda pieces: ("/" + "".join(pieces)).encode())


@settings(max_examples=2000, deadline=None)
@given(TARGETS)
def test_once_is_enough(target):
    found = normalize_target(target)
    assert found is not None
    path = found[0]
    assert normalize_target(path) == (path, None)


@settings(max_examples=2000, deadline=None)
@given(TARGETS)
def test_nothing_is_left_to_resolve(target):
    path = normalize_target(target)[0]
    assert path.startswith(b"/")
    segments = path.split(b"/")[1:]
    assert b"." not in segments and b".." not in segments
    assert b"" not in segments[:-1]
    assert b"%2e" not in path.lower() and b"%41" not in path


@settings(max_examples=1000, deadline=None)
@given(TARGETS)
def test_strict_takes_only_what_normalize_would_leave(target):
    found = normalize_target(target, "strict")
    if found is not None:
        assert normalize_target(target, "normalize") == found
