"""Drawings in the docs are those of the code's tables."""

from pathlib import Path

import pytest

from fastgw._core.breaker import STATES
from fastgw.config.drawings import DRAWINGS, circuit_states, drawn

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", DRAWINGS)
def test_they_are_current(name):
    text = (DOCS / name).read_text()
    for title in DRAWINGS[name]:
        assert f"<!-- drawn: {title} -->\n```mermaid\n" in text
    assert drawn(text, name) == text, "run: python -m fastgw.config.describe"


def test_all_states_are_drawn():
    assert all(f" {state}" in circuit_states() for state in STATES)
