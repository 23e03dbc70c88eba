"""Compressing 100 KiB of JSON, beside nginx.

    python -m benchmarks.compression [--rounds N] [--seconds S] [--no-instructions]

One worker each, on core 0; load and a service (another nginx, with one file) on core 1. gzip at level 6, and brotli at
quality 4 where nginx has its module (where not it says so, and fastgw is measured alone). Each round asks the one and
then the other, after one round that does not count; told are the medians of answers per second, of CPU time per answer
of all threads of the gateway, and of the ratio of that of two that were neighbours: answers per second of CPU time. It
holds on a machine where others are at work too, where answers per second do not: there a process with three threads
gets more of a core than one with one. Instructions per answer are counted by callgrind, (Ir(2N) - Ir(N)) / N: they do
not depend on the others, and leave out the kernel. The answer to a first request is decoded and compared. Writes
benchmarks/results/compression.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .macro.gateways import find_nginx, nginx_modules
from .macro.instructions import total
from .macro.process import GATEWAY_CORE, Child, free_port, run
from .macro.report import save, table

RESULTS = Path(__file__).parent / "results"
SIZE = 100 * 1024
CONNECTIONS = 8
ROUNDS = 11
SECONDS = 1.0
COUNTED = 60
"""Answers of the shorter of the two runs whose instructions are counted."""
SLOW = 600
"""Seconds that a gateway may take to listen while its instructions are counted."""
CODINGS = ("gzip", "br")
REQUEST = "GET /data.json HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {}\r\n\r\n"
NGINX = """
{master} daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; {modules}
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000000; types {{ application/json json; }}
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    {http}
    server {{ listen 127.0.0.1:{port}; {server} }}
}}
"""
PROXY = """upstream service {{ server 127.0.0.1:{port}; keepalive 64; }}
    gzip on; gzip_comp_level 6; gzip_types application/json; gzip_proxied any; gzip_vary on; {brotli}
    proxy_buffers 8 16k; proxy_busy_buffers_size 64k; proxy_http_version 1.1; proxy_set_header Connection "";"""
BROTLI = "brotli on; brotli_comp_level 4; brotli_types application/json;"
BROTLI_MODULE = "ngx_http_brotli_filter_module"


def rows_of_json() -> bytes:
    """The same each time: customers, as a service would list them."""
    draw = random.Random(1)
    found = []
    while len(json.dumps(found)) < SIZE:
        for _ in range(20):
            found.append({
                "id": len(found), "name": f"customer {draw.randrange(10**6)}", "active": draw.random() < 0.7,
                "email": f"user{draw.randrange(10**5)}@example.com", "balance": round(draw.random() * 10**4, 2),
                "tags": draw.sample(["red", "green", "blue", "gold", "silver", "new"], 3),
            })  # fmt: skip
    return json.dumps(found).encode()[:SIZE]


def nginx(
    folder: Path, http: str, server: str, core: int, modules: str = "", prefix: Sequence[str] = ()
) -> tuple[Child, int]:
    """With a prefix (valgrind) as one process."""
    folder.mkdir()
    folder.chmod(0o755)
    port = free_port()
    master = "master_process off;" if prefix else "worker_processes 1;"
    (folder / "nginx.conf").write_text(
        NGINX.format(folder=folder, http=http, server=server, port=port, modules=modules, master=master)
    )
    command = [*prefix, find_nginx() or "nginx", "-p", f"{folder}/", "-c", "nginx.conf"]
    child = Child(folder.name, command, core=None if prefix else core, cwd=folder)
    child.wait_for_port(port, SLOW if prefix else 30)
    return child, port


def nginx_proxy(folder: Path, upstream: int, prefix: Sequence[str] = ()) -> tuple[Child, int]:
    brotli = nginx_has_brotli()
    modules = f"load_module {nginx_modules()}/{BROTLI_MODULE}.so;" if brotli else ""
    http = PROXY.format(port=upstream, brotli=BROTLI if brotli else "")
    return nginx(folder, http, "location / { proxy_pass http://service; }", GATEWAY_CORE, modules, prefix)


def nginx_has_brotli() -> bool:
    return (nginx_modules() / f"{BROTLI_MODULE}.so").exists()


def fastgw(folder: Path, upstream: int, prefix: Sequence[str] = ()) -> tuple[Child, int]:
    """With a prefix as one process, which has patience: it is fifty times as slow, and so seems the service."""
    folder.mkdir()
    port = free_port()
    options: dict[str, Any] = {"encodings": ["br", "gzip"], "levels": {"gzip": 6, "br": 4}}
    timeouts = {}
    if prefix:
        options["flush_after"] = "10s"
        timeouts = {"header": "10m", "body": "10m", "idle": "10m"}
    config = {
        "server": {"workers": 1, "timeouts": timeouts, "listeners": [{"bind": f"127.0.0.1:{port}"}]},
        "observability": {"access_log": {"enabled": False}},
        "services": {"data": f"http://127.0.0.1:{upstream}"},
        "routes": [{
            "path": "/*", "service": "data",
            "policies": [{"compress": options}],
        }],
    }  # fmt: skip
    (folder / "gateway.yaml").write_text(json.dumps(config))
    command = [*prefix, sys.executable, "-m", "fastgw", "run", str(folder / "gateway.yaml")]
    child = Child("fastgw", [*command, "--single"] if prefix else command,
                  core=None if prefix else GATEWAY_CORE, cwd=Path.cwd())  # fmt: skip
    child.wait_for_port(port, SLOW if prefix else 30)
    return child, port


def read_answer(sock: socket.socket, data: bytearray) -> tuple[bytes, bytes]:
    """The head and the body of one answer, chunked or not; what comes after stays in `data`."""

    def more() -> None:
        got = sock.recv(262144)
        if not got:
            raise SystemExit("a gateway closed a connection")
        data.extend(got)

    while (end := data.find(b"\r\n\r\n")) < 0:
        more()
    head = bytes(data[:end]).lower()
    del data[: end + 4]
    if b"transfer-encoding: chunked" not in head:
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        while len(data) < length:
            more()
        body = bytes(data[:length])
        del data[:length]
        return head, body
    body = bytearray()
    while True:
        while (line := data.find(b"\r\n")) < 0:
            more()
        size = int(data[:line], 16)
        while len(data) < line + 2 + size + 2:
            more()
        body += data[line + 2 : line + 2 + size]
        del data[: line + 2 + size + 2]
        if size == 0:
            return head, bytes(body)


def check(port: int, coding: str, expected: bytes) -> int:
    """Bytes of a right answer."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(REQUEST.format(coding).encode())
        head, body = read_answer(sock, bytearray())
    if f"content-encoding: {coding}".encode() not in head:
        raise SystemExit(f"not in {coding}: {head!r}")
    if coding == "gzip":
        plain = zlib.decompress(body, 31)
    else:
        import brotli

        plain = brotli.decompress(body)
    if plain != expected:
        raise SystemExit("another body")
    return len(body)


def load(port: int, coding: str, seconds: float) -> float:
    """Answers per second."""
    counts = [0] * CONNECTIONS
    until = time.perf_counter() + seconds

    def client(index: int) -> None:
        request, data = REQUEST.format(coding).encode(), bytearray()
        with socket.create_connection(("127.0.0.1", port), 30) as sock:
            while time.perf_counter() < until:
                sock.sendall(request)
                read_answer(sock, data)
                counts[index] += 1

    threads = [threading.Thread(target=client, args=(index,)) for index in range(CONNECTIONS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begun)


def family(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def cpu_ns(pid: int) -> int:
    """Of all threads of the process and its children: the scheduler's own clock."""
    total = 0
    for each in family(pid):
        for task in Path(f"/proc/{each}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total


def measure(
    coding: str, gateways: Sequence[tuple[str, Child, int]], rounds: int, seconds: float, expected: bytes
) -> Iterator[dict[str, Any]]:
    """A row for each of them: nginx's, then fastgw's with the ratios."""
    rates: dict[str, list[float]] = {name: [] for name, _, _ in gateways}
    costs: dict[str, list[float]] = {name: [] for name, _, _ in gateways}
    sizes = {name: check(port, coding, expected) for name, _, port in gateways}
    for turn in range(rounds + 1):
        for name, child, port in gateways if turn % 2 else gateways[::-1]:
            before = cpu_ns(child.pid)
            begun = time.perf_counter()
            rate = load(port, coding, seconds)
            answers = rate * (time.perf_counter() - begun)
            if turn:
                rates[name].append(rate)
                costs[name].append((cpu_ns(child.pid) - before) / answers / 1000)
    for name in rates:
        yield {
            "coding": coding, "gateway": name, "answers_per_s": round(statistics.median(rates[name])),
            "cpu_us": round(statistics.median(costs[name])), "bytes": sizes[name],
            "ratio": middle(costs.get("nginx"), costs["fastgw"]) if name == "fastgw" else None,
        }  # fmt: skip


def middle(above: list[float] | None, below: list[float] | None) -> list[float] | None:
    """The quartiles of the ratios of neighbours."""
    if above is None or below is None:
        return None
    ratios = [one / other for one, other in zip(above, below, strict=True)]
    return [round(one, 2) for one in statistics.quantiles(ratios, n=4)]


def instructions(start: Callable[..., tuple[Child, int]], coding: str, folder: Path, upstream: int) -> int:
    """Per answer, of all threads."""
    counts = []
    for answers in (COUNTED, 2 * COUNTED):
        output = folder / f"callgrind.{answers}"
        prefix = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}", "--quiet"]
        child, port = start(folder / str(answers), upstream, prefix)
        try:
            with socket.create_connection(("127.0.0.1", port), SLOW) as sock:
                data = bytearray()
                for _ in range(answers):
                    sock.sendall(REQUEST.format(coding).encode())
                    read_answer(sock, data)
        finally:
            child.stop(60, signal.SIGTERM)
        counts.append(total(output.read_text(errors="replace")))
    return (counts[1] - counts[0]) // COUNTED


def page(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    def ratio(quartiles: list[float] | None) -> str:
        return "-" if quartiles is None else "{1:.2f} ({0:.2f} to {2:.2f})".format(*quartiles)

    cells = [
        [f"{row['coding']} {facts['levels'][row['coding']]}", row["gateway"], f"{row['answers_per_s']:,}",
         f"{row['cpu_us']:,}", f"{row['bytes']:,}",
         f"{row['instructions'] / 1000:,.0f}" if row.get("instructions") else "-",
         ratio(row["ratio"])]
        for row in rows
    ]  # fmt: skip
    head = ["", "gateway", "answers/s", "CPU µs/answer", "bytes", "thousand instructions/answer",
            "answers per CPU second, to nginx's"]  # fmt: skip
    without = "" if facts["nginx_brotli"] else f"nginx has no {BROTLI_MODULE} here: br is of fastgw alone.\n\n"
    return (
        f"# Compressing {SIZE // 1024} KiB of JSON\n\n"
        f"Made by `python -m benchmarks.compression` at {facts['commit']}, {facts['machine']}, nginx {facts['nginx']}, "
        f"{', '.join(facts['libraries'])}; {facts['rounds']} rounds of {facts['seconds']:g} s each, {CONNECTIONS} "
        f"connections, one core for a gateway; load of the machine {facts['load']:.1f} on {os.cpu_count()} cores. "
        "Medians, and the middle half of the ratios in brackets; above 1 is fastgw ahead. Answers per second mean "
        "little where the load is more than the cores: a process with three threads gets more of a core than one with "
        "one.\n\n"
        f"{without}{table(head, cells)}\n"
    )


def facts_of(rounds: int, seconds: float) -> dict[str, Any]:
    from importlib.metadata import version

    said = run(["sh", "-c", '"$0" -v 2>&1', find_nginx() or "nginx"], 10)
    return {
        "commit": run(["git", "rev-parse", "--short", "HEAD"], 10).strip(),
        "machine": f"Python {platform.python_version()}, {platform.machine()}",
        "nginx": said.strip().rpartition("/")[2], "nginx_brotli": nginx_has_brotli(),
        "levels": {"gzip": 6, "br": 4}, "rounds": rounds, "seconds": seconds,
        "libraries": [f"{name} {version(name)}" for name in ("deflate", "zlib-ng", "brotli")],
    }  # fmt: skip


def publish(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    text = page(rows, facts)
    save(RESULTS, "compression", {**facts, "rows": rows}, text)
    return text


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for one gateway in one round")
    parser.add_argument("--no-instructions", action="store_true", help="without callgrind")
    args = parser.parse_args(arguments)
    if find_nginx() is None:
        raise SystemExit("nginx is not installed: benchmarks/setup.sh")
    counted = not args.no_instructions and shutil.which("valgrind") is not None
    cores = sorted(os.sched_getaffinity(0))
    others = next((core for core in cores if core != GATEWAY_CORE), GATEWAY_CORE)
    os.sched_setaffinity(0, {others})
    facts, expected, rows = facts_of(args.rounds, args.seconds), rows_of_json(), []
    children: list[Child] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        (folder / "data.json").write_bytes(expected)
        (folder / "data.json").chmod(0o644)
        try:
            service, upstream = nginx(folder / "service", "", f"root {folder};", others)
            children.append(service)
            peer, peer_port = nginx_proxy(folder / "nginx", upstream)
            children.append(peer)
            ours, our_port = fastgw(folder / "fastgw", upstream)
            children.append(ours)
            both = [("nginx", peer, peer_port), ("fastgw", ours, our_port)]
            for coding in CODINGS:
                peers = both if coding == "gzip" or facts["nginx_brotli"] else both[1:]
                rows += measure(coding, peers, args.rounds, args.seconds, expected)
            facts["load"] = os.getloadavg()[0]
            for child in children[:0:-1]:
                child.stop()
                children.remove(child)
            os.sched_setaffinity(0, cores)
            publish(rows, facts)
            for number, row in enumerate(rows if counted else []):
                start = nginx_proxy if row["gateway"] == "nginx" else fastgw
                (folder / f"count{number}").mkdir(mode=0o755)
                row["instructions"] = instructions(start, row["coding"], folder / f"count{number}", upstream)
        finally:
            for child in children:
                child.stop()
    print(publish(rows, facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
