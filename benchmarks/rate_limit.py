"""What `rate_limit` costs a request, of a thousand keys and of a million.

    python -m benchmarks.rate_limit          about five minutes; writes benchmarks/results/rate_limit.{json,md}

Three views of the same work, from the inside out:

- a decision by itself, in this process: what is compared (a thousand keys, a million, nothing) takes turns in short
  runs, so that what disturbs the machine disturbs all; CPU time of the thread; medians of differences and of ratios.
- the whole policy in a gateway with one worker: CPU time of the worker for a request on a route without limits, on one
  with a thousand keys and on one with a million, in turns likewise.
- user instructions of a request, with the policy and without, counted by callgrind, which no load disturbs.

How long one load from memory takes is measured in between: a million keys do not fit the processor's cache, so that
each decision needs one such load, and where others use the cache too it is slow.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from fastgw.testing import GatewayProcess
from fastgw.testing.process import descendants

from .macro import fastgw_config, instructions
from .macro.backend import Backend
from .macro.facts import commit, cpu_model
from .macro.gateways import GATEWAYS
from .macro.report import save, table
from .macro.setups import Setup
from .micro import measure as micro
from .policies import HEAD, cpu_ns

RESULTS = Path(__file__).resolve().parent / "results"
FEW, MANY = 1000, 1_000_000
OPERATIONS = 50_000
"""Of one timed run: some ten milliseconds."""
BATCH = 50
"""Requests that are on their way at a time."""
ATTEMPTS = 3
LIMIT: Mapping[str, Any] = {"requests": 100_000_000, "per": "1s", "by": "header:X-Api-Key"}
VARIANTS: Mapping[str, list[Any]] = {
    "without": [],
    "one limit, no headers": [{"rate_limit": {**LIMIT, "headers": False}}],
    "one limit, RateLimit headers": [{"rate_limit": {**LIMIT, "headers": ["ietf"]}}],
    "one limit, RateLimit and X-RateLimit headers": [{"rate_limit": dict(LIMIT)}],
    "two limits, RateLimit and X-RateLimit headers": [
        {"rate_limit": {"limits": ["1000000/1s", "10000000/1m"], "by": LIMIT["by"]}}
    ],
}
Timed = Callable[[int], object]


# ---------------------------------------------------------------------- a decision


def cases(kernel: str) -> dict[str, Timed]:
    built = micro.build(micro.HERE / "kernels" / f"{kernel}.pyx", micro.ROOT)
    return dict(micro.load(built, f"kernel_{kernel}").CASES)


def in_turns(found: Mapping[str, Timed], rounds: int, operations: int) -> dict[str, list[float]]:
    """ns of CPU time for an operation, of each round."""
    for operation in found.values():
        operation(operations)
    runs: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, operation in found.items():
            before = time.thread_time_ns()
            operation(operations)
            runs[name].append((time.thread_time_ns() - before) / operations)
    return runs


def less(runs: Mapping[str, list[float]], name: str, base: str) -> list[float]:
    return [one - other for one, other in zip(runs[name], runs[base], strict=True)]


def decisions(rounds: int, operations: int) -> dict[str, Any]:
    runs = in_turns(cases("limit"), rounds, operations)
    loop = next(iter(runs))
    told: dict[str, Any] = {"one_load_ns": statistics.median(runs["one word out of 64 MiB"])}
    for what, word in (("decision", "decision"), ("decision and headers", "policy")):
        few, many = (less(runs, f"{what}, of a {size} keys", loop) for size in ("thousand", "million"))
        told[f"{word}_1k_ns"] = statistics.median(few)
        told[f"{word}_1m_ns"] = statistics.median(many)
        told[f"{word}_ratio"] = statistics.median([b / a for a, b in zip(few, many, strict=True)])
        told[f"{word}_ratio_of_the_best"] = min(many) / min(few)
    algorithms = in_turns(cases("algorithms"), rounds, operations)
    told["algorithms_ns"] = {name: statistics.median(found) for name, found in algorithms.items()}
    return told


# ---------------------------------------------------------------------- in a gateway


class Client:
    """One connection; a request of each route with one key out of so many, in an order without order."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.at = 1

    def request(self, path: str, number: int) -> bytes:
        return f"GET {path} HTTP/1.1\r\n{HEAD}X-Api-Key: client-{number:07d}\r\n\r\n".encode()

    def ask(self, requests: Sequence[bytes]) -> None:
        self.sock.sendall(b"".join(requests))
        seen, tail = 0, b""
        while seen < len(requests):
            data = tail + self.sock.recv(1 << 18)
            if data == tail:
                raise SystemExit("the gateway closed the connection")
            seen += data.count(b"HTTP/1.1 204 ")
            if b"HTTP/1.1 4" in data or b"HTTP/1.1 5" in data:
                raise SystemExit(f"the gateway refused: {data[:300]!r}")
            tail = data[-12:] if not data.endswith(b"\r\n\r\n") else b""

    def fill(self, path: str, keys: int) -> None:
        for start in range(0, keys, BATCH):
            self.ask([self.request(path, number) for number in range(start, min(keys, start + BATCH))])

    def round(self, worker: int, path: str, keys: int, count: int) -> float:
        """Microseconds of CPU time for a request."""
        batches = []
        for _ in range(count // BATCH):
            batch = []
            for _ in range(BATCH):
                self.at = (self.at * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
                batch.append(self.request(path, (self.at >> 33) % keys))
            batches.append(batch)
        before = cpu_ns(worker)
        for batch in batches:
            self.ask(batch)
        return (cpu_ns(worker) - before) / (len(batches) * BATCH) / 1000


def whole(rounds: int, count: int, many: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"respond": {"status": 204}}
    routes = [{"path": "/none", "policies": [answer]}]
    routes += [{"path": path, "policies": [{"rate_limit": dict(LIMIT)}, answer]} for path in ("/few", "/many")]
    bare = {**LIMIT, "headers": False}
    routes += [{"path": path, "policies": [{"rate_limit": bare}, answer]} for path in ("/few/bare", "/many/bare")]
    config = {
        "server": {
            "workers": 1,
            "listeners": [{"bind": "127.0.0.1:${FASTGW_PORT}"}],
            "limits": {"requests_per_connection": 2**31 - 1},
            "timeouts": {"idle": "1h"},
        },
        "observability": {"access_log": {"enabled": False}},
        "routes": routes,
    }
    ways = {"/none": FEW, "/few": FEW, "/many": many, "/few/bare": FEW, "/many/bare": many}
    runs: dict[str, list[float]] = {path: [] for path in ways}
    with GatewayProcess(config) as gateway:
        names = {Path(f"/proc/{pid}/comm").read_text().strip(): pid for pid in descendants(gateway.pid)}
        client = Client(gateway.address)
        for path, keys in ways.items():
            client.fill(path, keys)
        for _ in range(rounds):
            for path, keys in ways.items():
                runs[path].append(client.round(names["fastgw-0"], path, keys, count))
    few, many_us = less(runs, "/few", "/none"), less(runs, "/many", "/none")
    return {
        "request_us": statistics.median(runs["/none"]),
        "few_us": statistics.median(few),
        "many_us": statistics.median(many_us),
        "few_bare_us": statistics.median(less(runs, "/few/bare", "/none")),
        "many_bare_us": statistics.median(less(runs, "/many/bare", "/none")),
        "request_ratio": statistics.median([b / a for a, b in zip(runs["/few"], runs["/many"], strict=True)]),
        "few_quartiles_us": statistics.quantiles(few, n=4),
        "many_quartiles_us": statistics.quantiles(many_us, n=4),
        "keys": many,
    }


# ---------------------------------------------------------------------- instructions


def instructions_of(policies: list[Any], backend: Backend, folder: Path, requests: int) -> float:
    def write(setup: Setup) -> Sequence[str]:
        text = fastgw_config.render(
            "plain", port=setup.port, upstream=setup.upstream, routes=2, rate=1, token_cache=True
        )
        tree = yaml.safe_load(text)
        for route in tree["routes"]:
            route["policies"] = json.loads(json.dumps(policies))     # no aliases
        setup.put("gateway.yaml", yaml.safe_dump(tree, sort_keys=False))
        return [sys.executable, "-m", "fastgw", "run", "gateway.yaml", *fastgw_config.SINGLE_PROCESS]

    return instructions.while_serving(replace(GATEWAYS["fastgw"], write=write), "plain", backend, folder, requests)


def counted(requests: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Backend("c", folder / "backend") as backend:
            found = {}
            for number, (variant, policies) in enumerate(VARIANTS.items()):
                for attempt in range(ATTEMPTS):
                    try:
                        found[variant] = instructions_of(policies, backend, folder / f"{number}-{attempt}", requests)
                        break
                    except OSError:                  # valgrind is slow, and a busy machine makes it too slow
                        if attempt + 1 == ATTEMPTS:
                            raise
                print(f"{variant}: {found[variant]:,.0f} instructions", file=sys.stderr, flush=True)
            return found


# ---------------------------------------------------------------------- what is told


def page(facts: Mapping[str, Any]) -> str:
    alone, gateway, counts = facts["decision"], facts.get("gateway"), facts.get("instructions")
    load = alone["one_load_ns"]
    rows = [
        ["the decision (key, hash, clock, table, counts)", f"{alone['decision_1k_ns']:.0f}",
         f"{alone['decision_1m_ns']:.0f}", f"{alone['decision_ratio']:.2f}"],
        ["and the five headers of the answer", f"{alone['policy_1k_ns']:.0f}", f"{alone['policy_1m_ns']:.0f}",
         f"{alone['policy_ratio']:.2f}"],
    ]  # fmt: skip
    if gateway:
        for words, of in (("with `headers: false`", "_bare"), ("with the five headers", "")):
            rows.append([f"more CPU time of a request in a gateway, {words}", f"{gateway[f'few{of}_us'] * 1000:.0f}",
                         f"{gateway[f'many{of}_us'] * 1000:.0f}", ""])  # fmt: skip
    lines = [
        "# What rate_limit costs", "",
        f"Made by `python -m benchmarks.rate_limit` at {facts['commit']}, {facts['date']}, on {facts['cpu']}, load "
        f"average {facts['load']:.1f}; medians of {facts['rounds']} rounds in which what is compared takes turns.", "",
        table(["one token_bucket by a header, ns", "1,000 keys", "1,000,000 keys", "ratio"], rows), "",
        f"One word out of 64 MiB took {load:.0f} ns meanwhile: with a million keys each decision needs one.",
    ]  # fmt: skip
    if gateway:
        lines += [
            f"A whole request, answered by the gateway itself, is {gateway['request_us']:.2f} µs without limits; one "
            f"of a million keys takes {gateway['request_ratio']:.3f} times one of a thousand.",
        ]  # fmt: skip
    lines += ["", table(["a decision whose key is known, hot", "ns"],
                        [[name, f"{ns:.0f}"] for name, ns in alone["algorithms_ns"].items()]), ""]  # fmt: skip
    if counts:
        base = counts["without"]
        lines += [table(["user instructions of a proxied request", "", "more"],
                        [[name, f"{n:,.0f}", f"{n - base:+,.0f}" if name != "without" else ""]
                         for name, n in counts.items()]), ""]  # fmt: skip
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rate_limit", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=41, help="(%(default)s)")
    parser.add_argument("--operations", type=int, default=OPERATIONS, help="of one timed run (%(default)s)")
    parser.add_argument("--requests", type=int, default=1000, help="of a round in the gateway (%(default)s)")
    parser.add_argument("--keys", type=int, default=MANY, help="in the gateway (%(default)s)")
    parser.add_argument("--only", choices=("decision", "gateway", "instructions"), help="writes nothing then")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(words)
    facts: dict[str, Any] = {
        "commit": commit(), "date": time.strftime("%Y-%m-%d"), "cpu": cpu_model(), "load": os.getloadavg()[0],
        "rounds": args.rounds,
    }  # fmt: skip
    if args.only in (None, "decision"):
        facts["decision"] = decisions(args.rounds, args.operations)
    if args.only in (None, "gateway"):
        facts["gateway"] = whole(args.rounds, args.requests, args.keys)
    if args.only in (None, "instructions"):
        facts["instructions"] = counted(args.requests)
    if args.only:
        print(json.dumps(facts[args.only], indent=1))
        return 0
    text = page(facts)
    print(text)
    save(args.results, "rate_limit", facts, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
