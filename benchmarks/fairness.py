"""`python -m benchmarks.fairness`: what is left for others when one consumer sends far too much.

A service that can do 50 requests a second (2 places of 40 ms), ten consumers that send one a second each, at random
times, and one that sends a hundred times as much as each of them; in one case as all of them together. What counts is
goodput: the share of what was sent that was answered with 200 within two seconds, as a client would wait. Everything
is a process of its own: the service, the gateway (one worker), the load. Ratios, not times, as other programs may run
meanwhile: what the others have beside the abuser, and what they have alone. Results go to
benchmarks/results/fairness.json and .md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastgw.testing.process import GatewayProcess, free_port

from .macro.facts import commit
from .macro.report import table

RESULTS = Path(__file__).resolve().parent / "results"
PLACES, TAKES = 2, 0.04
OTHERS, EACH = 10, 1.0
TIMES = 100
PATIENCE = 2.0
QUEUE = {"max": 100, "timeout": "2s"}
FAIR: Mapping[str, Any] = {**QUEUE, "fair": "consumer"}


@dataclass(slots=True)
class Case:
    """What the queue is, how much the abuser sends (times each of the others), how much longer its requests take."""

    name: str
    queue: Mapping[str, Any]
    times: float
    slow: int = 1


CASES = (
    Case("the others alone", QUEUE, 0),
    Case("no queue", {"max": 0}, TIMES),
    Case("one queue for all", QUEUE, TIMES),
    Case("one queue for all, `codel`", {**QUEUE, "codel": {}}, TIMES),
    Case("`fair: consumer`", FAIR, TIMES),
    Case("`fair: consumer`, `codel`", {**FAIR, "codel": {}}, TIMES),
    Case("`fair: consumer`; the abuser's take 5 times as long", FAIR, TIMES, 5),
    Case("`fair: consumer`; the abuser sends 100 times as much as all others together", FAIR, TIMES * OTHERS),
)


def digest(name: str) -> str:
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()


def config(case: Case, service: int, port: int) -> dict[str, Any]:
    names = ["abuser", *(f"other{number}" for number in range(OTHERS))]
    return {
        "server": {"workers": 1, "listeners": [f"127.0.0.1:{port}"]},
        "consumers": [{"name": name, "keys": [digest(name)]} for name in names],
        "services": {
            "up": {"endpoints": [f"http://127.0.0.1:{service}"], "concurrency": {"max": PLACES, "queue": case.queue}}
        },
        "routes": [{"path": "/*", "service": "up", "policies": [{"key_auth": {}}]}],
        "observability": {"access_log": {"enabled": False}},
    }


# ------------------------------------------------------------------ the service


async def serve(port: int) -> None:
    """Answers `/MS` after so many milliseconds, however many ask at a time."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(int(head.split(b" ", 2)[1][1:]) / 1000)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", port, backlog=1024)
    print("ready", flush=True)
    await server.serve_forever()


# ------------------------------------------------------------------ the load


class Consumer:
    """Sends at random times, whether it is answered or not."""

    def __init__(self, name: str, rate: float, port: int, takes: float) -> None:
        self.name = name
        self.rate = rate
        self.port = port
        self.request = (
            f"GET /{round(takes * 1000)} HTTP/1.1\r\nHost: bench\r\nX-API-Key: {name}\r\n\r\n".encode()
        )
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.sent = 0
        self.good = 0

    async def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        at = time.monotonic()
        tasks = set()
        while (at := at + random.expovariate(self.rate)) < end:
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            self.sent += 1
            task = asyncio.create_task(self.one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        for _, writer in self.idle:
            writer.close()

    async def one(self) -> None:
        with contextlib.suppress(TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            async with asyncio.timeout(PATIENCE):
                good = await self.ask()               # not `+=` at once: others count meanwhile
                self.good += good

    async def ask(self) -> bool:
        pair = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
        whole = False
        try:
            pair[1].write(self.request)
            head = (await pair[0].readuntil(b"\r\n\r\n")).lower()
            await pair[0].readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            whole = True
        finally:
            if whole:
                self.idle.append(pair)
            else:
                pair[1].close()                       # nobody waits any longer: so the gateway hears it
        return head.startswith(b"http/1.1 200 ")


async def load(port: int, times: float, slow: int, seconds: float) -> dict[str, list[int]]:
    consumers = [Consumer(f"other{number}", EACH, port, TAKES) for number in range(OTHERS)]
    if times:
        consumers.append(Consumer("abuser", EACH * times, port, TAKES * slow))
    await asyncio.gather(*(one.run(seconds) for one in consumers))
    return {one.name: [one.sent, one.good] for one in consumers}


# ------------------------------------------------------------------ the figures


def measure(case: Case, seconds: float) -> dict[str, Any]:
    port, service = free_port(), free_port()
    module = [sys.executable, "-m", "benchmarks.fairness"]
    with subprocess.Popen([*module, "--serve", str(service)], stdout=subprocess.PIPE, text=True) as up:
        try:
            assert up.stdout is not None and up.stdout.readline() == "ready\n"
            with GatewayProcess(config(case, service, port)):
                words = ["--load", str(port), str(case.times), str(case.slow), str(seconds)]
                done = subprocess.run([*module, *words], stdout=subprocess.PIPE, text=True, check=True)
        finally:
            up.kill()
    told: dict[str, list[int]] = json.loads(done.stdout)
    abuser = told.pop("abuser", [0, 0])
    shares = [good / sent for sent, good in told.values() if sent]
    return {
        "case": case.name,
        "others_sent": sum(sent for sent, _ in told.values()),
        "others_good": sum(good for _, good in told.values()),
        "worst": min(shares),
        "abuser_sent": abuser[0],
        "abuser_good": abuser[1],
    }


def as_table(found: Sequence[Mapping[str, Any]]) -> str:
    """`found` begins with the others alone."""
    rows = []
    alone = found[0]["others_good"] / found[0]["others_sent"]
    for one in found:
        abuser = f"{one['abuser_good']:,} of {one['abuser_sent']:,}" if one["abuser_sent"] else ""
        rows.append(
            (
                one["case"],
                f"{one['others_good'] / one['others_sent']:.1%}",
                f"{one['others_good'] / one['others_sent'] / alone:.3f}",
                f"{one['worst']:.1%}",
                f"{one['others_good']:,} of {one['others_sent']:,}",
                abuser,
            )
        )
    head = ("the queue", "goodput of the others", "of that alone", "the worst of them", "answered", "of the abuser's")
    return table(head, rows)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="of each case")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--load", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.serve is not None:
        asyncio.run(serve(args.serve))
        return 0
    if args.load is not None:
        port, times, slow, seconds = args.load
        print(json.dumps(asyncio.run(load(int(port), float(times), int(slow), float(seconds)))))
        return 0
    found = []
    for case in CASES:
        found.append(measure(case, args.seconds))
        print(as_table(found).splitlines()[-1], flush=True)
    facts = {"commit": commit(), "date": time.strftime("%Y-%m-%d"), "seconds": args.seconds, "cases": found}
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "fairness.json").write_text(json.dumps(facts, indent=2) + "\n")
    note = (
        f"Commit {facts['commit']}, {facts['date']}, {args.seconds:g} s of each: {OTHERS} consumers that send\n"
        f"{EACH:g} request a second each, and one that sends {TIMES} times as much as each of them, to a service with\n"
        f"{PLACES} places of {TAKES * 1000:g} ms. Goodput: answered with 200 within {PATIENCE:g} s.\n"
    )
    (args.results / "fairness.md").write_text(f"# One noisy consumer\n\n{note}\n{as_table(found)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
