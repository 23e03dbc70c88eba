"""What a flood of made-up tokens does to clients whose tokens are known: `python -m benchmarks.token_flood [RATE]`.

One worker. Clients with remembered tokens ask a thousand times a second; beside them RATE (2000) requests a second
come from others: in turn with remembered tokens as well (the same load, quiet) and with distinct tokens whose RS256
signature is rubbish (the flood). Each round gives the first clients' p50 and p99; the figure is the median of the
rounds' ratios of p99. Needs a machine with nothing else to do.
"""

from __future__ import annotations

import base64
import multiprocessing
import secrets
import socket
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from typing import Any

import jwt as pyjwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fastgw.testing import GatewayProcess

ROUNDS, SECONDS, BATCH = 5, 5.0, 8
HEAD = "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n"


def others(address: tuple[str, int], rate: float, requests: list[bytes], ready: Any, stop: Event) -> None:
    """Sends them in batches at fixed times."""
    with socket.create_connection(address) as sock:
        ready.set()
        at = time.perf_counter()
        for number in range(0, len(requests) - BATCH, BATCH):
            if stop.is_set():
                return
            sock.sendall(b"".join(requests[number : number + BATCH]))
            answers = 0
            while answers < BATCH:
                data = sock.recv(65536)
                if not data:
                    return
                answers += data.count(b"HTTP/1.1 ")
            at += BATCH / rate
            time.sleep(max(0.0, at - time.perf_counter()))


def known_clients(address: tuple[str, int], request: bytes) -> tuple[float, float]:
    """p50 and p99 in microseconds."""
    times = []
    with socket.create_connection(address) as sock:
        at = time.perf_counter()
        while len(times) < SECONDS * 1000:
            begun = time.perf_counter()
            sock.sendall(request)
            sock.recv(65536)
            times.append(time.perf_counter() - begun)
            at += 0.001
            time.sleep(max(0.0, at - time.perf_counter()))
    times.sort()
    return times[len(times) // 2] * 1e6, times[len(times) * 99 // 100] * 1e6


def beside(address: tuple[str, int], rate: float, request: bytes, make: Callable[[], bytes]) -> tuple[float, float]:
    requests = [make() for _ in range(int(rate * SECONDS * 1.5))]
    context = multiprocessing.get_context("fork")
    ready, stop = context.Event(), context.Event()
    process = context.Process(target=others, args=(address, rate, requests, ready, stop))
    process.start()
    ready.wait()
    found = known_clients(address, request)
    stop.set()
    process.join()
    return found


def main() -> None:
    rate = float(sys.argv[1]) if len(sys.argv) > 1 else 2000.0
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    token = pyjwt.encode({"sub": "ada", "exp": int(time.time()) + 3600}, private, "RS256")
    start = token.rpartition(".")[0]

    def good() -> bytes:
        return HEAD.format(token).encode()

    def made_up() -> bytes:
        signature = base64.urlsafe_b64encode(secrets.token_bytes(256)).rstrip(b"=").decode()
        return HEAD.format(f"{start}.{signature}").encode()

    config = {
        "observability": {"access_log": {"enabled": False}},
        "routes": [{"path": "/*", "policies": [{"jwt": {"public_key": pem}}, {"respond": {"body": "in"}}]}],
    }
    ratios = []
    with GatewayProcess(config) as gateway:
        known_clients(gateway.address, good())
        for number in range(ROUNDS):
            quiet = beside(gateway.address, rate, good(), good)
            flood = beside(gateway.address, rate, good(), made_up)
            ratios.append(flood[1] / quiet[1])
            print(f"round {number + 1}: quiet p50 {quiet[0]:.0f} p99 {quiet[1]:.0f} us, "
                  f"flood p50 {flood[0]:.0f} p99 {flood[1]:.0f} us")  # fmt: skip
    print(f"p99 in the flood / quiet p99: {statistics.median(ratios):.2f} (median of {ROUNDS})")


if __name__ == "__main__":
    main()
