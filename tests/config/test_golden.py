"""One text file per case: a configuration, a line of dashes, and exactly what `check` says about it."""

from pathlib import Path

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER

CASES = sorted((Path(__file__).parent / "golden").glob("*.txt"))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_golden(case):
    text, _, expected = case.read_text().partition("\n----------\n")
    config, problems = check(text + "\n", resolver=RESOLVER, env={"SET": "value"}, file="gateway.yaml")
    assert [str(problem) for problem in problems] == expected.strip().splitlines()
    assert (config is None) == any(problem.severity == "error" for problem in problems)


def test_there_are_cases():
    assert len(CASES) >= 12
