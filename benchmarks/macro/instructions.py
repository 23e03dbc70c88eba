"""User instructions per request, counted by valgrind's callgrind: (Ir(2N) - Ir(N)) / N.

The difference takes start-up and shutdown out. It is a count, not a time: it does not depend on what else the
machine does, and tells which of two versions does less. It leaves out the kernel, most of a proxied request.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path

from . import client
from .backend import Backend
from .gateways import Gateway
from .process import BenchError
from .setups import Setup
from .tokens import token

TOTAL = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)
WORKLOADS = ("plain", "policy", "static")
WINDOWS = 3


def total(text: str) -> int:
    """The instructions of one callgrind output file."""
    found = TOTAL.search(text)
    if not found:
        raise BenchError("callgrind's file has no total")
    return int(found.group(1))


def count(gateway: Gateway, workload: str, backend: Backend, folder: Path, requests: int) -> int:
    """Instructions of one whole run that serves exactly so many requests."""
    setup = Setup(workload, backend.port, folder, single=True)
    output = folder / "callgrind.%p"
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}", "--quiet"]
    child = gateway.start(setup, prefix=valgrind)
    try:
        paths = [f"/api/svc{i * 389 % 1000:04d}/item" for i in range(1000)] if workload == "policy" else ["/api/item"]
        asked = [client.request(path, token()) for path in paths]
        client.exactly(setup.port, requests, asked)
    finally:
        child.stop(60, signal.SIGTERM)
    files = [path for path in folder.glob("callgrind.*") if path.stat().st_size]
    if len(files) != 1:
        raise BenchError(f"{len(files)} processes wrote a callgrind file, one was expected")
    return total(files[0].read_text(errors="replace"))


def per_request(gateway: Gateway, workload: str, backend: Backend, folder: Path, requests: int = 5000) -> float:
    """(Ir(2N) - Ir(N)) / N with N = `requests`."""
    if not shutil.which("valgrind"):
        raise BenchError("valgrind is not installed")
    once = count(gateway, workload, backend, folder / "n", requests)
    twice = count(gateway, workload, backend, folder / "2n", 2 * requests)
    return (twice - once) / requests


def while_serving(gateway: Gateway, workload: str, backend: Backend, folder: Path, requests: int) -> float:
    """The same by one run: counting begins after as many requests that are not counted, and ends before the shutdown.

    The start is not counted and so takes a fraction of the time. What the process does besides, meanwhile, is counted:
    it is the least of some windows.
    """
    if not shutil.which("valgrind"):
        raise BenchError("valgrind is not installed")
    setup = Setup(workload, backend.port, folder, single=True)
    output = folder / "callgrind.%p"
    command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={output}", "--quiet"]
    child = gateway.start(setup, prefix=command)
    try:
        asked = [client.request("/api/item", token())]
        client.exactly(setup.port, requests, asked)
        tell(child.pid, "-i", "on")
        for _ in range(WINDOWS):
            tell(child.pid, "-z")
            client.exactly(setup.port, requests, asked)
            tell(child.pid, "-d")
        tell(child.pid, "-i", "off")
    finally:
        child.stop(60, signal.SIGTERM)
    dumps = [path for path in folder.glob("callgrind.*.[0-9]*") if path.stat().st_size]
    counted = [max(map(int, TOTAL.findall(path.read_text(errors="replace")))) for path in dumps]
    if len(counted) < WINDOWS:
        raise BenchError(f"{len(counted)} windows were counted, {WINDOWS} were wanted")
    return min(one for one in counted if one > requests) / requests


def tell(pid: int, *words: str) -> None:
    """A word to valgrind: -i on, -i off, -z (begin at zero), -d (write what was counted)."""
    done = subprocess.run(["callgrind_control", *words, str(pid)], capture_output=True, text=True, timeout=300)
    if done.returncode or "OK" not in done.stdout:
        raise BenchError(f"callgrind_control: {done.stdout}{done.stderr}")
