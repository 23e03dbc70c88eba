"""wrk, run on the load core against one gateway, with the gateway's CPU read before and after."""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from . import edge, sockets
from .process import LOAD_CORE, BenchError, Child, cores_busy, cpu_time, finished_children, run, tree

SCRIPT = Path(__file__).resolve().parent / "wrk" / "request.lua"
LINE = re.compile(
    r"BENCH requests=(\d+) duration_us=(\d+) bytes=(\d+) mean_us=([\d.]+) p50_us=(\d+) p99_us=(\d+)"
    r" status_errors=(\d+) socket_errors=(\d+)"
)


@dataclass(frozen=True, slots=True)
class Load:
    """How to load: connections, path, how many routes to spread over (0: the path as it is)."""

    connections: int = 64
    path: str = "/api/item"
    routes: int = 0
    tool: str = "wrk"
    """wrk, h2load (HTTP/2, `streams` at a time on each connection), s_time (a new connection for each request), or
    sockets (WebSockets: messages of `size` bytes and their echoes in the place of requests)."""
    tls: bool = False
    streams: int = 1
    resumed: bool = False
    size: int = 0
    call: bool = False
    """Unary gRPC calls instead of GETs."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One round against one gateway. Times in microseconds; CPU is that of its whole process tree."""

    requests: int
    requests_per_s: float
    bytes_per_s: float
    mean_us: float
    p50_us: float
    p99_us: float
    cpu_us: float = 0.0
    cpu_user_share: float = 0.0
    busy: float = 0.0
    """Share of its core's time that the gateway used."""
    others: float = 0.0
    """Share of the two cores' time that went to anything but gateway, backend and wrk."""

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def parse(output: str) -> Figures:
    """The figures that request.lua prints. Raises BenchError when there are none, or a request failed."""
    found = LINE.search(output)
    if not found:
        raise BenchError(f"wrk said nothing that can be read: {output[-500:]}")
    requests, duration_us, total_bytes, mean, p50, p99, status_errors, socket_errors = (
        float(x) for x in found.groups()
    )
    if status_errors or socket_errors or not requests:
        raise BenchError(
            f"not a measurement: {requests:.0f} requests, {status_errors:.0f} refused, "
            f"{socket_errors:.0f} socket errors"
        )
    seconds = duration_us / 1e6
    return Figures(int(requests), requests / seconds, total_bytes / seconds, mean, p50, p99)


def wrk(port: int, load: Load, token: str, seconds: float) -> Figures:
    whole = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{whole}s", "-s", str(SCRIPT)]
    command.append(f"{'https' if load.tls else 'http'}://127.0.0.1:{port}{load.path}")
    env = {"BENCH_TOKEN": token, "BENCH_ROUTES": str(load.routes)}
    return parse(run(command, whole + 20, core=LOAD_CORE, env=env))


def figures_of(port: int, load: Load, token: str, seconds: float) -> Figures:
    if load.tool == "wrk":
        return wrk(port, load, token, seconds)
    if load.tool == "sockets":
        messages, lasted_us, total, mean, p50, p99 = sockets.load(port, load.connections, load.size, seconds)
        lasted = lasted_us / 1e6
        return Figures(int(messages), messages / lasted, total / lasted, mean, p50, p99)
    if load.tool == "h2load":
        requests, lasted, total = edge.h2load(port, load.tls, load.connections, load.streams, token, seconds, load.call)
    else:
        requests, lasted, total = edge.new_connections(port, load.resumed, seconds)
    # these tools tell no percentiles
    mean = lasted / requests * load.connections * load.streams * 1e6
    return Figures(requests, requests / lasted, total / lasted, mean, 0.0, 0.0)


def measure(gateway: Child | None, backend: Child, port: int, load: Load, token: str, seconds: float) -> Figures:
    """One round. `gateway` None: the backend alone, no CPU of a gateway."""
    family = tree(gateway.pid) if gateway else []
    served = tree(backend.pid)
    started = time.monotonic()
    busy, loads, serving, before = cores_busy(), finished_children(), cpu_time(served), cpu_time(family)
    figures = figures_of(port, load, token, seconds)
    used, serving = cpu_time(family) - before, cpu_time(served) - serving
    busy, loads = cores_busy() - busy, finished_children() - loads
    lasted = time.monotonic() - started
    if gateway and tree(gateway.pid) != family:
        raise BenchError(f"{gateway.name} changed its processes while it was measured: {gateway.errors()}")
    others = busy - used.seconds - serving.seconds - loads
    return replace(
        figures,
        cpu_us=used.seconds / figures.requests * 1e6,
        cpu_user_share=used.user_share,
        busy=used.seconds / lasted,
        others=max(0.0, others / (2 * lasted)),
    )
