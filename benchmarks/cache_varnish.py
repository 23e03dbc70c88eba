"""Hit rates of fastgw and of Varnish, both real, asked over HTTP for the same traces, with the same bytes.

    python -m benchmarks.cache_varnish                     # a quarter of an hour
    python -m benchmarks.cache_varnish --requests 100000 scan

The traces are those of `benchmarks.cache_traces`. One client sends them over one connection, in order (16 under way,
which both answer one after the other); an origin counts what it is asked: what it is not asked is a hit. The first
third fills the cache and is not counted.

Both are given the same number of bytes: 5 and 10 % of what all answers of the trace have, heads and bodies (4 MiB is
the least that fastgw takes; 1 % is less for most traces). fastgw pays its index, and 512-byte blocks, out of that
(`cache.memory`). Varnish (`-s malloc,…`) pays the objects with their heads and bodies out of it, but not what it has
per object beside the storage. Two more things are in its favour: `nuke_limit` is raised, so that it never refuses to
make room; and beside its default, where an object moves in the LRU list every 2 s at most (`lru_interval`), it is run
with 0 too, as a replay takes seconds for what were hours: the better of both is what fastgw is compared with.

In the rows with `Vary` the answers have `Vary: Accept-Encoding`. Varnish has that in the object; fastgw keeps a block
of its own for each URL whose answers vary. Results go to benchmarks/results/hit-rates-varnish.json and .md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastgw.testing.process import GatewayProcess, free_port

from .cache_traces import LARGE, RESULTS, Trace
from .macro.caches import find_varnish
from .macro.facts import gather
from .macro.report import table

UNDER_WAY = 16
LEAST = 4 * 1024 * 1024
VARY = b"Vary: Accept-Encoding\r\n"
CASES = (
    *(("zipf-0.9", 0.05, b""), ("zipf-0.9", 0.1, b""), ("zipf-1.1", 0.1, b""), ("scan", 0.05, b""), ("scan", 0.1, b"")),
    *(("zipf-0.9", 0.1, VARY), ("scan", 0.1, VARY)),
)
VCL = """vcl 4.1;
backend service { .host = "127.0.0.1"; .port = "@PORT@"; }
sub vcl_backend_response { set beresp.grace = 0s; }
"""
REQUEST = b"GET /o/%d HTTP/1.1\r\nHost: cdn.example.com\r\n\r\n"
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: public, max-age=86400\r\n"
    b'ETag: "%08x"\r\n%bContent-Length: %d\r\n\r\n'
)


class Origin(asyncio.Protocol):
    """`/o/N` is the object N of the trace; every request counts."""

    def __init__(self, sizes: list[int], vary: bytes, count: Any) -> None:
        self.sizes, self.vary, self.count = sizes, vary, count
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *requests, self.rest = (self.rest + data).split(b"\r\n\r\n")
        for request in requests:
            name = int(request.split(b" ", 2)[1].rpartition(b"/")[2])
            size = self.sizes[name % len(self.sizes)]
            self.count.value += 1
            self.transport.write(ANSWER % (name, self.vary, size) + LARGE[:size])


def serve_origin(port: int, sizes: list[int], vary: bytes, count: Any) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Origin(sizes, vary, count), "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(serve())


@contextlib.contextmanager
def origin(trace: Trace, vary: bytes) -> Iterator[tuple[int, Any]]:
    port, context = free_port(), multiprocessing.get_context("fork")
    count = context.Value("Q", 0)
    process = context.Process(target=serve_origin, args=(port, trace.sizes, vary, count), daemon=True)
    process.start()
    try:
        wait_for(port)
        yield port, count
    finally:
        process.kill()
        process.join()


def wait_for(port: int, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def varnish(upstream: int, memory: int, lru_interval: int | None) -> Iterator[int]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        vcl = Path(folder, "trace.vcl")
        vcl.write_text(VCL.replace("@PORT@", str(upstream)))
        told = ["-p", "nuke_limit=100000", "-p", "timeout_idle=3600", "-p", "thread_pools=1"]
        if lru_interval is not None:
            told += ["-p", f"lru_interval={lru_interval}"]
        command = [find_varnish() or "varnishd", "-F", "-n", f"{folder}/work", "-a", f"127.0.0.1:{port}", "-T", "none"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        child = subprocess.Popen([*command, "-f", str(vcl), "-s", f"malloc,{memory}b", *told], **quiet)
        try:
            wait_for(port)
            yield port
        finally:
            child.terminate()
            child.wait(60)


@contextlib.contextmanager
def fastgw(upstream: int, memory: int) -> Iterator[int]:
    config = {
        "server": {"limits": {"requests_per_connection": 2**31 - 1}},
        "cache": {"memory": memory},
        "services": {"origin": {"endpoints": [f"http://127.0.0.1:{upstream}"]}},
        "routes": [{"path": "/o/*", "service": "origin", "policies": ["cache"]}],
    }
    with GatewayProcess(config, ready_timeout=120) as gateway:
        yield gateway.port


def answers(connection: socket.socket) -> Iterator[None]:
    """One after the other; RuntimeError when one is no 200."""
    held = bytearray()
    while True:
        while (end := held.find(b"\r\n\r\n")) < 0:
            held += more(connection)
        head = bytes(held[:end]).lower()
        if not head.startswith(b"http/1.1 200 "):
            raise RuntimeError(f"not an answer that counts: {head!r}")
        left = end + 4 + int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        while len(held) < left:
            held += more(connection)
        del held[:left]
        yield


def more(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 20)
    if not data:
        raise RuntimeError("the connection was closed")
    return data


def replay(trace: Trace, port: int, count: Any) -> float:
    """The share of requests that the origin was not asked."""
    connection = socket.create_connection(("127.0.0.1", port), 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    coming, first = answers(connection), trace.counted_from
    asked_before = 0
    for begin, end in ((0, first), (first, len(trace.asked))):
        asked_before = count.value
        for at in range(begin, end, UNDER_WAY):
            names = trace.asked[at : min(at + UNDER_WAY, end)]
            connection.sendall(b"".join(REQUEST % name for name in names))
            for _ in names:
                next(coming)
    connection.close()
    return 1 - float(count.value - asked_before) / (len(trace.asked) - first)


@dataclass(slots=True)
class Row:
    trace: str
    share: float
    mib: float
    fastgw: float
    varnish: float
    varnish_lru_interval_0: float

    @property
    def points(self) -> float:
        return (self.fastgw - max(self.varnish, self.varnish_lru_interval_0)) * 100


def run(trace: Trace, share: float, vary: bytes) -> Row:
    """Each of the three begins empty, and has the origin for itself."""
    footprint = sum(len(ANSWER % (name, vary, 0)) + trace.size(name) for name in set(trace.asked))
    memory = max(LEAST, int(footprint * share))
    rates = []
    for which in ("fastgw", None, 0):
        with origin(trace, vary) as (upstream, count):
            made = fastgw(upstream, memory) if which == "fastgw" else varnish(upstream, memory, which)  # type: ignore[arg-type]
            with made as port:
                rates.append(replay(trace, port, count))
    return Row(trace.name + (", Vary" if vary else ""), share, memory / 2**20, *rates)


def as_table(rows: list[Row]) -> str:
    head = ("trace", "of all bytes", "MiB", "fastgw", "Varnish", "Varnish, lru_interval=0", "points")
    return table(
        head,
        [
            (
                *(row.trace, f"{row.share:.0%}", f"{row.mib:.1f}", f"{row.fastgw:.1%}", f"{row.varnish:.1%}"),
                *(f"{row.varnish_lru_interval_0:.1%}", f"{row.points:+.1f}"),
            )
            for row in rows
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", help="of those that are measured; by default all")
    parser.add_argument("--requests", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if find_varnish() is None:
        raise SystemExit("there is no varnishd: install the package varnish")
    facts = gather()
    told = subprocess.run([find_varnish() or "", "-V"], capture_output=True, text=True, check=True).stderr
    version = told.partition("\n")[0]
    rows: list[Row] = []
    for name, share, vary in CASES:
        if given.traces and name not in given.traces:
            continue
        rows.append(run(Trace.make(name, given.requests, given.seed), share, vary))
        print(as_table(rows[-1:]).splitlines()[-1], flush=True)
    given.results.mkdir(parents=True, exist_ok=True)
    found = {**facts, "varnish": version, "requests": given.requests, "rows": [asdict(row) for row in rows]}
    (given.results / "hit-rates-varnish.json").write_text(json.dumps(found, indent=2) + "\n")
    note = (
        f"`python -m benchmarks.cache_varnish --requests {given.requests} --seed {given.seed}`, "
        f"commit `{facts['commit']}`, {version}. How both are asked, and what their bytes are, is told at the head "
        "of the module; `points` are fastgw's above the better one of Varnish's two."
    )
    (given.results / "hit-rates-varnish.md").write_text(f"# Hit rates beside Varnish\n\n{note}\n\n{as_table(rows)}\n")


if __name__ == "__main__":
    main()
