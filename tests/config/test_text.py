"""YAML as it is read: types, positions, the environment, and the bounds."""

import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fastgw.config import check, load
from fastgw.config.text import ALIAS_FREE, MAX_DEPTH, parse
from fastgw.policies import RESOLVER


def data(text, **env):
    document = parse(text, "x.yaml", env)
    assert document.findings == []
    return document.data


def only_finding(text, **env):
    (finding,) = parse(text, "x.yaml", env).findings
    return finding


def test_scalars_have_the_type_they_are_written_in():
    assert data("a: [1, -1, 0.5, true, false, null, ~, '1', \"true\"]\nb:") == {
        "a": [1, -1, 0.5, True, False, None, None, "1", "true"],
        "b": None,
    }


def test_what_is_not_canonical_stays_the_text_it_is():
    words = [
        "1.10",
        "0755",
        "0x1F",
        "yes",
        "on",
        "12:30",
        "2024-01-01",
        "1e3",
        "1_000",
        "True",
        ".inf",
        "NaN",
        "+1",
        "1.",
    ]
    assert data("[" + ", ".join(words) + "]") == words
    assert data("200: a\ntrue: b\n1.10: c") == {"200": "a", "true": "b", "1.10": "c"}


plain_data = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**17), 10**17),
        st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"), max_size=20),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text("abcdefg_-.", min_size=1), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(plain_data)
def test_what_the_library_writes_is_read_back(value):
    text = yaml.safe_dump(value, allow_unicode=True)
    if "${" not in text:
        assert data(text) == value


def test_anchors_and_merges():
    found = data("base: &b {a: 1, b: [x]}\none: {<<: *b, a: 2}\ntwo: *b\nthree: {<<: [{c: 3}, *b]}\n")
    assert found["one"] == {"a": 2, "b": ["x"]}
    assert found["two"] == {"a": 1, "b": ["x"]}
    assert found["three"] == {"c": 3, "a": 1, "b": ["x"]}


@pytest.mark.parametrize(
    ("text", "code", "mark"),
    [
        ("a: 1\nb: {c: 1, c: 2}\n", "duplicate_key", (2, 11)),
        ("a: [1\nb: 2\n", "syntax", (2, 2)),
        ("a: *x\n", "syntax", (1, 4)),
        ("a: &x [*x]\n", "syntax", (1, 8)),
        ("a: !!python/object/apply:os.system [x]\n", "syntax", (1, 4)),
        ("a: !mine x\n", "syntax", (1, 4)),
        ("a: 1\n---\nb: 2\n", "syntax", (2, 1)),
        ("? [a]\n: b\n", "syntax", (1, 3)),
        ("a: {<<: 3}\n", "syntax", (1, 10)),
        ("a: b\x01c\n", "syntax", (1, 5)),
        ("a: '${NOT_SET}'\n", "env_unset", (1, 4)),
        ("a: ${NOT_SET\n", "bad_reference", (1, 4)),
        ("a: ${Mixed}\n", "bad_reference", (1, 4)),
        ("[" * (MAX_DEPTH + 1), "syntax", (1, MAX_DEPTH + 1)),
    ],
)
def test_what_is_refused_and_where(text, code, mark):
    finding = only_finding(text)
    assert (finding.code, finding.mark) == (code, mark)


def test_a_deep_nest_is_refused_at_once():
    began = time.process_time()
    assert only_finding("[" * 200_000).code == "syntax"
    assert time.process_time() - began < 1


def test_aliases_can_not_explode():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    finding = only_finding("\n".join(lines))
    assert finding.code == "alias_bomb"
    assert len(data("a: &a x\nb: [" + "*a, " * (ALIAS_FREE // 2) + "]")["b"]) == ALIAS_FREE // 2


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    _, (problem,) = check(path, resolver=RESOLVER, env={})
    assert (problem.code, problem.line, problem.col) == ("syntax", 2, 4)
    _, (problem,) = check(tmp_path / "none.yaml", resolver=RESOLVER, env={})
    assert problem.code == "unreadable"
    _, (problem,) = check(tmp_path, resolver=RESOLVER, env={})
    assert problem.code == "unreadable"


# ---------------------------------------------------------------------------------------------------- environment


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "1"),
        ("x${A}y${B:-z}", "x1yz"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY}", ""),
        ("${B:-}", ""),
        ("$${A}", "${A}"),
        ("${request.id}", "${request.id}"),
        ("$A", "$A"),
        ("${NESTED}", "${A} ${request.id}"),
    ],
)
def test_references(text, value):
    assert data(f'"{text}"', A="1", EMPTY="", NESTED="${A} ${request.id}") == value


def test_what_comes_out_of_the_environment_is_no_template():
    document = parse("x: 'a ${V} ${request.id} $${b}'", "x", {"V": "${request.path}"})
    (expanded, path) = document.templates[0]
    assert path == ("x",)
    assert expanded.template == "a $${request.path} ${request.id} $${b}"


ROUTES = "services: {a: 'http://a'}\nroutes: [{path: /x, service: a}]\n"


def test_numbers_may_come_from_the_environment():
    config = load(f"server: {{workers: '${{N}}', limits: {{header_count: '${{C}}'}}}}\n{ROUTES}", resolver=RESOLVER,
                  env={"N": "3", "C": "50"})  # fmt: skip
    assert config.server.workers == 3
    assert config.server.limits.header_count == 50


def test_a_template_where_none_is_read_is_an_error():
    _, problems = check(f"server: {{server_header: 'x ${{request.id}}'}}\n{ROUTES}", resolver=RESOLVER, env={})
    assert [(p.code, p.path, p.line) for p in problems] == [("bad_reference", "server.server_header", 1)]


# ---------------------------------------------------------------------------------------------------- positions


def test_routes_and_policies_know_where_they_stand():
    config = load(
        "services: {a: 'http://a'}\n"
        "policies:\n"
        "  - request_id\n"
        "  - cors: {origins: ['*']}\n"
        "routes:\n"
        "  - path: /x\n"
        "    service: a\n"
        "    policies: [coalesce]\n"
        "  - {path: /y, service: a}\n",
        resolver=RESOLVER,
        env={},
    )
    assert [(use.name, use.line, use.col) for use in config.policies] == [("request_id", 3, 5), ("cors", 4, 5)]
    assert [(route.name, route.line, route.col) for route in config.routes] == [("/x", 6, 5), ("/y", 9, 5)]
    (use,) = config.routes[0].policies
    assert (use.line, use.col) == (8, 16)


def test_a_mapping_means_what_its_file_would_mean():
    config = load({"services": {"a": "http://a"}, "routes": [{"path": "/x", "service": "a"}]}, resolver=RESOLVER)
    assert config.routes[0].service == "a"
