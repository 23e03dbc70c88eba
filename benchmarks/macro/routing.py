"""The routing table: what a look-up costs in a small and in a large one, and what compiling a large one costs.

python -m benchmarks.macro.routing compile N     one line of JSON; a process of its own, so that its peak is its own
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from .fastgw_config import ROOT
from .process import GATEWAY_CORE, BenchError, memory, run

SMALL, LARGE = 10, 100_000
COMPILE_SECONDS = 300


def tree_of(count: int) -> dict[str, Any]:
    """A configuration of so many routes /api/svcNNNNNN/{id}, as the YAML reader gives it."""
    return {
        "services": {"service": "http://127.0.0.1:9001"},
        "routes": [{"path": f"/api/svc{i:06d}/{{id}}", "service": "service"} for i in range(count)],
    }


def compile_here(count: int) -> dict[str, float]:
    """Seconds of each step, and by how many bytes compiling makes the process grow at its peak.

    read     YAML text to plain data, by PyYAML's C loader: stated apart, it is not ours
    check    plain data to the checked tree
    compile  the checked tree to the specification of a plan and on to the plan that a worker serves
    """
    import yaml

    from fastgw._core.engine import Engine
    from fastgw._core.record import Stats
    from fastgw.config import check
    from fastgw.plan import Host, build_now, compile_spec
    from fastgw.policies import RESOLVER

    tree = tree_of(count)
    text = yaml.safe_dump(tree)
    start = time.perf_counter()
    yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    read = time.perf_counter() - start
    del text

    start = time.perf_counter()
    config, problems = check(tree, resolver=RESOLVER)
    checked = time.perf_counter() - start
    if config is None:
        raise BenchError(f"the configuration is refused: {problems[:3]}")
    gc.collect()

    stats = Stats(bytearray(Stats.size(2, 2)), 2, 2)
    engine = Engine(asyncio.new_event_loop(), stats)
    before = peak_from_here()
    start = time.perf_counter()
    spec = compile_spec(config)
    specified = time.perf_counter() - start
    build_now(spec, engine, Host(strict=True))
    compiled = time.perf_counter() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {
        "routes": count,
        "read_s": read,
        "check_s": checked,
        "spec_s": specified,
        "compile_s": compiled,
        "compile_growth_bytes": max(0, grown),
    }


def peak_from_here() -> int:
    """Resident bytes now; the kernel's record of the peak starts anew (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("self").resident


def look_ups() -> dict[str, float]:
    """ns of a look-up in the small and in the large table, and their ratio; by the micro-benchmark of `route`."""
    words = [sys.executable, str(ROOT / "benchmarks" / "micro" / "measure.py"), "--json", "route"]
    result = json.loads(run(words, 300, core=GATEWAY_CORE))
    if result["left_out"]:
        raise BenchError(f"the kernel does not build: {result['left_out']}")
    best = {name.split(", ")[-1]: its["best_ns"] for name, its in result["figures"].items()}
    small, large = best[f"{SMALL} routes"], best[f"{LARGE:,} routes"]
    return {"look_up_small_ns": small, "look_up_large_ns": large, "look_up_ratio": large / small}


def compile_figures(count: int = LARGE) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.macro.routing", "compile", str(count)]
    figures: dict[str, float] = json.loads(
        run(words, COMPILE_SECONDS, core=GATEWAY_CORE, env={"PYTHONPATH": str(ROOT)})
    )
    return figures


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "compile":
        sys.exit("this module is run by the harness")
    try:
        print(json.dumps(compile_here(int(sys.argv[2]))))
    except BenchError as failure:
        sys.exit(str(failure))
