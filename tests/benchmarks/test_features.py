"""What each feature is measured with is a configuration that holds."""

import pytest
import yaml

from benchmarks import features
from benchmarks.macro.process import BenchError


@pytest.mark.parametrize("name", features.FEATURES)
def test_each_feature_is_switched_on_and_nothing_else(name):
    assert features.missing(name) == ""
    off, tree = (yaml.safe_load(features.render(one, 8080, 9001)) for one in ("off", name))
    assert len(tree["services"]["service"]["endpoints"]) == 2
    del off["admin"], tree["admin"]                  # a free port, each time another
    assert (tree == off) == (name == "off")


def test_what_a_version_does_not_have_is_left_out_and_what_is_wrong_is_not(monkeypatch):
    monkeypatch.setitem(features.FEATURES, "future", ("", {"telepathy": True}))
    assert "telepathy" in features.missing("future")
    monkeypatch.setitem(features.FEATURES, "wrong", ("", {"retry": {"attempts": "many"}}))
    with pytest.raises(BenchError, match="attempts"):
        features.missing("wrong")


def test_the_table_says_what_each_costs_more():
    text = features.as_table({"off": 22000.4, "retry": 22165.0})
    assert text.splitlines()[-1].split("|")[2:4] == ["                   22,165 ", " +165 "]


def test_a_feature_that_nobody_knows_is_named(capsys):
    with pytest.raises(SystemExit):
        features.main(["telepathy"])
    assert "unknown: telepathy" in capsys.readouterr().err


def test_what_the_same_commit_was_measured_for_is_kept(tmp_path, monkeypatch):
    file = tmp_path / "features.json"
    assert features.measured_before(file, 1000) == {}
    file.write_text('{"commit": "abc", "requests": 1000, "instructions": {"off": 1.0}}')
    for commit, requests, kept in (("abc", 1000, {"off": 1.0}), ("abc", 500, {}), ("abd", 1000, {})):
        monkeypatch.setattr(features, "commit", lambda commit=commit: commit)
        assert features.measured_before(file, requests) == kept
    file.write_text('{"commit": "abc+", "requests": 1000, "instructions": {"off": 1.0}}')
    monkeypatch.setattr(features, "commit", lambda: "abc+")
    assert features.measured_before(file, 1000) == {}
