"""docs/operations.md: every command, endpoint, metric and code it names is there."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastgw._core.codes import CODES
from fastgw._core.record import Stats
from fastgw.admin.api import INDEX
from fastgw.cli import VERBS, parser
from fastgw.observe.metrics import Collector, View

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
TEXT = PAGE.read_text()
RUNBOOKS = TEXT.partition("## Runbooks")[2]


def subparser(verb):
    (action,) = (action for action in parser((verb,))._actions if action.dest == "verb")
    return action.choices[verb]


def families():
    """The names of all metrics, of a gateway that has everything."""
    thing = SimpleNamespace(
        service="s", url="http://a", state="up", ejections=1, good=1, bad=1, up=True, age=1.0, endpoints=1, updates=1,
        failures=1, listener="l", name="n", kind="k", not_after=1, issuer="i", keys=1, fetches=1, requests=1, errors=1,
        quantile=lambda q: 1.0, scope="s", facts={"transitions": {"open": 1}, "refused": 1},
    )  # fmt: skip
    view = View(
        stats=[Stats()], certificates=[thing], discovery=[thing], health=[thing], keys=[thing],
        rollouts={"promoted": 1}, trial=(thing, thing), circuits=[thing],
        snapshots=[{
            "pools": [], "pid": 1, "limits": [{
                "scope": "s", "name": "n", "limit": 1, "in_flight": 1, "queued": 1, "refused": 1,
                "classes": [{"name": "c", "waiting": 1, "sheds": {}, "waited": [1] * 14, "waited_seconds": 1.0}],
            }],
            "pressure": [{"lag": 1.0, "sheds": {"c": 1}}],
        }],
    )  # fmt: skip
    return {family.name for family in Collector(view).collect()}


def test_commands_and_their_options():
    found = re.findall(r"`?fastgw ([a-z]+)((?: [^`\n]*)?)", TEXT)
    named = [(verb, rest) for verb, rest in found if verb in VERBS]
    assert {verb for verb, _ in named} >= {"run", "reload", "apply", "status", "drain", "check", "diff", "replay"}
    for quoted in re.findall(r"`fastgw ([a-z]+)", TEXT):
        assert quoted in VERBS, quoted
    for verb, rest in named:
        options = {option for action in subparser(verb)._actions for option in action.option_strings}
        for option in re.findall(r"(?<!\S)(--[a-z0-9-]+)", rest):
            assert option in options, f"fastgw {verb} has no {option}"


def test_endpoints():
    patterns = [re.compile(re.sub(r"\{[a-z]+\}", "[A-Za-z{}]+", path)) for path in {*INDEX["GET"], "/metrics"}]
    for path in re.findall(r"127\.0\.0\.1:9901(/[A-Za-z/]*)", TEXT) + re.findall(r"`GET (/[a-z/{}]+)`", TEXT):
        assert path == "/" or any(pattern.fullmatch(path) for pattern in patterns), path
    for path in re.findall(r"POST (/[a-z/]+)", TEXT):
        assert path in INDEX["POST"], path


@pytest.mark.parametrize("name", sorted(set(re.findall(r"fastgw_[a-z0-9_]+", TEXT))))
def test_metrics(name):
    known = families()
    assert name in known or re.sub(r"_(total|count|sum|bucket)$", "", name) in known


def test_codes():
    """Words in backquotes are codes of failures, or keys and values of the configuration."""
    configuration = (PAGE.parent / "configuration.md").read_text()
    other = {"canary_running", "restart_needed", "client_ip", "access_log", "record_headers", "record_cookies",
             "wrong_host"}  # fmt: skip
    for word in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", TEXT):
        known = word in CODES or word.startswith("fastgw_") or word in other or word in configuration
        assert known, word
    for prefix in re.findall(r"`([a-z]+_)\*`", TEXT):
        assert any(code.startswith(prefix) for code in CODES) or prefix == "fastgw_"


def test_there_is_a_runbook_for_each_of_the_common_incidents():
    titles = re.findall(r"^### (.+)$", RUNBOOKS, re.MULTILINE)
    assert len(titles) >= 11
    for title in titles:
        body = RUNBOOKS.partition(f"### {title}\n")[2].partition("\n### ")[0]
        assert "`fastgw" in body or "fastgw drain" in body, f"{title}: neither a command nor a metric"
