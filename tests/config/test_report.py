"""Problems are told to people and programs, and no secret with them."""

import json
import subprocess
import sys

import pytest

from fastgw.config import check
from fastgw.config.errors import did_you_mean
from fastgw.config.report import as_excerpts, as_json, as_lines
from fastgw.policies import RESOLVER

SECRET = "hunter2hunter2"
HEAD = "services: {a: 'http://a'}\nroutes:\n  - path: /x\n    service: a\n"


def every_form(text, **env):
    config, problems = check(text, resolver=RESOLVER, env=env, file="gw.yaml")
    assert problems
    return (
        config,
        problems,
        "".join((as_lines(problems), as_json(problems), as_excerpts(problems, text, RESOLVER), repr(problems))),
    )


@pytest.mark.parametrize(
    "policies",
    [
        f"[{{jwt: {{secret: {SECRET}, sekret: {SECRET}}}}}]",
        f"[{{jwt: {{secret: [{SECRET}], algorithm: XX}}}}]",
        f"[{{jwt: {{secret: {{x: {SECRET}}}}}}}]",
        f"[{{jwt: {{scret: {SECRET}, secre: {SECRET}}}}}]",
        f"[{{jwtt: {{secret: {SECRET}}}}}]",
        f"[{{jwt: {{secret: '{SECRET}', algorithm: RS256, unknown: 1}}}}]",
        f"[{{jwt: {{algorithm: HS999, secret: {SECRET}}}}}]",
        f"[{{jwt: {{secret: file:/nowhere/{SECRET[:0]}x}}}}, {{jwt: {{secret: {SECRET}, x: 1}}}}]",
    ],
)
def test_a_secret_in_a_policy_is_in_no_report(policies):
    _, _, text = every_form(f"{HEAD}    policies: {policies}\n")
    assert SECRET not in text


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAD}admin: {{token: {SECRET}, bnd: x}}\n",
        f"{HEAD}admin: {{tokn: {SECRET}}}\n",
        f"{HEAD}admin: {{bind: 0.0.0.0:1, tokn: {SECRET}}}\n",
        f"{HEAD}consumers: [{{name: a, keys: [{SECRET}]}}]\n",
        f"{HEAD}admin:\n  token: '{SECRET}\n  bind: x\n",
        f"{HEAD}admin: {{token: {SECRET}, bind: 127.0.0.1:1]\n",
        f"{HEAD}admin:\n  token: |\n    {SECRET}\n   bad: [\n",
        f"admin: {{token: {SECRET}, token: {SECRET}}}\n{HEAD}",
    ],
)
def test_a_secret_elsewhere_is_in_no_report(text):
    _, _, shown = every_form(text)
    assert SECRET not in shown


@pytest.mark.parametrize(
    "key", ["workers", "path_normalization", "listeners", "trusted_proxies", "limits", "merge_slashes"]
)
def test_what_the_environment_holds_is_in_no_report(key):
    _, problems, shown = every_form(f"{HEAD}server: {{{key}: '${{V}}'}}\n", V=SECRET)
    assert any(problem.path == f"server.{key}" for problem in problems)
    assert SECRET not in shown


def test_an_excerpt_points_at_the_place():
    text = f"{HEAD}    methods: [GET]\n    trailing_slash: redirct\n"
    _, problems, _ = every_form(text)
    assert as_excerpts(problems, text, RESOLVER) == (
        "error[bad_choice] routes[0].trailing_slash: 'redirct' is not one of the choices\n"
        "  --> gw.yaml:6:21\n"
        "     6 |     trailing_slash: redirct\n"
        "                             ^\n"
        "  expected: 'strict', 'redirect' or 'ignore'\n"
        "  hint: did you mean 'redirect'?\n"
    )


def test_json_has_every_part():
    _, problems, _ = every_form("routes: [{path: /x, service: a}]\n")
    rows = json.loads(as_json(problems))
    assert {"severity", "code", "file", "line", "col", "path", "message", "expected", "hint"} == set(rows[0])
    assert rows[0]["code"] == "unknown_service"


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "fastgw", *arguments], capture_output=True, text=True, timeout=60)


def test_exit_codes(tmp_path):
    good, warned, bad = tmp_path / "good.yaml", tmp_path / "warned.yaml", tmp_path / "bad.yaml"
    good.write_text(HEAD)
    warned.write_text(HEAD.replace("{a:", "{b: 'http://b', a:"))
    bad.write_text("routes: 1\n")
    assert run("check", str(good)).returncode == 0
    assert run("check", str(warned)).returncode == 0
    assert run("check", "--strict-warnings", str(warned)).returncode == 1
    assert run("check", str(bad)).returncode == 1
    assert run("check", str(tmp_path / "none.yaml")).returncode == 1
    assert run("check").returncode == 2
    assert run("nonsense").returncode == 2
    result = run("check", "--format", "json", str(bad))
    assert result.returncode == 1
    assert json.loads(result.stdout)[0]["path"] == "routes"


def test_an_error_page_for_a_code_that_does_not_exist_is_told():
    _, problems, _ = every_form(f"{HEAD}server: {{error_pages: {{rate_limitd: x, '404': y, 5xx: z}}}}\n")
    assert [(p.severity, p.code, p.path, p.hint) for p in problems] == [
        ("warning", "bad_choice", "server.error_pages.rate_limitd", "did you mean 'rate_limited'?")
    ]


@pytest.mark.parametrize("word, known, hint", [
    ("http2", ("http/1.1", "h2", "h2c", "auto"), "did you mean 'h2'?"),
    ("gRPC", ("http/1.1", "h2", "h2c", "auto"), "did you mean 'h2c'?"),
    ("HTTP", ("http", "tcp"), "did you mean 'http'?"),
    ("1.1", ("1.2", "1.3"), ""),
    ("405", ("404", "403"), ""),
    ("redirct", ("strict", "redirect"), "did you mean 'redirect'?"),
])  # fmt: skip
def test_what_may_be_meant(word, known, hint):
    assert did_you_mean(word, known) == hint
