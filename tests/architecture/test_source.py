"""ruff and mypy, as tests, so that `make test` is all there is to run."""

import subprocess
import sys
from pathlib import Path

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
