"""Imports go one way. The arrows are those of ARCHITECTURE.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fastgw"

# What each room may import, beside itself.
ALLOWED = {
    "_core": set(),
    "config": {"_core"},
    "store": {"config", "_core"},
    "policies": {"protocols", "store", "config", "_core"},
    "upstreams": {"protocols", "store", "config", "_core"},
    "protocols": {"config", "_core"},
    "observe": {"store", "config", "_core"},
    "plan": {"policies", "upstreams", "protocols", "observe", "store", "config", "_core"},
    "server": {"plan", "policies", "upstreams", "protocols", "observe", "store", "config", "_core"},
    "admin": {"server", "plan", "policies", "upstreams", "protocols", "observe", "store", "config", "_core"},
    "testing": {"_core", "config", "protocols", "policies", "plan", "server"},
}


def rooms_imported(path: Path) -> set[str]:
    """The rooms of fastgw that a Python file imports at run time (TYPE_CHECKING blocks do not count)."""
    tree = ast.parse(path.read_text())
    found = set()
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped |= {id(inner) for child in node.body for inner in ast.walk(child)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not used here"
            whole = node.module == "fastgw"
            names = [f"fastgw.{alias.name}" for alias in node.names] if whole else [node.module]
        for name in names:
            parts = name.split(".")
            if parts[0] == "fastgw" and len(parts) > 1:
                found.add(parts[1])
    return found


def python_files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows(path):
    room = path.relative_to(PACKAGE).parts[0]
    if room == "cli":
        return
    rooms = {other for other in rooms_imported(path) if (PACKAGE / other).is_dir()}
    wrong = rooms - {room} - ALLOWED[room]
    assert wrong == set(), f"{room} may not import {sorted(wrong)}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "policies").glob("*.py")), ids=lambda path: path.name)
def test_no_policy_imports_a_policy(path):
    if path.name in ("__init__.py", "base.py"):
        return
    helpers = {"base"} | {p.stem for p in (PACKAGE / "policies").glob("_*.py")}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fastgw.policies."):
            assert node.module.split(".")[2] in helpers


def test_core_imports_nothing_of_the_rest():
    """Also in Cython: cimport and import lines of _core name _core only."""
    for path in sorted((PACKAGE / "_core").iterdir()):
        if path.suffix in (".pyx", ".pxd", ".py"):
            for line in path.read_text().splitlines():
                text = line.strip()
                if text.startswith(("from fastgw", "import fastgw")):
                    assert text.split()[1].startswith("fastgw._core"), f"{path.name}: {text}"


def test_config_and_policies_import_without_the_server():
    """Each room can be imported alone, in a fresh process."""
    for room in ("config", "store", "protocols", "plan", "policies", "observe", "server", "admin", "cli", "testing"):
        subprocess.run([sys.executable, "-c", f"import fastgw.{room}"], check=True, cwd=ROOT)
