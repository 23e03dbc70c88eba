"""docs/tls.md is true: its configurations are taken, with files as they are told there."""

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from fastgw.config import check
from fastgw.config.describe import schema
from fastgw.config.report import as_excerpts
from fastgw.policies import RESOLVER
from fastgw.testing.certificates import Authority

PAGE = (Path(__file__).parents[2] / "docs" / "tls.md").read_text()
EDITOR = jsonschema.Draft202012Validator(schema(RESOLVER))
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_has_no_problem(number, tmp_path):
    pki = Authority(tmp_path)
    pki.ocsp(pki.leaf("a.example"))
    pki.leaf("a.example", kind="rsa", file="a-rsa")
    pki.leaf("b.example", passphrase="open sesame")
    pki.leaf("gateway", client=True, passphrase="open sesame")
    pki.crl()
    file = tmp_path / "gateway.yaml"
    file.write_text(EXAMPLES[number])
    config, problems = check(file, resolver=RESOLVER, env={})
    assert [str(problem) for problem in problems] == []
    assert config.tls.listeners or config.tls.services


@pytest.mark.parametrize("example", EXAMPLES)
def test_editors_take_the_examples(example):
    assert [error.message for error in EDITOR.iter_errors(yaml.safe_load(example))] == []


@pytest.mark.parametrize(
    ("tls", "valid"),
    [
        ("{self_signed: true, min_version: 1.2, redirect_http: 8080, ciphers: 'A:B'}", True),
        ("{self_signed: [a.example], redirect_http: '127.0.0.1:8080', ciphers: [A, B]}", True),
        ("{self_signed: 3}", False),
        ("{self_signed: true, min_version: '1.1'}", False),
        ("{certificates: [{cert: a}]}", False),
    ],
)
def test_editors_know_the_short_forms(tls, valid):
    tree = yaml.safe_load(f"server: {{listeners: [{{bind: ':8443', tls: {tls}}}]}}")
    assert EDITOR.is_valid(tree) == valid


def test_an_excerpt_shows_no_passphrase():
    text = (
        "server: {listeners: [{bind: ':8443', tls: {certificates: [{cert: /no, key: /no, passphrase: open-sesame}]}}]}"
        "\nservices: {up: 'http://127.0.0.1:1'}\nroutes: [{path: /*, service: up}]\n"
    )
    _, problems = check(text, resolver=RESOLVER, env={})
    shown = as_excerpts(problems, text, RESOLVER)
    assert "/no" in shown
    assert "sesame" not in shown


def test_there_are_examples():
    assert len(EXAMPLES) == 4
