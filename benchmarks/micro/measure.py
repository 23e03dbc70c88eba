"""Builds the kernels against a tree's `fastgw._core` and times them.

    python -m benchmarks.micro [NAME ...]          this tree
    python benchmarks/micro/measure.py --tree DIR  another one, built in place, with the kernels that lie here

A kernel is `kernels/NAME.pyx`, one for each module of `fastgw/_core`. It reaches the module's C functions
through its .pxd: the modules carry no benchmark code, and lists `CASES`: pairs of a name and a function
`f(n)` that does the operation n times. A kernel that does not build against a tree is named and left out.

Imports nothing of this repository: the tree that is measured is the only `fastgw` it may see.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LEAST_NS = 20_000_000
"""A timed run is at least this long: far above the clock's resolution, short enough to miss disturbances."""


def calibrate(operation: Callable[[int], object], least_ns: int = LEAST_NS) -> int:
    """How many operations take about `least_ns`."""
    n = 1
    while True:
        start = time.perf_counter_ns()
        operation(n)
        took = time.perf_counter_ns() - start
        if took >= least_ns:
            return n
        n = n * 10 if took * 20 < least_ns else max(n + 1, round(n * least_ns / max(took, 1) * 1.1))


def time_operation(operation: Callable[[int], object], repeats: int = 7, least_ns: int = LEAST_NS) -> dict[str, float]:
    """ns for one operation: the best run (what the code costs) and the median (with what disturbed it)."""
    n = calibrate(operation, least_ns)
    runs = []
    for _ in range(repeats):
        start = time.perf_counter_ns()
        operation(n)
        runs.append((time.perf_counter_ns() - start) / n)
    return {"best_ns": min(runs), "median_ns": statistics.median(runs)}


def build(source: Path, tree: Path) -> Path:
    """The compiled kernel. Raises RuntimeError, with what the compiler said, when it does not build."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    folder = tree / ".build" / "micro"
    said = io.StringIO()
    extension = Extension(f"kernel_{source.stem}", [str(source)], extra_compile_args=["-O2", "-g0"])
    directives = {"language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True}
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            modules = cythonize(
                [extension],
                include_path=[str(tree)],
                build_dir=str(folder),
                compiler_directives=directives,
                # the tree's interface decides, not the age of the kernel's source
                force=True,
                quiet=True,
            )
            command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
            command.build_lib = command.build_temp = str(folder)
            command.ensure_finalized()
            command.run()
            return Path(command.get_ext_fullpath(extension.name))
    except Exception as error:  # Cython's own, or whatever setuptools' compiler class raises
        raise RuntimeError(f"{error}\n{said.getvalue()[-1500:]}") from error


def load(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(tree: Path, names: Sequence[str], repeats: int) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Figures by "kernel: case", and why kernels were left out."""
    figures: dict[str, dict[str, float]] = {}
    left_out: dict[str, str] = {}
    for source in sorted((HERE / "kernels").glob("*.pyx")):
        if names and source.stem not in names:
            continue
        try:
            kernel = load(build(source, tree), f"kernel_{source.stem}")
        except Exception as error:  # another interface may show itself at the first call only
            left_out[source.stem] = f"{type(error).__name__}: {error}"
            continue
        for case, operation in kernel.CASES:
            figures[f"{source.stem}: {case}"] = time_operation(operation, repeats)
    return figures, left_out


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro", description=__doc__.split("\n")[0])
    known = sorted(path.stem for path in (HERE / "kernels").glob("*.pyx"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--tree", type=Path, default=ROOT, help="a checkout, built in place")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each case (%(default)s)")
    parser.add_argument("--json", action="store_true", help="for scripts")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.names) - set(known)):
        parser.error(f"unknown: {', '.join(unknown)} (there are {', '.join(known)})")
    tree = args.tree.resolve()
    sys.path.insert(0, str(tree))
    figures, left_out = measure(tree, args.names, args.repeats)
    if args.json:
        print(json.dumps({"figures": figures, "left_out": left_out}))
        return 0
    for name, its in figures.items():
        print(f"{name:<58} {its['best_ns']:10.1f} ns   median {its['median_ns']:10.1f}")
    for name, why in left_out.items():
        print(f"{name}: left out, does not build against {tree}:\n{why}", file=sys.stderr)
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
