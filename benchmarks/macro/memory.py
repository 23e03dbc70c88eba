"""Memory: private bytes of a worker on the example configuration, an idle connection's share, a slow reader.

User memory is what smaps_rollup calls private. The kernel's (socket buffers, epoll entries) is in none of it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from . import client
from .backend import Backend
from .fastgw_config import ROOT
from .gateways import FASTGW_ENV, Gateway
from .process import LOAD_CORE, BenchError, Child, cpu_time, free_port, memory, pinned, tree
from .setups import Setup
from .tokens import token

EXAMPLE = ROOT / "config.example.yaml"
REQUESTS = 10_000
IDLE_CONNECTIONS = 10_000
IDLE_TLS_CONNECTIONS = 2_000
ITEM = [client.request("/api/item")]
SLOW_BYTES = 1 << 30
SLOW_BYTES_PER_S = 64 << 20


def workers(pid: int, serve: Callable[[], None]) -> list[int]:
    """The processes of the tree that use a tenth or more of its CPU time while `serve` runs, the busiest first.

    Supervisors and helpers, which may well be larger, do next to nothing then. To be called when a first answer
    has come: before that the workers need not exist.
    """
    family = tree(pid)
    before = {p: cpu_time([p]).seconds for p in family}
    serve()
    used = {p: cpu_time([p]).seconds - before[p] for p in family}
    least = sum(used.values()) / 10
    return sorted((p for p in family if used[p] >= least), key=lambda p: -used[p])


def idle_connections(
    gateway: Gateway, backend: Backend, folder: Path, count: int = IDLE_CONNECTIONS, tls: bool = False
) -> dict[str, float]:
    """Private bytes per keep-alive connection that has had one answer and is now idle."""
    setup = Setup("tls" if tls else "memory", backend.port, folder)
    with gateway.start(setup, core=None) as child:
        client.exactly(setup.port, 100, ITEM, tls=tls)
        (worker,) = workers(child.pid, lambda: client.exactly(setup.port, 5000, ITEM, connections=64, tls=tls))
        before = memory(worker)
        how = "hold-tls" if tls else "hold"
        holder = [sys.executable, "-m", "benchmarks.macro.memory", how, str(setup.port), str(count)]
        with subprocess.Popen(
            pinned(holder, LOAD_CORE), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as held:
            try:
                assert held.stdout is not None
                said = held.stdout.readline().strip()  # the holder has a deadline of its own
                if said != "held":
                    raise BenchError(f"could not hold {count} connections to {gateway.name}: {said}")
                after = memory(worker)
            finally:
                held.kill()
    each = (after.private - before.private) / count
    if tls:
        return {"bytes_per_idle_tls_connection": each, "idle_tls_connections": count}
    return {
        "bytes_per_idle_connection": each,
        "idle_connections": count,
        "private_bytes_before": before.private,
    }


def hold(port: int, count: int, tls: bool) -> None:
    """A process of its own: opens connections, has one answer on each, holds them until stdin ends."""
    deadline = time.monotonic() + 120
    lines = []
    for source in client.sources(count):
        line = client.connect(port, source, tls)
        line.sendall(client.request("/api/item"))
        client.read_answer(line)
        lines.append(line)
        if time.monotonic() > deadline:
            raise BenchError(f"only {len(lines)} connections within two minutes")
    print("held", flush=True)
    sys.stdin.read()


def slow_reader(
    gateway: Gateway, backend: Backend, folder: Path, size: int = SLOW_BYTES, rate: float = SLOW_BYTES_PER_S
) -> dict[str, float]:
    """How much RSS grows at most while one client reads a big answer more slowly than it comes."""
    setup = Setup("memory", backend.port, folder)
    with gateway.start(setup, core=None) as child:
        client.exactly(setup.port, 100, ITEM)
        (worker,) = workers(child.pid, lambda: client.exactly(setup.port, 5000, ITEM))
        before = peak = memory(worker).resident
        next_look = 0.0
        until = time.monotonic() + size / rate * 3 + 30
        for _ in client.read_slowly(setup.port, f"/api/bytes/{size}", size, rate, until):
            if time.monotonic() >= next_look:
                peak = max(peak, memory(worker).resident)
                next_look = time.monotonic() + 0.1
    return {
        "slow_reader_growth_bytes": peak - before,
        "slow_reader_bytes": size,
        "slow_reader_bytes_per_s": rate,
    }


def example_config(text: str, ports: dict[int, int]) -> tuple[str, int]:
    """config.example.yaml with all its addresses moved to free ports; and its listener's port.

    `ports` maps the demo services' usual ports to the ones in use now.
    """
    config: dict[str, Any] = yaml.safe_load(text)
    server = config.setdefault("server", {})
    listener = free_port()
    server["listeners"] = [{"bind": f"127.0.0.1:{listener}"}]
    config["admin"] = {**(config.get("admin") or {}), "bind": f"127.0.0.1:{free_port()}"}
    moved = yaml.safe_dump(config, sort_keys=False)
    for usual, now in ports.items():
        moved = re.sub(rf"(127\.0\.0\.1|localhost):{usual}\b", f"127.0.0.1:{now}", moved)
    return moved, listener


def worker_memory(folder: Path) -> dict[str, float]:
    """Private bytes of the largest worker after 10,000 requests through the example configuration."""
    if not EXAMPLE.exists():
        raise BenchError("there is no config.example.yaml")
    folder.mkdir(parents=True)
    demo = {"users": (9001, free_port()), "orders": (9002, free_port()), "products": (9003, free_port())}
    text, port = example_config(EXAMPLE.read_text(), dict(demo.values()))
    (folder / "gateway.yaml").write_text(text)
    flags = [part for name, (_, now) in demo.items() for part in (f"--{name}", str(now))]
    services = Child("demo services", [sys.executable, "-m", "fastgw", "demo", *flags], cwd=ROOT, core=LOAD_CORE)
    with services:
        services.wait_for_port(demo["users"][1])
        run = [sys.executable, "-m", "fastgw", "run", "gateway.yaml"]
        with Child("fastgw", run, cwd=folder, env=FASTGW_ENV) as gateway:
            gateway.wait_for_port(port)
            asked = [client.request(path, token()) for path in ("/api/users", "/api/users/1", "/api/products/2")]
            # Some routes may want a key or limit a client: these answers are part of the work too.
            allowed = (200, 401, 403, 404, 429)
            client.exactly(port, 100, asked, 64, allowed)
            busy = workers(gateway.pid, lambda: client.exactly(port, REQUESTS, asked, 64, allowed))
            private = [memory(pid).private for pid in busy]
            processes = len(tree(gateway.pid))
    return {
        "private_bytes_per_worker": max(private),
        "workers_that_served": len(busy),
        "processes": processes,
        "requests": REQUESTS,
    }


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("hold", "hold-tls"):
        sys.exit("this module is run by the harness")
    try:
        hold(int(sys.argv[2]), int(sys.argv[3]), sys.argv[1] == "hold-tls")
    except (BenchError, OSError) as error:
        print(str(error).replace(os.linesep, " "), flush=True)
        sys.exit(1)
