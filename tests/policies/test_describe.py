"""docs/policies.md is made from the schemas, and every option says what it does."""

from pathlib import Path

import pytest

from fastgw.policies import BUILTIN, resolve
from fastgw.policies.describe import describe

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"


def test_the_page_is_fresh():
    assert PAGE.read_text() == describe(), "run: python -m fastgw.policies.describe > docs/policies.md"


@pytest.mark.parametrize("name", BUILTIN)
def test_every_option_has_a_description(name):
    policy = resolve(name)
    assert policy.name == name
    assert all(field.description for field in policy.Options.model_fields.values())
    assert "Failure: " in policy.__doc__ or "401 when" in policy.__doc__
