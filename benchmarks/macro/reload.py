"""Latency while 10,000 routes are reloaded, over and over, beside latency in quiet; by a load at a fixed rate.

The load must leave the cores some room, or queues would be measured and not the reload. Two workers, as with any
deployment that has two cores; nothing of the gateway is pinned: where the compiler of a new configuration runs, and
at whose cost, is part of the question. Load and backend have the load core.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from .backend import Backend, compiled
from .fastgw_config import ROOT
from .gateways import FASTGW_ENV
from .process import (
    LOAD_CORE,
    BenchError,
    Child,
    cores_busy,
    cpu_time,
    ended_children,
    finished_children,
    free_port,
    pinned,
    tree,
)

ROUTES = 10_000
WORKERS = 2
RATE = 2_000
CONNECTIONS = 16
START_SECONDS = 60
RELOAD_SECONDS = 60
LINE = re.compile(
    r"PACED requests=(\d+) errors=(\d+) p50_ns=(\d+) p99_ns=(\d+) p999_ns=(\d+) max_ns=(\d+) late_p99_ns=(\d+)"
)


def config(port: int, admin: int, upstream: int, version: int = 0) -> str:
    """A configuration of so many routes. What `version` changes is a route's timeout and one route's name."""
    tree = {
        "server": {
            "listeners": [{"bind": f"127.0.0.1:{port}"}],
            "workers": WORKERS,
            "limits": {"requests_per_connection": 1_000_000_000},
        },
        "admin": {"bind": f"127.0.0.1:{admin}"},
        "observability": {"access_log": {"enabled": False}},
        "services": {"service": f"http://127.0.0.1:{upstream}"},
        "routes": [
            {"path": f"/api/svc{i:06d}/{{id}}", "service": "service", "timeouts": {"total": f"{30 + version}s"}}
            for i in range(ROUTES)
        ]
        + [{"path": f"/version/{version}", "service": "service"}],
    }
    return yaml.dump(tree, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)


def parse(output: str) -> dict[str, float]:
    """The figures of paced.c. Raises BenchError when a request failed."""
    found = LINE.search(output)
    if not found:
        raise BenchError(f"paced said nothing that can be read: {output[-500:]}")
    requests, errors, p50, p99, p999, longest, late = (float(x) for x in found.groups())
    if errors or not requests:
        raise BenchError(f"not a measurement: {requests:.0f} requests, {errors:.0f} errors")
    return {"requests": requests, "p50": p50, "p99": p99, "p999": p999, "max": longest, "late_p99": late}


def used(family: Sequence[int]) -> float:
    """CPU seconds of a gateway's or the backend's lasting processes, and of those they waited for."""
    return cpu_time(family).seconds + ended_children(family)


def window(
    port: int, seconds: int, known: Sequence[int], meanwhile: Callable[[], None] | None = None
) -> dict[str, float]:
    """So many seconds of load; `meanwhile` is called again and again until it ends.

    `others` is what processes other than `known`, the load and ourselves used of the two cores.
    """
    started, busy, ours = time.monotonic(), cores_busy(), used(known) + time.process_time() + finished_children()
    figures = loaded(port, seconds, meanwhile)
    ours = used(known) + time.process_time() + finished_children() - ours
    others = max(0.0, cores_busy() - busy - ours) / (2 * (time.monotonic() - started))
    return figures | {"others": others}


def loaded(port: int, seconds: int, meanwhile: Callable[[], None] | None) -> dict[str, float]:
    words = [compiled("paced"), port, RATE, seconds, CONNECTIONS, ROUTES]
    with subprocess.Popen(pinned([str(word) for word in words], LOAD_CORE), stdout=subprocess.PIPE, text=True) as load:
        try:
            if meanwhile is not None:
                with ThreadPoolExecutor(1) as operator:
                    operator.submit(repeat, meanwhile, load).result()
            output, _ = load.communicate(timeout=seconds + 30)
        except BaseException:
            load.kill()
            raise
    return parse(output)


def repeat(meanwhile: Callable[[], None], load: subprocess.Popen[str]) -> None:
    """What the operator does, writing a file and waiting, is not the gateway's, and leaves the cores to others."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
    while load.poll() is None:
        meanwhile()


def ask(admin: int, method: str, path: str) -> tuple[int, bytes]:
    """Status and body of a request to the admin listener."""
    connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=RELOAD_SECONDS)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{method} {path}: {error!r}") from None
    finally:
        connection.close()


class Reloads:
    """Every call writes the other one of two files and has it taken; `seconds` holds how long each took."""

    def __init__(self, file: Path, admin: int, texts: tuple[str, str]) -> None:
        self.file, self.admin, self.texts = file, admin, texts
        self.seconds: list[float] = []
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
        self.file.write_text(self.texts[self.count % 2])
        started = time.monotonic()
        status, body = ask(self.admin, "POST", "/config/reload")
        if status != 200 or json.loads(body)["generation"] != self.count + 1:
            raise BenchError(f"reload {self.count} was answered with {status}: {body[:500]!r}")
        self.seconds.append(time.monotonic() - started)


def wait_until_ready(admin: int) -> None:
    """All workers serve: one that is still coming up would be replaced by the first reload."""
    deadline = time.monotonic() + START_SECONDS
    while ask(admin, "GET", "/ready")[0] != 200:
        if time.monotonic() > deadline:
            raise BenchError(f"not ready within {START_SECONDS} s")
        time.sleep(0.05)


def figures(backend: Backend, folder: Path, rounds: int, seconds: int, calm: float = 1.0) -> dict[str, float]:
    """Medians over `rounds` pairs of windows, quiet and reloading in turn.

    A pair in which others used more than `calm` of the cores is repeated, at most twice: chosen by the disturbance,
    never by the result.
    """
    folder.mkdir(parents=True)
    port, admin = free_port(), free_port()
    texts = (config(port, admin, backend.port), config(port, admin, backend.port, version=1))
    file = folder / "gateway.yaml"
    file.write_text(texts[0])
    command = [sys.executable, "-m", "fastgw", "run", str(file)]
    quiet, busy = [], []
    with Child("fastgw", command, cwd=ROOT, env=FASTGW_ENV) as gateway:
        gateway.wait_for_port(admin, START_SECONDS)
        wait_until_ready(admin)
        reloads = Reloads(file, admin, texts)
        reloads()                                    # the first one is to warm up
        reloads.seconds.clear()
        known = [*tree(gateway.pid), backend.pid]
        window(port, 1, known)
        for number in range(rounds):
            for _ in range(3):
                pair = {
                    reloading: window(port, seconds, known, reloads if reloading else None)
                    for reloading in ((False, True), (True, False))[number % 2]
                }
                if max(its["others"] for its in pair.values()) <= calm:
                    break
            quiet.append(pair[False])
            busy.append(pair[True])
    if not reloads.seconds:
        raise BenchError("no reload ended while it was measured")
    result: dict[str, float] = {
        f"{name}_{which}_us": statistics.median(its[which] for its in kind) / 1000
        for name, kind in (("quiet", quiet), ("reloading", busy))
        for which in ("p50", "p99", "p999", "max", "late_p99")
    }
    return result | {
        "reload_p99_ratio": statistics.median(b["p99"] / q["p99"] for q, b in zip(quiet, busy, strict=True)),
        "reloads": len(reloads.seconds),
        "reload_s": statistics.median(reloads.seconds),
        "requests": sum(its["requests"] for its in (*quiet, *busy)),
        "others": statistics.median(its["others"] for its in (*quiet, *busy)),
        "rate_per_s": RATE,
        "window_s": seconds,
        "rounds": rounds,
    }
