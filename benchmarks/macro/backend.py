"""The upstream of all gateways: our C server (compiled here), or nginx answering the same."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from .process import LOAD_CORE, BenchError, Child, free_port, run

HERE = Path(__file__).resolve().parent
HOME = Path(os.environ.get("FASTGW_BENCH_HOME") or Path.home() / ".cache" / "fastgw-bench")
"""What the set-up keeps between runs: Envoy's environment, the compiled backend."""

JSON = (
    '{"id":"c0ffee00-0000-4000-8000-000000000042","name":"widget","price":1299,"currency":"EUR",'
    '"stock":17,"tags":["a","b","c"],"note":"from the test backend"}'
)
"""The ordinary answer, 154 bytes; `backend.c` holds the same text."""

NGINX = """\
daemon off; worker_processes 1; pid nginx.pid; error_log stderr error;
events { worker_connections 8192; }
http {
    access_log off; default_type application/json; tcp_nodelay on;
    keepalive_requests 1000000000; keepalive_timeout 1h;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server {
        listen 127.0.0.1:@PORT@ backlog=4096;
        location / { add_header X-Powered-By bench; return 200 '@JSON@'; }
    }
}
"""


HTTP2 = """\
daemon off; worker_processes 1; pid nginx.pid; error_log stderr error;
events { worker_connections 8192; }
http {
    access_log off; default_type application/json; tcp_nodelay on; open_file_cache max=10;
    keepalive_requests 1000000000; keepalive_timeout 1h; http2_max_concurrent_streams 1000;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server {
        listen 127.0.0.1:@PORT@ http2 backlog=4096; http2_max_requests 1000000000;
        root @FOLDER@;
        location / { add_header X-Powered-By bench; return 200 '@JSON@'; }
        location /bench. { error_page 405 =200 /answer.grpc; return 405; }
        location = /answer.grpc { default_type application/grpc; add_trailer grpc-status 0; }
    }
}
"""
"""nginx over HTTP/2 without TLS, which also answers any unary gRPC call with the same message."""

MESSAGE = b"\0\0\0\0\x40" + b"\x0a\x3e" + b"m" * 62
"""A message as gRPC frames it: 64 bytes of protobuf, the field 1 of text."""


def compiled(name: str) -> Path:
    """The program of NAME.c here, compiled when its source has changed."""
    source = HERE / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    target = HOME / f"{name}-{digest}"
    if not target.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
        run([compiler, "-O2", "-Wall", "-o", str(target), str(source)], 60)
    return target


class Backend(Child):
    """The running backend; `kind` is "c", "nginx", or "h2c" (nginx over HTTP/2). `port` is where it listens."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.port = free_port()
        if kind == "c":
            command = [str(compiled("backend")), str(self.port)]
        elif kind in ("nginx", "h2c"):
            folder.mkdir()
            folder.chmod(0o755)
            text = NGINX if kind == "nginx" else HTTP2
            config = text.replace("@PORT@", str(self.port)).replace("@JSON@", JSON).replace("@FOLDER@", str(folder))
            (folder / "answer.grpc").write_bytes(MESSAGE)
            (folder / "nginx.conf").write_text(config)
            command = ["nginx", "-p", f"{folder}/", "-c", "nginx.conf"]
        else:
            raise BenchError(f"no such backend: {kind}")
        super().__init__(f"backend ({kind})", command, core=LOAD_CORE)
        self.wait_for_port(self.port)
