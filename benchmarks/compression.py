"""Compressing 100 KiB of JSON, beside nginx: `python -m benchmarks.compression [ROUNDS]`.

One worker each, on core 0; load and a service (another nginx, with one file) on core 1. gzip at level 6, and brotli at
quality 4 where nginx has its module (where not it says so, and fastgw is measured alone). In turn, after one turn that
does not count; the figure is the median over the rounds of answers per second, and of CPU time per answer of all
threads of the gateway. The answer to a first request is decoded and compared. Needs a machine with nothing else to do.
"""

from __future__ import annotations

import json
import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

from .macro.gateways import find_nginx, nginx_modules
from .macro.process import GATEWAY_CORE, Child, free_port

SIZE = 100 * 1024
CONNECTIONS = 8
SECONDS = 4.0
REQUEST = "GET /data.json HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {}\r\n\r\n"
NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; {modules}
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


def rows() -> bytes:
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


def nginx(folder: Path, http: str, server: str, core: int, modules: str = "") -> tuple[Child, int]:
    folder.mkdir()
    folder.chmod(0o755)
    port = free_port()
    (folder / "nginx.conf").write_text(
        NGINX.format(folder=folder, http=http, server=server, port=port, modules=modules)
    )
    command = [find_nginx() or "nginx", "-p", f"{folder}/", "-c", "nginx.conf"]
    child = Child(folder.name, command, core=core, cwd=folder)
    child.wait_for_port(port, 30)
    return child, port


def fastgw(folder: Path, upstream: int) -> tuple[Child, int]:
    folder.mkdir()
    port = free_port()
    config = {
        "server": {"workers": 1, "listeners": [{"bind": f"127.0.0.1:{port}"}]},
        "observability": {"access_log": {"enabled": False}},
        "services": {"data": f"http://127.0.0.1:{upstream}"},
        "routes": [{
            "path": "/*", "service": "data",
            "policies": [{"compress": {"encodings": ["br", "gzip"], "levels": {"gzip": 6, "br": 4}}}],
        }],
    }  # fmt: skip
    (folder / "gateway.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "fastgw", "run", str(folder / "gateway.yaml")]
    child = Child("fastgw", command, core=GATEWAY_CORE, cwd=Path.cwd())
    child.wait_for_port(port, 30)
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


def load(port: int, coding: str) -> float:
    """Answers per second."""
    counts = [0] * CONNECTIONS
    until = time.perf_counter() + SECONDS

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


def measure(coding: str, gateways: Sequence[tuple[str, Child, int]], rounds: int, expected: bytes) -> None:
    rates: dict[str, list[float]] = {name: [] for name, _, _ in gateways}
    costs: dict[str, list[float]] = {name: [] for name, _, _ in gateways}
    sizes = {name: check(port, coding, expected) for name, _, port in gateways}
    for turn in range(rounds + 1):
        for name, child, port in gateways if turn % 2 else gateways[::-1]:
            before = cpu_ns(child.pid)
            begun = time.perf_counter()
            rate = load(port, coding)
            answers = rate * (time.perf_counter() - begun)
            if turn:
                rates[name].append(rate)
                costs[name].append((cpu_ns(child.pid) - before) / answers / 1000)
    for name in rates:
        print(f"{coding:5} {name:8} {statistics.median(rates[name]):8.0f} answers/s "
              f"{statistics.median(costs[name]):8.0f} us CPU/answer  {sizes[name]} bytes")  # fmt: skip


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    if find_nginx() is None:
        raise SystemExit("nginx is not installed: benchmarks/setup.sh")
    cores = sorted(os.sched_getaffinity(0))
    others = next((core for core in cores if core != GATEWAY_CORE), GATEWAY_CORE)
    os.sched_setaffinity(0, {others})
    expected = rows()
    with_brotli = (nginx_modules() / f"{BROTLI_MODULE}.so").exists()
    children: list[Child] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        (folder / "data.json").write_bytes(expected)
        (folder / "data.json").chmod(0o644)
        try:
            service, upstream = nginx(folder / "service", "", f"root {folder};", others)
            children.append(service)
            http = PROXY.format(port=upstream, brotli=BROTLI if with_brotli else "")
            modules = f"load_module {nginx_modules()}/{BROTLI_MODULE}.so;" if with_brotli else ""
            server = "location / { proxy_pass http://service; }"
            peer, peer_port = nginx(folder / "nginx", http, server, GATEWAY_CORE, modules)
            children.append(peer)
            ours, our_port = fastgw(folder / "fastgw", upstream)
            children.append(ours)
            both = [("nginx", peer, peer_port), ("fastgw", ours, our_port)]
            measure("gzip", both, rounds, expected)
            if not with_brotli:
                print(f"nginx has no {BROTLI_MODULE}: br of fastgw alone")
            measure("br", both if with_brotli else both[1:], rounds, expected)
        finally:
            for child in children:
                child.stop()


if __name__ == "__main__":
    main()
