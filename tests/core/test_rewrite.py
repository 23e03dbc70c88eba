"""What of a target goes to the upstream."""

import pytest

from fastgw._core.rewrite import Rewrite, rewritten


@pytest.mark.parametrize(
    ("strip", "add", "path", "query", "wanted"),
    [
        ("/api", "", "/api/users", None, "/users"),
        ("/api", "", "/api", None, "/"),
        ("/api", "", "/api/", "a=1", "/?a=1"),
        ("/api", "", "/apix", None, "/apix"),
        ("/api", "/v2", "/api/users", "a=1", "/v2/users?a=1"),
        ("", "/v2", "/users", None, "/v2/users"),
        ("/api", "/v2", "/api", None, "/v2"),
    ],
)
def test_prefixes(strip, add, path, query, wanted):
    assert rewritten(Rewrite(strip.encode(), add.encode()), path, query) == wanted


def test_a_capture_in_a_query_stays_one_value():
    rewrite = Rewrite(path=(b"/item",), query=(b"id=", 0))
    assert rewritten(rewrite, "/p/1&admin=1", None, [(3, 9)]) == "/item?id=1%26admin%3D1"
    assert rewritten(rewrite, "/p/a%26b", None, [(3, 5)]) == "/item?id=a%26b"
    assert rewritten(rewrite, "/p/a+b", None, [(3, 3)]) == "/item?id=a%2Bb"


def test_the_clients_query_is_appended():
    assert rewritten(Rewrite(path=(b"/item",), query=(b"id=", 0)), "/p/7", "x=1", [(3, 1)]) == "/item?id=7&x=1"
    assert rewritten(Rewrite(path=(b"/item/", 0)), "/p/7", "x=1", [(3, 1)]) == "/item/7?x=1"
    assert rewritten(Rewrite(path=(b"/item/", 0)), "/p/7", "", [(3, 1)]) == "/item/7"
