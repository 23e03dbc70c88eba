"""ruff and mypy, as tests, so that `make test` is all there is to run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str) -> None:
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_ruff():
    run("ruff", "check", ".")


def test_mypy():
    run("mypy")


def test_a_declaration_beside_every_module():
    core = ROOT / "fastgw" / "_core"
    for path in core.glob("*.pyx"):
        assert path.with_suffix(".pxd").exists(), f"{path.name} has no .pxd"


def test_scripts_can_be_run():
    """A file that begins with `#!` may be started by its name; continuous integration does so."""
    named = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if named.returncode:
        pytest.skip("not a git checkout")
    for path in (ROOT / name for name in named.stdout.split("\n") if name):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(2) == b"#!":
                    assert os.access(path, os.X_OK), f"{path.relative_to(ROOT)} is a script that is not executable"
