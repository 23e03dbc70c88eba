"""The workloads over WebSockets: messages that the backend sends back, by `sockets.c` and `backend.c`."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from .backend import compiled
from .process import LOAD_CORE, BenchError, run

WORKLOADS = ("ws_small", "ws_large")
LINE = re.compile(
    r"SOCKETS messages=(\d+) duration_us=(\d+) bytes=(\d+) mean_us=([\d.]+) p50_us=(\d+) p99_us=(\d+)"
)


@cache
def program() -> Path:
    return compiled("sockets")


def load(port: int, connections: int, size: int, seconds: float) -> tuple[float, ...]:
    """(messages, microseconds, bytes of payload one way, mean, p50 and p99 in microseconds)."""
    whole = max(1, round(seconds))
    said = run([str(program()), str(port), str(connections), str(size), str(whole)], whole + 20, core=LOAD_CORE)
    return parse(said)


def parse(said: str) -> tuple[float, ...]:
    found = LINE.search(said)
    if found is None or not int(found[1]):
        raise BenchError(f"not a measurement: {said[-500:]}")
    return tuple(map(float, found.groups()))


def check(port: int) -> None:
    """A handshake and an echo: the program ends in anger at anything else."""
    load(port, 1, 128, 1)
