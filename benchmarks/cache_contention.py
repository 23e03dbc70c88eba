"""How long workers wait for each other in the cache's storage: `python -m benchmarks.cache_contention`.

Processes that share one storage do nothing but ask it, and store what they miss: by a Zipf law over so many things that
a fifth has to be stored (answers of 2 KiB, and each evicts another), as fast as Python calls it. In a gateway a miss
costs a request to a service besides, many times what is done here under the lock; so what is told is the worst that
could be, not what is to be expected. Look-ups take no lock.

`time waiting` is what the storage itself counts (`waited_us` of `GET /cache`), as a share of the time of all processes;
`given up` how many changes were not made because the lock could not be had within 20 ms. Both are the scheduler's: a
process that holds the lock and has to leave the CPU to another keeps it for so long. So they grow with what else the
machine does (`time on a CPU` is what the processes got of it) and with more processes than cores. Results go to
benchmarks/results/cache-contention.json and .md.
"""

from __future__ import annotations

import argparse
import json
import mmap
import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

from fastgw._core.cache_access import Access
from fastgw._core.cache_store import Storage

from .cache_traces import RESULTS, zipf
from .macro.facts import gather
from .macro.report import table

MEMORY = 32 * 1024 * 1024
BODY = bytes(2048)


def work(buffer: mmap.mmap, seed: int, asked: list[bytes], seconds: float, ready: Any, results: Any) -> None:
    access = Access(Storage(buffer))
    access.storage.attach()
    ready.wait()
    began, cpu, done, stored = time.monotonic(), time.process_time(), 0, 0
    while time.monotonic() - began < seconds:
        for name in asked[(done + seed * 7919) % len(asked) :][:200]:
            hit = access.get(name)
            if hit is None:
                stored += access.put(name, BODY) == "ok"
            else:
                hit.release()
        done += 200
    results.put((done, stored, time.monotonic() - began, time.process_time() - cpu))


def run(processes: int, seconds: float) -> dict[str, float]:
    context = multiprocessing.get_context("fork")
    buffer = mmap.mmap(-1, Storage.size(MEMORY))
    Storage.format(buffer, MEMORY)
    asked = [b"cdn.example.com/objects/%d" % name for name in zipf(random.Random(1), 0.9, 200_000)]
    filled = Access(Storage(buffer))
    filled.storage.attach()
    for name in asked:
        hit = filled.get(name)
        if hit is None:
            filled.put(name, BODY)
        else:
            hit.release()
    waited = filled.stats()["waited_us"]
    ready, results = context.Barrier(processes), context.Queue()
    given = [(buffer, number, asked, seconds, ready, results) for number in range(processes)]
    children = [context.Process(target=work, args=one) for one in given]
    for child in children:
        child.start()
    told = [results.get(timeout=seconds * 60 + 60) for _ in children]
    for child in children:
        child.join()
    stats = filled.stats()
    spent = sum(one[2] for one in told)
    return {
        "processes": processes,
        "requests_per_s": sum(one[0] / one[2] for one in told),
        "stored": sum(one[1] for one in told) / sum(one[0] for one in told),
        "cpu_us": sum(one[3] for one in told) / sum(one[0] for one in told) * 1e6,
        "on_cpu": sum(one[3] for one in told) / spent,
        "waiting": (stats["waited_us"] - waited) / 1e6 / spent,
        "busy": stats["busy"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    facts = gather()
    rows = [run(processes, given.seconds) for processes in given.processes]
    text = table(
        ("processes", "requests/s", "of them stored", "CPU µs each", "time on a CPU", "time waiting", "given up"),
        [
            (
                *(str(row["processes"]), f"{row['requests_per_s']:,.0f}", f"{row['stored']:.1%}"),
                *(f"{row['cpu_us']:.1f}", f"{row['on_cpu']:.0%}", f"{row['waiting']:.2%}", f"{row['busy']:.0f}"),
            )
            for row in rows
        ],
    )
    print(text)
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "cache-contention.json").write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n")
    note = (
        f"`python -m benchmarks.cache_contention`, commit `{facts['commit']}`, {os.cpu_count()} cores, load average "
        f"{facts['load_average_at_start']:.1f} at the start. What is done is told at the head of the module."
    )
    (given.results / "cache-contention.md").write_text(f"# Workers that wait for each other\n\n{note}\n\n{text}\n")


if __name__ == "__main__":
    main()
