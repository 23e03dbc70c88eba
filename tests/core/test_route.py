"""The router: a table of cases. Random tables are compared with an independent model in tests/plan."""

from urllib.parse import quote

import pytest
import re2

from fastgw._core.exchange import MAX_CAPTURES
from fastgw._core.route import MAX_DEPTH, Router, lookup
from fastgw.config import ConfigError, load
from fastgw.plan.routing import compile_router, load_router_now
from fastgw.policies import RESOLVER


def table(*routes):
    tree = {"services": {"s": "http://127.0.0.1:1"}, "routes": [{"service": "s", **route} for route in routes]}
    return load(tree, resolver=RESOLVER)


def router_of(config):
    return load_router_now(compile_router(config))


TABLE = (
    {"name": "users", "path": "/users/*", "methods": ["GET", "POST"]},
    {"name": "me", "path": "/users/me"},
    {"name": "item", "path": "/items/{id}"},
    {"name": "number", "path": "/items/{id:[0-9]+}"},
    {"name": "part", "path": "/items/{id}/parts/{part}"},
    {"name": "v2", "path": "/items/{id}", "headers": {"X-Version": "2"}},
    {"name": "beta", "path": "/q", "query": {"b": "x y"}},
    {"name": "cookie", "path": "/c", "cookies": {"s": "*"}},
    {"name": "no-cookie", "path": "/c", "cookies": {"s": "!"}},
    {"name": "phone", "path": "/ua", "user_agent": "mobile"},
    {"name": "curl", "path": "/ua", "user_agent": "~ curl/.*"},
    {"name": "office", "path": "/ip", "client_ip": ["10.0.0.0/8", "2001:db8::/32"]},
    {"name": "host", "path": "/h", "host": "a.example.com"},
    {"name": "wild", "path": "/h", "host": "*.example.com"},
    {"name": "deep", "path": "/h", "host": "*.b.example.com"},
    {"name": "any", "path": "/h"},
    {"name": "slash", "path": "/s", "trailing_slash": "redirect"},
    {"name": "both", "path": "/t/", "trailing_slash": "ignore"},
    {"name": "regex", "path": "~ /v[0-9]+/(?P<rest>.*)"},
    {"name": "root", "path": "/"},
)
CASES = [
    ({"path": "/users"}, 200, "users"),
    ({"path": "/users/"}, 200, "users"),
    ({"path": "/users/1/2"}, 200, "users"),
    ({"path": "/usersx"}, 404, None),
    ({"path": "/users/me", "method": "DELETE"}, 200, "me"),
    ({"path": "/users/you", "method": "DELETE"}, 405, "GET, HEAD, POST, OPTIONS"),
    ({"path": "/users/you", "method": "HEAD"}, 200, "users"),
    ({"path": "/items/abc"}, 200, "item"),
    ({"path": "/items/12"}, 200, "number"),
    ({"path": "/items/"}, 404, None),
    ({"path": "/items/12/parts/3"}, 200, "part"),
    ({"path": "/items/abc", "headers": [("x-version", "2")]}, 200, "v2"),
    ({"path": "/items/abc", "headers": [("x-version", "1"), ("X-Version", "2")]}, 200, "v2"),
    ({"path": "/q", "query": "a=1&b=x%20y"}, 200, "beta"),
    ({"path": "/q", "query": "b=x+y"}, 200, "beta"),
    ({"path": "/q", "query": "b=xy"}, 404, None),
    ({"path": "/c", "headers": [("Cookie", "t=1; s=2")]}, 200, "cookie"),
    ({"path": "/c", "headers": [("Cookie", "t=1; ss=2")]}, 200, "no-cookie"),
    ({"path": "/ua", "headers": [("User-Agent", "Mozilla/5.0 (iPhone) Mobile")]}, 200, "phone"),
    ({"path": "/ua", "headers": [("User-Agent", "curl/8")]}, 200, "curl"),
    ({"path": "/ua", "headers": [("User-Agent", "Mozilla/5.0 Googlebot")]}, 404, None),
    ({"path": "/ip", "address": "10.1.2.3"}, 200, "office"),
    ({"path": "/ip", "address": "11.1.2.3"}, 404, None),
    ({"path": "/ip", "address": "2001:db8::1"}, 200, "office"),
    ({"path": "/h", "host": "A.Example.com:8080"}, 200, "host"),
    ({"path": "/h", "host": "c.example.com"}, 200, "wild"),
    ({"path": "/h", "host": "c.b.example.com"}, 200, "deep"),
    ({"path": "/h", "host": "example.com"}, 200, "any"),
    ({"path": "/s"}, 200, "slash"),
    ({"path": "/s/"}, 308, "slash"),
    ({"path": "/t"}, 200, "both"),
    ({"path": "/t/"}, 200, "both"),
    ({"path": "/v1/x/y"}, 200, "regex"),
    ({"path": "/vx/y"}, 404, None),
    ({"path": "/"}, 200, "root"),
    (
        {
            "path": "/users/1",
            "method": "OPTIONS",
            "headers": [("Origin", "http://o"), ("Access-Control-Request-Method", "POST")],
        },
        200,
        "users",
    ),
    (
        {
            "path": "/users/1",
            "method": "OPTIONS",
            "headers": [("Origin", "http://o"), ("Access-Control-Request-Method", "DELETE")],
        },
        405,
        "GET, HEAD, POST, OPTIONS",
    ),
]


@pytest.fixture(scope="module")
def served():
    config = table(*TABLE)
    return config, router_of(config)


@pytest.mark.parametrize(("asked", "status", "wanted"), CASES)
def test_cases(served, asked, status, wanted):
    config, router = served
    found, index, _, allowed = lookup(router, **asked)
    assert found == status
    if status == 405:
        assert allowed == wanted
    else:
        assert (config.routes[index].name if index >= 0 else None) == wanted


def test_captures(served):
    _, router = served
    assert lookup(router, path="/items/12/parts/a%2Fb")[2] == ["12", "a%2Fb"]
    assert lookup(router, path="/users/1/2")[2] == ["1/2"]
    assert lookup(router, path="/users")[2] == [""]
    assert lookup(router, path="/v1/x/y")[2] == ["x/y"]


def test_the_search_backs_up():
    config = table({"path": "/a/{x}/c"}, {"path": "/{y}/b/d"}, {"path": "/a/*", "methods": ["PUT"]})
    router = router_of(config)
    assert lookup(router, path="/a/b/d")[1] == 1
    assert lookup(router, path="/a/b/c")[1] == 0
    assert lookup(router, path="/a/b/e", method="PUT")[1] == 2


def test_a_hostile_path_costs_a_bounded_search():
    routes = [{"path": "/" + "/".join(f"{{p{i}}}" if bits >> i & 1 else "a" for i in range(12)) + "/x"}
              for bits in range(0, 4096, 3)]  # fmt: skip
    router = router_of(table(*routes))
    assert lookup(router, path="/a" * 12 + "/y")[0] == 404
    assert lookup(router, path="/a" * 5000)[0] == 404


def test_out_of_steps_is_no_route_and_never_a_less_exact_one():
    routes = [
        {"path": "/" + "/".join(f"{{p{i}}}" if bits >> i & 1 else "a" for i in range(12)) + "/x"}
        for bits in range(4096)
    ]
    router = router_of(table(*routes, {"path": "/{a}/*"}, {"path": "/*"}))
    assert lookup(router, path="/a" * 12 + "/y")[0] == 404
    regexes = [{"path": f"~ /x{i}/(?P<k>.*)"} for i in range(4200)]
    assert lookup(router_of(table(*regexes, {"path": "/*"})), path="/x4199/k")[0] == 404


def test_patterns_are_compiled_when_they_are_asked_for():
    router = Router()
    router.add(0, (), [("regex", "[0-9]+")], "exact", (), [])
    router.add(1, (), [("literal", b"a"), ("regex", "[0-9]+")], "exact", (), [])
    assert router.patterns == [b"[0-9]+"]
    assert len(list(router.compile(re2.compile))) == 1
    assert lookup(router, path="/a/7")[1] == 1


def test_every_capture_that_check_allows_is_kept():
    names = [f"c{i}" for i in range(MAX_CAPTURES)]
    template = "/" + "/".join(f"{{{name}}}" for name in names[:-1]) + "/*"
    regex = "~ /" + "".join(f"(?P<{name}>[a-p]{{2}})" for name in names)
    router = router_of(table({"path": template}, {"path": regex}))
    assert lookup(router, path="/" + "/".join(names))[2] == names
    pairs = [chr(ord("a") + i) * 2 for i in range(MAX_CAPTURES)]
    assert lookup(router, path="/" + "".join(pairs))[2] == pairs


@pytest.mark.parametrize("slash", ["redirect", "ignore"])
@pytest.mark.parametrize("own", ["/a", "/a/", "/{x}", "/{x}/"])
@pytest.mark.parametrize("predicates", [{}, {"headers": {"X": "1"}}])
@pytest.mark.parametrize("first", [0, 1])
def test_the_other_form_of_a_path_never_hides_a_route_of_that_path(slash, own, predicates, first):
    other = own.removesuffix("/") if own.endswith("/") else own + "/"
    routes = [
        {"name": "slashed", "path": own, "trailing_slash": slash, **predicates},
        {"name": "explicit", "path": other},
        {"name": "posted", "path": other, "methods": ["POST"]},
    ]
    config = table(*(routes if first == 0 else routes[::-1]))
    router = router_of(config)
    asked = other.replace("{x}", "b")

    def chosen(path, method):
        return config.routes[lookup(router, path=path, method=method, headers=[("X", "1")])[1]].name

    assert chosen(asked, "GET") == "explicit"
    assert chosen(asked, "POST") == "posted"
    assert chosen(own.replace("{x}", "b"), "GET") == "slashed"


def test_the_other_form_is_there_for_what_no_route_of_that_path_takes():
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        routes = [
            {"name": "one", "path": "/a", "trailing_slash": "redirect"},
            {"name": "two", "path": "/a/", "methods": ["POST"]},
            {"name": "three", "path": "/a", "trailing_slash": "ignore", "headers": {"X": "1"}},
        ]
        config = table(*(routes[i] for i in order))
        router = router_of(config)
        for headers, wanted in (((), (308, "one")), ([("X", "1")], (200, "three"))):
            status, index, _, _ = lookup(router, path="/a/", headers=headers)
            assert (status, config.routes[index].name) == wanted
        assert config.routes[lookup(router, path="/a/", method="POST", headers=[("X", "1")])[1]].name == "two"


def test_ranges_of_ipv6_hold_no_ipv4_address():
    ranges = ["::/0", "::/64", "::fffe:0:0/95", "::ffff:10.0.0.0/104"]
    for text, four in zip(ranges, (404, 404, 404, 200), strict=True):
        router = router_of(table({"path": "/x", "client_ip": text}))
        assert lookup(router, path="/x", address="10.1.2.3")[0] == four
    router = router_of(table({"path": "/x", "client_ip": "::/0"}))
    for address in ("::", "::1", "2001:db8::1", "::fffe:ffff:ffff", "::1:0:0:0", "ffff::"):
        assert lookup(router, path="/x", address=address)[0] == 200


def raw(value):
    """Bytes as `lookup` takes them."""
    return value.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("regex", "value", "fits"),
    [
        (".*bot.*", b"x bot \xff", True),
        (".*bot.*", b"x bo \xff", False),
        ("a.c", b"a\xe9c", True),              # Latin-1
        ("a.c", "aéc".encode(), True),
        ("a..c", "aéc".encode(), False),       # UTF-8: one character
        ("a\u00e9+c", b"a\xe9\xe9c", True),
        ("a[^b]c", b"a\x80c", True),
        ("a.c", b"a\xf0\x9f\x98c", False),      # cut in the middle: three characters of Latin-1
        ("a...c", b"a\xf0\x9f\x98c", True),
    ],
)
def test_regexes_on_values_that_are_no_utf_8(regex, value, fits):
    routes = [
        {"path": "/header", "headers": {"X": f"~ {regex}"}},
        {"path": "/query", "query": {"x": f"~ {regex}"}},
        {"path": "/cookie", "cookies": {"x": f"~ {regex}"}},
        {"path": "/agent", "user_agent": f"~ {regex}"},
    ]
    router = router_of(table(*routes))
    asked = [
        {"path": "/header", "headers": [("X", raw(value))]},
        {"path": "/query", "query": "x=" + quote(value)},
        {"path": "/cookie", "headers": [("Cookie", raw(b"y=1; x=" + value))]},
        {"path": "/agent", "headers": [("User-Agent", raw(value))]},
    ]
    assert [lookup(router, **one)[0] for one in asked] == [200 if fits else 404] * 4


def test_a_path_of_128_segments_is_the_longest():
    deep = "/x" * MAX_DEPTH
    router = router_of(table({"path": deep}, {"path": f"{deep}/*"}))
    assert lookup(router, path=deep)[1] == 0
    assert lookup(router, path=f"{deep}/y/z")[1:3] == (1, ["y/z"])
    with pytest.raises(ConfigError, match="129 segments"):
        table({"path": f"{deep}/y"})
