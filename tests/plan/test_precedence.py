"""The router and `explain` against an independent model of docs/routing.md, over random tables and requests."""

from hypothesis import given, note, settings
from hypothesis import strategies as st

from fastgw._core.route import lookup
from fastgw.config import ConfigError, load
from fastgw.plan.explain import Asked, explain
from fastgw.plan.lint import lint
from fastgw.plan.routing import compile_router, load_router_now
from fastgw.policies import RESOLVER
from tests.oracle.router import AGENTS, Request, decide

PIECES = st.sampled_from(["a", "b", "7", "7", "c%20d"])
REGEXES = ["[0-9]+", "[a-z]+", "[a-z0-9]+", "b|7"]
WHOLE = ["/", "/*", "~ /a/.*", "~ /[a-z]+(/(?P<rest>b|7))?", "~ .*/7", "~ /(?P<all>.*)"]


@st.composite
def paths_about(draw, pieces):
    """A path of a route that fits these segments, or nearly."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(WHOLE))
    kept = pieces[: draw(st.integers(1, len(pieces)))] if draw(st.integers(0, 2)) == 0 else pieces
    found = []
    for number, piece in enumerate(kept):
        what = draw(st.sampled_from(["literal", "param", "regex", "regex"]))
        regex = draw(st.sampled_from(REGEXES))
        found.append(piece if what == "literal" else f"{{p{number}}}" if what == "param" else f"{{p{number}:{regex}}}")
    end = "/*" if len(kept) < len(pieces) else draw(st.sampled_from(["", "", "", "/", "/*"]))
    return "/" + "/".join(found) + end


HOSTS = ["h.example.com", "*.example.com", "x.h.example.com", "*.h.example.com", "[::1]"]
VALUES = st.sampled_from(["1", "2", "*", "!", "~ [0-9]+", "~ .*é.*"])


def subset(items, most):
    return st.lists(st.sampled_from(items), min_size=1, max_size=most, unique=True)


CONDITIONS = {
    "host": st.one_of(st.sampled_from(HOSTS), subset(HOSTS, 3)),
    "trailing_slash": st.sampled_from(["redirect", "ignore"]),
}
"""What is no predicate: where a route stands, and what more it fits."""
PREDICATES = {
    "methods": subset(["GET", "POST", "HEAD", "OPTIONS"], 2),
    "headers": st.dictionaries(st.sampled_from(["X-A", "x-b"]), VALUES, min_size=1),
    "query": st.dictionaries(st.sampled_from(["q", "a b"]), VALUES, min_size=1),
    "cookies": st.dictionaries(st.sampled_from(["c", "d"]), VALUES, min_size=1),
    "user_agent": st.sampled_from(["bot", "tool", "mobile", "desktop", "~ curl/.*"]),
    "client_ip": subset(["10.0.0.0/8", "10.1.2.3/32", "2001:db8::/33", "0.0.0.0/0", "::/0"], 2),
}
HEADERS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["X-A", "x-a", "X-B"]), st.sampled_from(["1", "2", "12", "", "xéx"])),
        st.tuples(
            st.just("Cookie"), st.sampled_from(["c=1", "c=2; d=1", "d=1;c=12", "c", "c=1 ; d=2", ";; c=1=2", " cc=1"])
        ),
        st.tuples(st.just("User-Agent"), st.sampled_from(sorted(AGENTS))),
        st.tuples(st.just("Origin"), st.just("http://o")),
        st.tuples(st.just("Access-Control-Request-Method"), st.sampled_from(["GET", "POST", "HEAD", "DELETE"])),
    ),
    max_size=4,
).map(tuple)
ASKED_HOSTS = [
    "h.example.com", "X.Example.com:80", "x.h.example.com", "X.h.example.com:80", "x.h.example.com",
    "y.x.h.example.com.", "example.com", "[::1]:80", "",
]  # fmt: skip
QUERIES = ["", "q=1", "q=2&q=1", "r=1", "q", "a+b=1&q=%32", "a%20b=12", "q=%C3%A9", "q=x%e9", "&&q=1=1", "q=%zz"]


@st.composite
def tables(draw):
    """Routes that are about one path, and requests for it and what is near."""
    about = draw(st.lists(PIECES, min_size=1, max_size=3))
    routes = []
    for _ in range(draw(st.integers(1, 8))):
        keys = draw(st.lists(st.sampled_from(sorted(PREDICATES)), max_size=draw(st.integers(0, 2)), unique=True))
        keys += [key for key in CONDITIONS if draw(st.integers(0, 2)) == 0]
        routes.append({"path": draw(paths_about(about)), **{key: draw((PREDICATES | CONDITIONS)[key]) for key in keys}})
    requests = []
    for _ in range(draw(st.integers(4, 12))):
        more = draw(st.sampled_from([[], [], [""], ["a"], ["b", "7"]]))
        pieces = [draw(st.sampled_from([piece, piece, piece, "b", ""])) for piece in about]
        path = "/" + "/".join([*pieces, *more])
        request = Request(
            method=draw(st.sampled_from(["GET", "GET", "HEAD", "POST", "DELETE", "OPTIONS"])),
            host=draw(st.sampled_from(ASKED_HOSTS)),
            path=path.removesuffix("/") or "/" if draw(st.booleans()) else path,
            query=draw(st.sampled_from(QUERIES)),
            headers=draw(HEADERS),
            address=draw(st.sampled_from(["10.1.2.3", "10.9.9.9", "192.0.2.1", "2001:db8::1", "2001:db8:8000::1"])),
        )
        requests.append(request)
    return routes, requests


def config_of(routes):
    """The checked table, or None when the check finds that two routes match the same."""
    tree = {"services": {"s": "http://127.0.0.1:1"}, "routes": [{"service": "s", **route} for route in routes]}
    try:
        return load(tree, resolver=RESOLVER)
    except ConfigError as error:
        assert {problem.code for problem in error.problems if problem.severity == "error"} == {"duplicate_route"}
        return None


def native(router, request):
    status, index, _, allowed = lookup(
        router, request.method, request.host, request.path, request.query, request.headers, request.address
    )
    return status, None if index < 0 else index, frozenset(allowed.split(", ")) - {""}


@settings(max_examples=800, deadline=None)
@given(tables())
def test_the_router_does_what_the_page_says(case):
    routes, requests = case
    config = config_of(routes)
    if config is None:
        return
    router = load_router_now(compile_router(config))
    never = {p.path for p in lint(config) if p.code == "shadowed_route" and p.message.startswith("is never chosen:")}
    for request in requests:
        wanted = decide(routes, request)
        note(f"{request} → {wanted}")
        assert native(router, request) == (wanted.status, wanted.route, wanted.allowed)
        assert f"routes[{wanted.route}]" not in never


@settings(max_examples=200, deadline=None)
@given(tables())
def test_explain_says_the_same(case):
    routes, requests = case
    config = config_of(routes)
    if config is None:
        return
    for request in requests[:5]:
        wanted = decide(routes, request)
        note(f"{request} → {wanted}")
        asked = Asked(request.method, request.host, request.path, request.query, request.headers, request.address)
        found = explain(config, asked)
        assert (found.status, found.chosen and found.chosen.index) == (wanted.status, wanted.route)
        assert tuple(candidate.route.index for candidate in found.candidates) == wanted.fitting
        assert {c.route.index for c in found.candidates if c.failed is None} == wanted.holding
        assert found.others == len(routes) - len(wanted.fitting)
