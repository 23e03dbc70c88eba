"""What a gateway is started for, and how its configuration is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .process import free_port

TEMPLATES = Path(__file__).resolve().parent / "templates"
ORIGIN = "https://app.example.com"
UNLIMITED = 1_000_000_000
"""A rate per key and second that no load reaches: the limiter does its whole work and admits."""


def fill(template: str, **values: object) -> str:
    """The template with every @NAME@ replaced. Raises ValueError when a name is left over or not used."""
    text = (TEMPLATES / template).read_text()
    for name, value in values.items():
        if f"@{name}@" not in text:
            raise ValueError(f"{template} has no @{name}@")
        text = text.replace(f"@{name}@", str(value))
    left = sorted(set(re.findall(r"@[A-Z]+@", text)))
    if left:
        raise ValueError(f"{template}: not filled in: {', '.join(left)}")
    return text


@dataclass(slots=True)
class Setup:
    """What a gateway is started for."""

    workload: str
    upstream: int
    folder: Path
    routes: int = 1000
    rate: int = UNLIMITED
    port: int = field(default_factory=free_port)
    single: bool = False
    """One process and no supervisor, for callgrind."""

    def put(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


Write = Callable[[Setup], Sequence[str]]
"""Writes the configuration into the setup's folder and returns the command."""
