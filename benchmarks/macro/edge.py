"""What the workloads over TLS and HTTP/2 need: a certificate, and the tools that load and check them.

h2load (nghttp2-client) loads HTTP/2, `openssl s_time` makes new connections with one request each.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .backend import JSON, MESSAGE
from .process import LOAD_CORE, BenchError, run

TLS = ("tls", "handshake", "resumed", "h2_tls")
HTTP2 = ("h2c", "h2c_one", "h2_tls", "h2_h2", "grpc")
HTTP2_UPSTREAM = ("h2_h2", "grpc", "transcode")
CALL = "/bench.S/Get"
CIPHERSUITE = "TLS_AES_128_GCM_SHA256"
HEADERS = (
    "accept: application/json, text/plain, */*",
    "accept-language: en-GB,en;q=0.9,de;q=0.7",
    "accept-encoding: gzip, deflate, br",
    "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    "origin: https://app.example.com",
    "referer: https://app.example.com/orders",
    "x-api-key: client-0001",
)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed one for localhost with a P-256 key: (certificate and key in one file, key)."""
    cert, key, both = folder / "edge.crt", folder / "edge.key", folder / "edge.pem"
    if not both.exists():
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        run(["openssl", "req", "-x509", *kind, "-keyout", str(key), "-out", str(cert), "-days", "90", *subject], 30)
        both.write_text(cert.read_text() + key.read_text())
        for path in (cert, key, both):
            path.chmod(0o644)  # nginx's worker drops root
    return cert, key


def check(workload: str, port: int) -> None:
    """Does it answer rightly, in the protocol that is measured?"""
    if workload == "grpc":
        return check_call(port)
    scheme = "https" if workload in TLS else "http"
    version = dict.fromkeys(HTTP2, "--http2-prior-knowledge") | {"h2_tls": "--http2"}
    url = f"{scheme}://127.0.0.1:{port}/api/item"
    said = run(["curl", "-sk", version.get(workload, "--http1.1"), "-w", " %{http_version} %{http_code}", url], 10)
    wanted = f"{JSON} {'2' if workload in HTTP2 else '1.1'} 200"
    if said != wanted:
        raise BenchError(f"wrong answer: {said!r} instead of {wanted!r}")


def check_call(port: int) -> None:
    """A unary call: the message, and the status in the trailers."""
    with message() as file:
        call = ["-H", "content-type: application/grpc", "-H", "te: trailers", "-d", file]
        said = run(["nghttp", "-v", *call, f"http://127.0.0.1:{port}{CALL}"], 10)
    if "grpc-status: 0" not in said or MESSAGE[7:].decode() not in said:
        raise BenchError(f"wrong answer: {said!r}")


@contextmanager
def message() -> Iterator[str]:
    """A file with what a call sends."""
    with tempfile.NamedTemporaryFile(prefix="fastgw-bench-") as file:
        file.write(MESSAGE)
        file.flush()
        yield file.name


def h2load(
    port: int, tls: bool, connections: int, streams: int, token: str, seconds: float, call: bool = False
) -> tuple[int, float, float]:
    """(requests, seconds, bytes); `call`: unary gRPC calls. BenchError when one failed."""
    with ExitStack() as stack:
        whole = max(1, round(seconds))
        told = [*HEADERS, f"authorization: Bearer {token}"]
        more: list[str] = []
        if call:
            told = ["content-type: application/grpc", "te: trailers", f"authorization: Bearer {token}"]
            more = ["-d", stack.enter_context(message())]
        headers = [part for header in told for part in ("-H", header)]
        url = f"{'https' if tls else 'http'}://127.0.0.1:{port}{CALL if call else '/api/item'}"
        command = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", "-D", str(whole), *more, *headers, url]
        return loaded(command, whole)


def loaded(command: list[str], whole: int) -> tuple[int, float, float]:
    started = time.monotonic()
    said = run(command, whole + 20, core=LOAD_CORE)
    lasted = time.monotonic() - started
    counts = re.search(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", said)
    traffic = re.search(r"traffic: .*?\((\d+)\) total", said)
    if counts is None or traffic is None or int(counts[3]) or counts[1] != counts[2] or not int(counts[2]):
        raise BenchError(f"not a measurement: {said[-500:]}")
    return int(counts[2]), lasted, float(traffic[1])


def new_connections(port: int, resumed: bool, seconds: float) -> tuple[int, float, float]:
    """One after the other, each with a request."""
    whole = max(1, round(seconds))
    kind = "-reuse" if resumed else "-new"
    command = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", kind, "-www", "/api/item", "-time", str(whole)]
    said = run(command, whole + 20, core=LOAD_CORE)
    found = re.search(r"(\d+) connections in (\d+) real seconds, (\d+) bytes read per connection", said)
    if found is None or not int(found[1]):
        raise BenchError(f"not a measurement: {said[-500:]}")
    return int(found[1]), float(max(1, int(found[2]))), float(found[1]) * float(found[3])
