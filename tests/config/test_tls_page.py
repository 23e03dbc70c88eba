"""docs/tls.md is true: its configurations are taken, with files as they are told there."""

import re
from pathlib import Path

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER
from fastgw.testing.certificates import Authority

PAGE = (Path(__file__).parents[2] / "docs" / "tls.md").read_text()
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


def test_there_are_examples():
    assert len(EXAMPLES) == 4
