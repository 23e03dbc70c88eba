"""What `rate_limit` with `shared` asks of Redis, exact and leased.

    python -m benchmarks.redis_limits        about a minute; writes benchmarks/results/redis_limits.{json,md}

A gateway with two workers, and a redis-server of its own on loopback:

- *one at a time*: one connection, one request after the other. Commands and reads that Redis counts (`INFO
  commandstats`, `INFO stats`) for a request, and how much longer than without a limit it takes, beside the time of a
  `PING` by a client of few lines; what is compared takes turns.
- *at once*: some dozens of connections, each of which asks as soon as it has its answer. Reads of Redis for a request
  say how many requests share a round trip; `CLIENT LIST` how many connections the workers have.
- *leased*: keys are asked for as fast as it goes, far beyond their limit; how many were admitted beyond it in the time
  that took, beside what `fastgw check` states and what `fastgw_rate_limit_over_admitted_total` found.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastgw.testing import GatewayProcess
from fastgw.testing.process import free_port

from .macro.facts import commit, cpu_model
from .macro.report import save, table

RESULTS = Path(__file__).resolve().parent / "results"
WORKERS = 2
CONNECTIONS = 32
MOST = 4
"""Connections of a worker to Redis, the default."""
LEASED = {"requests": 200, "per": "1s"}
SLICE = 10
PLENTY = {"requests": 1_000_000, "per": "1s"}


class Redis:
    """A server of its own, and a client that counts what it asks itself."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("redis-server")
        if found is None:
            raise SystemExit("redis-server is not installed (Debian: redis-server)")
        self.port = free_port()
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen([found, *words, "--dir", str(folder)], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                self.sock = socket.create_connection(("127.0.0.1", self.port), 10)
                break
            if time.monotonic() > deadline:
                raise SystemExit("redis-server does not answer")
            time.sleep(0.02)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.sock.makefile("rb")

    def ask(self, text: str) -> str:
        self.sock.sendall(text.encode() + b"\r\n")
        line = self.file.readline().decode()
        if not line.startswith("$"):
            return line
        return self.file.read(int(line[1:]) + 2).decode()

    def commands(self) -> dict[str, int]:
        """Calls by command, scripts as one; what runs within a script is counted too, by its own name."""
        found = re.findall(r"cmdstat_([^:]+):calls=(\d+)", self.ask("INFO commandstats"))
        return {name: int(calls) for name, calls in found}

    def reads(self) -> int:
        found = re.search(r"total_reads_processed:(\d+)", self.ask("INFO stats"))
        return int(found[1]) if found else 0

    def connections(self) -> int:
        """Of others."""
        return len(self.ask("CLIENT LIST").strip().splitlines()) - 1

    def close(self) -> None:
        self.sock.close()
        self.process.terminate()
        self.process.wait(20)


def route(name: str, limit: Mapping[str, Any] | None, **shared: Any) -> dict[str, Any]:
    policies: list[dict[str, Any]] = [{"respond": {"status": 204}}]
    if limit is not None:
        told = {"on_failure": "closed", **shared}
        policies.insert(0, {"rate_limit": {**limit, "by": "header:X-Who", "headers": False, "shared": told}})
    return {"name": name, "path": f"/{name}", "policies": policies}


def configuration(port: int) -> dict[str, Any]:
    return {
        "server": {
            "workers": WORKERS,
            "listeners": [{"bind": "127.0.0.1:${FASTGW_PORT}"}],
            "limits": {"requests_per_connection": 2**31 - 1},
        },
        "observability": {"access_log": {"enabled": False}},
        # a deadline that a busy machine keeps: what is measured is the round trip, not the failure
        "stores": {"redis": {"url": f"redis://127.0.0.1:{port}", "max_connections": MOST, "deadline": "5s",
                             "timeout": "5s"}},
        "routes": [
            route("none", None),
            route("exact", PLENTY),
            route("several", {"limits": ["1000000/1s", {**PLENTY, "per": "1m", "algorithm": "fixed_window"}]}),
            route("leased", PLENTY, sharing="leased", slice=1000),
            route("scarce", LEASED, sharing="leased", slice=SLICE),
        ],
    }  # fmt: skip


class Client:
    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address, 60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, path: str, who: str) -> int:
        self.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nX-Who: {who}\r\n\r\n".encode())
        data = b""
        while True:
            head, end, body = data.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if end and len(body) >= (int(length[1]) if length else 0):
                return int(head[9:12])
            got = self.sock.recv(65536)
            if not got:
                raise SystemExit("the gateway closed the connection")
            data += got

    def good(self, path: str) -> None:
        status = self.ask(path, "first")
        if status != 204:
            raise SystemExit(f"a request was answered with {status}")


@contextlib.contextmanager
def running() -> Iterator[tuple[Redis, GatewayProcess]]:
    with tempfile.TemporaryDirectory() as folder:
        redis = Redis(Path(folder))
        try:
            with GatewayProcess(configuration(redis.port)) as gateway:
                yield redis, gateway
        finally:
            redis.close()


def timed(action: Callable[[], object], count: int) -> float:
    """Microseconds, the median of so many."""
    found = []
    for _ in range(count):
        before = time.perf_counter_ns()
        action()
        found.append((time.perf_counter_ns() - before) / 1000)
    return statistics.median(found)


def one_at_a_time(redis: Redis, gateway: GatewayProcess, rounds: int, count: int) -> dict[str, Any]:
    client = Client(gateway.address)
    paths = ("/none", "/exact", "/several", "/leased")
    found: dict[str, Any] = {}
    for path in paths[1:]:
        client.good(path)                              # the script is known, the connection is there
        before, reads = redis.commands(), redis.reads()
        for _ in range(count):
            client.good(path)
        after = redis.commands()
        calls = after.get("evalsha", 0) + after.get("eval", 0) - before.get("evalsha", 0) - before.get("eval", 0)
        # two INFO of our own
        found[path] = {"scripts": calls / count, "reads": (redis.reads() - reads - 2) / count}
    runs: dict[str, list[float]] = {path: [] for path in ("ping", *paths)}
    for _ in range(rounds):
        runs["ping"].append(timed(lambda: redis.ask("PING"), count))
        for path in paths:
            runs[path].append(timed(partial(client.good, path), count))
    found["ping_us"] = statistics.median(runs["ping"])
    for path in paths[1:]:
        more = [a - b for a, b in zip(runs[path], runs["/none"], strict=True)]
        found[path]["more_us"] = statistics.median(more)
        pings = [a / b for a, b in zip(more, runs["ping"], strict=True)]
        found[path]["pings"] = statistics.median(pings)
    found["none_us"] = statistics.median(runs["/none"])
    return found


def crowd(gateway: GatewayProcess, path: str, seconds: float, keys: int) -> tuple[int, int, float]:
    """How many were admitted, how many asked, and the seconds from the first to the last."""
    answers: list[list[int]] = []
    begun = time.monotonic()

    def ask(number: int) -> None:
        client = Client(gateway.address)
        mine: list[int] = []
        answers.append(mine)
        while time.monotonic() < begun + seconds:
            mine.append(client.ask(path, f"crowd-{number % keys}"))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - begun
    every = [status for mine in answers for status in mine]
    if set(every) - {204, 429}:
        raise SystemExit(f"a request was answered with {sorted(set(every))}")
    return every.count(204), len(every), took


def at_once(redis: Redis, gateway: GatewayProcess, seconds: float) -> dict[str, Any]:
    before, reads = redis.commands(), redis.reads()
    most = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.02):
            most = max(most, other.connections())

    other = WatchingClient(redis)
    watching = threading.Thread(target=watch)
    watching.start()
    admitted, asked, _ = crowd(gateway, "/exact", seconds, 1000)
    done.set()
    watching.join()
    looks = other.asked
    other.close()
    after = redis.commands()
    calls = after.get("evalsha", 0) + after.get("eval", 0) - before.get("evalsha", 0) - before.get("eval", 0)
    return {
        "requests": asked, "admitted": admitted, "scripts": calls / asked,
        "reads": (redis.reads() - reads - 2 - looks) / asked, "connections": most, "clients": CONNECTIONS,
    }  # fmt: skip


class WatchingClient(Redis):
    """Another connection to the same server."""

    def __init__(self, redis: Redis) -> None:
        self.sock = socket.create_connection(("127.0.0.1", redis.port), 10)
        self.file = self.sock.makefile("rb")
        self.asked = 0

    def connections(self) -> int:
        """Less the client that began all this."""
        self.asked += 1
        return super().connections() - 1

    def close(self) -> None:
        self.sock.close()


def leased(gateway: GatewayProcess, seconds: float, keys: int) -> dict[str, Any]:
    rate, bound = LEASED["requests"], SLICE * WORKERS
    admitted, asked, took = crowd(gateway, "/scarce", seconds, keys)
    allowed = keys * (rate + math.floor(rate * took))
    deadline = time.monotonic() + 30
    over = -1.0
    while (now := over_admitted(gateway)) != over and time.monotonic() < deadline:
        over = now                                       # what lies in slices goes back, and is told of then
        time.sleep(2.0)
    return {"keys": keys, "asked": asked, "admitted": admitted, "allowed": allowed, "seconds": took,
            "beyond": max(0, admitted - allowed), "bound": keys * bound, "over_admitted_total": over}  # fmt: skip


def over_admitted(gateway: GatewayProcess) -> float:
    lines = gateway.admin("/metrics", timeout=60)[1].splitlines()
    rows = [line for line in lines if line.startswith("fastgw_rate_limit_over_admitted_total{") and '"scarce"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in rows)


def page(facts: Mapping[str, Any]) -> str:
    one, many, lent = facts["one"], facts["many"], facts["leased"]
    names = {"/exact": "exact, one limit", "/several": "exact, two limits", "/leased": "leased, slices of 1,000"}
    rows = [
        [name, f"{one[path]['scripts']:.3f}", f"{one[path]['reads']:.3f}", f"{one[path]['more_us']:.0f}",
         f"{one[path]['pings']:.2f}"]
        for path, name in names.items()
    ]  # fmt: skip
    keys, each = lent["keys"], 1 / max(many["reads"], 1e-9)
    return "\n".join([
        "# rate_limit in Redis", "",
        f"Made by `python -m benchmarks.redis_limits` at {facts['commit']}, {facts['date']}, on {facts['cpu']}, load "
        f"average {facts['load']:.1f}; Redis and the gateway with {WORKERS} workers on one machine, over loopback.", "",
        "## One request after the other", "",
        table(["", "scripts a request", "reads of Redis a request", "more µs", "more, in PINGs"], rows), "",
        f"A request without a limit takes {one['none_us']:.0f} µs, a PING {one['ping_us']:.0f} µs: medians of "
        f"{facts['rounds']} rounds of medians. The PING is asked by a client of few lines, which sleeps nowhere else, "
        "and Redis does nothing for it.", "",
        f"## {many['clients']} connections at once, exact", "",
        f"{many['requests']:,} requests: {many['scripts']:.3f} scripts each, {many['reads']:.3f} reads of Redis each, "
        f"which is {each:.1f} requests in a round trip, over {many['connections']} connections of at most "
        f"{MOST * WORKERS} ({MOST} for each worker).", "",
        "## Leased: what is admitted beyond the limit", "",
        f"{lent['asked']:,} requests in {lent['seconds']:.2f} s, {keys} keys of {LEASED['requests']}/{LEASED['per']} "
        f"in slices of {SLICE}: {lent['admitted']:,} admitted, of at most {lent['allowed']:,} that the limits hold in "
        f"that time. Beyond it: {lent['beyond']:,}, where `fastgw check` states at most {lent['bound']:,} "
        f"({SLICE} for each of {WORKERS} workers, {keys} keys). `fastgw_rate_limit_over_admitted_total`: what a "
        f"second did not hold: {lent['over_admitted_total']:.0f}.", "",
    ])  # fmt: skip


def main(words: Sequence[str] | None = None) -> int:
    said = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redis_limits", description=said)
    parser.add_argument("--rounds", type=int, default=15, help="(%(default)s)")
    parser.add_argument("--requests", type=int, default=200, help="of a round (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each crowd (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(words)
    facts: dict[str, Any] = {
        "commit": commit(), "date": time.strftime("%Y-%m-%d"), "cpu": cpu_model(), "load": os.getloadavg()[0],
        "rounds": args.rounds,
    }  # fmt: skip
    with running() as (redis, gateway):
        facts["one"] = one_at_a_time(redis, gateway, args.rounds, args.requests)
        facts["many"] = at_once(redis, gateway, args.seconds)
        facts["leased"] = leased(gateway, args.seconds, 4)
    text = page(facts)
    print(text)
    save(args.results, "redis_limits", facts, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
