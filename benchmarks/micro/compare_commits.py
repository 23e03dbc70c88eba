"""Two commits side by side: ns per operation of each module, and instructions per proxied request.

    python -m benchmarks.micro.compare_commits A B [NAME ...]

Each commit is built in a worktree of its own below the system's temporary folder; both run the kernels of the
tree you stand in. A ratio above 1 means that B is slower. Nothing is written to your tree.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.macro import instructions
from benchmarks.macro.backend import Backend
from benchmarks.macro.gateways import GATEWAYS
from benchmarks.macro.process import GATEWAY_CORE, BenchError, pinned, say
from benchmarks.macro.report import table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD_SECONDS, MEASURE_SECONDS = 1200, 900


def command(words: Sequence[str], cwd: Path, seconds: float) -> str:
    """What it says on stdout; BenchError with the end of what it said when it fails."""
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{' '.join(words)} took longer than {seconds:.0f} s") from None
    if done.returncode:
        raise BenchError(f"{' '.join(words)} failed: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def resolve(name: str) -> str:
    """The full hash of a commit by any of its names."""
    return command(["git", "rev-parse", "--verify", name + "^{commit}"], ROOT, 20).strip()


@contextlib.contextmanager
def built(commit: str, folder: Path) -> Iterator[Path]:
    """A worktree of the commit with its extension modules built, removed on the way out."""
    tree = folder / commit.replace("/", "_")
    command(["git", "worktree", "add", "--detach", str(tree), commit], ROOT, 60)
    try:
        say(f"building {commit}")
        build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        command(["nice", *build], tree, BUILD_SECONDS)
        yield tree
    finally:
        command(["git", "worktree", "remove", "--force", str(tree)], ROOT, 60)


def micro(tree: Path, names: Sequence[str]) -> dict[str, float]:
    words = [sys.executable, str(HERE / "measure.py"), "--json", "--tree", str(tree), *names]
    result = json.loads(command(pinned(words, GATEWAY_CORE), tree, MEASURE_SECONDS))
    for name in result["left_out"]:
        say(f"  {name}: does not build against {tree.name}, left out")
    return {name: its["best_ns"] for name, its in result["figures"].items()}


WHOLE = {"plain": "a proxied request", "policy": "one through the policies", "static": "a static answer"}
"""Workloads whose instructions per request are counted: what the modules without a kernel of their own cost."""


def whole(tree: Path, folder: Path) -> dict[str, float]:
    """Instructions per request, by callgrind; nothing where that commit can not be measured so."""
    gateway = dataclasses.replace(GATEWAYS["fastgw"], env={"PYTHONPATH": str(tree)})
    counts: dict[str, float] = {}
    try:
        with Backend("c", folder / "backend") as backend:
            for workload, what in WHOLE.items():
                counts[f"instructions of {what}"] = instructions.per_request(
                    gateway, workload, backend, folder / workload
                )
    except (BenchError, OSError) as error:
        say(f"  instructions of {tree.name}: {error}")
    return counts


def ratios(a: Mapping[str, float], b: Mapping[str, float]) -> list[list[str]]:
    """Rows of name, A, B, B / A for what both have, in A's order."""
    return [[name, f"{a[name]:,.1f}", f"{b[name]:,.1f}", f"{b[name] / a[name]:.2f}"] for name in a if name in b]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    parser.add_argument("names", nargs="*", metavar="NAME", help="kernels; all when none is named")
    parser.add_argument("--no-instructions", action="store_true", help="leave callgrind out")
    args = parser.parse_args(argv)
    figures: list[dict[str, float]] = []
    try:
        with tempfile.TemporaryDirectory(prefix="fastgw-commits-") as name, contextlib.ExitStack() as stack:
            folder = Path(name)
            commits = [resolve(name) for name in (args.a, args.b)]
            trees = [stack.enter_context(built(commit, folder / str(i))) for i, commit in enumerate(commits)]
            for side, tree in enumerate(trees):
                say(f"measuring {(args.a, args.b)[side]}")
                its = micro(tree, args.names)
                if not args.no_instructions:
                    its |= whole(tree, folder / f"run{side}")
                figures.append(its)
    except BenchError as error:
        say(f"compare_commits: {error}")
        return 1
    print(table(["ns per operation (best run)", args.a, args.b, "B / A"], ratios(*figures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
