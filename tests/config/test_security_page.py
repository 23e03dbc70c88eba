"""The examples of docs/security.md are configurations."""

import re
from pathlib import Path

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S)


class Kept:
    """In the place of Vault."""

    def read(self, ref, room):
        assert room.vault is not None
        return "a secret of more than 32 bytes, kept elsewhere", b"1", ""


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_is_right(number):
    config, problems = check(EXAMPLES[number], resolver=RESOLVER, env={}, secrets=Kept())
    assert [str(problem) for problem in problems] == [] and config is not None


def test_there_are_examples():
    assert len(EXAMPLES) >= 5
