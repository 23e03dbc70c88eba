"""Path templates of google.api.http: what they say, what they fit, which of several is chosen."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.protocols.http_rules import MAX_SEGMENTS, RuleTable, TemplateError, parse_template


def table(*templates):
    found = RuleTable()
    for text in templates:
        method, _, path = text.rpartition(" ")
        assert found.add(method or "GET", parse_template(path), text) is None
    return found


def match(rules, path, method="GET"):
    found = rules.match(method, path)
    return None if found is None else (found[0], {".".join(name): value for name, value in found[1].items()})


def test_a_template_is_segments_variables_and_a_verb():
    found = parse_template("/v1/{name=shelves/*/books/*}/pages/{page.number}:read")
    assert found.segments == ("v1", "shelves", "*", "books", "*", "pages", "*")
    assert found.verb == "read"
    (name, page) = found.variables
    assert (name.path, name.start, name.end, name.multi) == (("name",), 1, 5, True)
    assert (page.path, page.start, page.end, page.multi) == (("page", "number"), 6, 7, False)


@pytest.mark.parametrize(
    "text",
    ["", "v1", "/v1/", "//", "/{", "/{}", "/{a", "/{a}b", "/a{b}", "/{a=}", "/{a=**}/b", "/**/b", "/{a={b}}", "/{1}",
     "/{a..b}", "/{a}/{a}", "/v1/a b", "/v1:", "/v1:a:b", "/v1/a?b", "/***", "/{a=*/**/c}", "/{a}}", "/ä"],
)  # fmt: skip
def test_what_is_no_template_is_an_error_that_names_it(text):
    with pytest.raises(TemplateError, match=re.escape(repr(text))):
        parse_template(text)


@given(st.text("/{}=*:.ab", max_size=20))
def test_any_text_is_a_template_or_an_error(text):
    try:
        found = parse_template(text)
    except TemplateError:
        return
    assert found.segments and "**" not in found.segments[:-1]


@pytest.mark.parametrize(
    ("template", "path", "variables"),
    [
        ("/v1/{name}", "/v1/a", {"name": "a"}),
        ("/v1/{name}", "/v1/", None),
        ("/v1/{name}", "/v1/a/b", None),
        ("/v1/{name}", "/v1", None),
        ("/v1/{name}", "/v2/a", None),
        ("/v1/{name}", "/v1/a%2Fb%20c", {"name": "a/b c"}),
        ("/v1/{name=a/*}", "/v1/a/b%2Fc%20d", {"name": "a/b%2Fc d"}),
        ("/v1/{name=**}", "/v1/a/b%2fc%3Ad", {"name": "a/b%2fc:d"}),
        ("/v1/{name=**}", "/v1", {"name": ""}),
        ("/v1/{name=**}:get", "/v1/a/b:get", {"name": "a/b"}),
        ("/v1/{name=**}:get", "/v1/a/b", None),
        ("/v1/{name}:get", "/v1/a:b:get", {"name": "a:b"}),
        ("/v1/{name}:get", "/v1/:get", None),
        ("/v1/{name}", "/v1/a:get", {"name": "a:get"}),
        ("/v1/*/b", "/v1/x/b", {}),
        ("/v1/**", "/v1/x/y", {}),
        ("/v1/a%20b", "/v1/a%20b", {}),
        ("/v1:watch", "/v1:watch", {}),
        ("/{a=x/*}/{b}", "/x/1/2", {"a": "x/1", "b": "2"}),
    ],
)
def test_what_a_template_fits(template, path, variables):
    found = match(table(template), path)
    assert (None if found is None else found[1]) == variables


def test_the_most_literal_is_chosen_whatever_the_order():
    paths = ["/v1/**", "/v1/{a}", "/v1/a", "/v1/{a}/b", "/v1/a/*", "/v1/{a}:go", "/v1/a:go"]
    for rules in (table(*paths), table(*reversed(paths))):
        chosen = {path: match(rules, path)[0] for path in
                  ("/v1/a", "/v1/b", "/v1/a/b", "/v1/b/b", "/v1/b/c", "/v1", "/v1/b:go", "/v1/a:go", "/v1/b:stop")}
        assert chosen == {
            "/v1/a": "/v1/a", "/v1/b": "/v1/{a}", "/v1/a/b": "/v1/a/*", "/v1/b/b": "/v1/{a}/b", "/v1/b/c": "/v1/**",
            "/v1": "/v1/**", "/v1/b:go": "/v1/{a}:go", "/v1/a:go": "/v1/a:go", "/v1/b:stop": "/v1/{a}",
        }  # fmt: skip


def test_a_less_literal_one_is_found_where_the_method_asks_for_it():
    rules = table("GET /v1/a", "POST /v1/{name}", "* /v1/**")
    assert match(rules, "/v1/a", "POST") == ("POST /v1/{name}", {"name": "a"})
    assert match(rules, "/v1/a", "PURGE") == ("* /v1/**", {})


def test_the_methods_of_a_path_are_known():
    rules = table("GET /v1/a", "POST /v1/{name}", "DELETE /v2/**")
    assert rules.match("PUT", "/v1/a") is None
    assert rules.methods("/v1/a") == {"GET", "POST"}
    assert rules.methods("/v3") == set()


def test_the_first_of_two_with_one_shape_stays():
    rules = table("/v1/{a}")
    assert rules.add("GET", parse_template("/v1/{b}"), "second") == "/v1/{a}"
    assert match(rules, "/v1/x") == ("/v1/{a}", {"a": "x"})
    assert len(rules) == 1


def test_a_path_of_very_many_segments_fits_nothing():
    rules = table("/**")
    assert rules.match("GET", "/a" * MAX_SEGMENTS) is not None
    assert rules.match("GET", "/a" * (MAX_SEGMENTS + 1)) is None


def test_bytes_that_are_no_utf8_are_told():
    with pytest.raises(UnicodeDecodeError):
        table("/{a}").match("GET", "/%ff")


segment = st.sampled_from(["a", "b", "*"])


@given(
    st.lists(st.tuples(st.lists(segment, min_size=1, max_size=4), st.booleans()), min_size=1, max_size=8),
    st.lists(st.sampled_from(["a", "b", "c", "%61"]), min_size=1, max_size=5),
)
def test_a_path_fits_where_a_regular_expression_says_so(shapes, parts):
    rules = RuleTable()
    patterns = []
    for segments, rest in shapes:
        text = "/" + "/".join([*segments, "**"] if rest else segments)
        if rules.add("GET", parse_template(text), text) is None:
            body = "".join("/[^/]+" if one == "*" else f"/{one}" for one in segments)
            patterns.append((text, re.compile(body + ("(/.*)?" if rest else "") + r"\Z")))
    path = "/" + "/".join(parts)
    fitting = {text for text, pattern in patterns if pattern.match(unquote(path))}
    found = rules.match("GET", path)
    assert (found is None) == (not fitting)
    assert found is None or found[0] in fitting
