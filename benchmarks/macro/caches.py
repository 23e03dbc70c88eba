"""Answers out of the cache: how each gateway is told to keep them, and whether it does.

The requests carry a token, as those of the other workloads do. What is kept here is for everybody (`public`), and
gateways that leave requests with a token alone are told to drop it first.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from .checks import ask, bearer, expect

KIB = 1024
SIZES = {"cache_small": 154, "cache_10k": 10 * KIB}
WORKLOADS = tuple(SIZES)

NGINX_HTTP = (
    "    proxy_cache_path cache levels=1:2 keys_zone=c:16m inactive=1h max_size=256m use_temp_path=off;\n"
    "    open_file_cache max=1000 inactive=1h;"
)
NGINX_LOCATION = """        location /api/ {
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Request-Id $request_id;
            proxy_cache c;
            proxy_cache_lock on;
            add_header X-Cache $upstream_cache_status;
            proxy_pass http://backend;
        }"""
HAPROXY_CACHE = "cache c\n    total-max-size 64\n    max-object-size 1000000\n    max-age 3600\n    process-vary on"
HAPROXY_USE = (
    "    http-request del-header Authorization\n    http-request cache-use c\n    http-response cache-store c\n"
)
FASTGW = {"cache": {}}
VCL = """vcl 4.1;
# Varnish for the workload "@WORKLOAD@"
backend service { .host = "127.0.0.1"; .port = "@UPSTREAM@"; .max_connections = 4096; }
sub vcl_recv {
    if (req.url !~ "^/api/") { return (synth(404)); }
    # it passes requests with credentials
    unset req.http.Authorization;
    unset req.http.Cookie;
    set req.http.X-Request-Id = req.xid;
    return (hash);
}
sub vcl_backend_response { set beresp.grace = 0s; }
"""


def path(workload: str) -> str:
    return f"/api/kept/{SIZES[workload]}"


def check(workload: str) -> Callable[[int], None]:
    """The backend counts what it is asked: the same number twice is an answer that was kept."""

    def checked(port: int) -> None:
        size = SIZES[workload]
        first = ask(port, path(workload), bearer())
        expect(first.status == 200 and len(first.body) == size, f"{size} bytes", first)
        again = ask(port, path(workload), bearer())
        number = first.headers.get("x-serial")
        expect(number and again.headers.get("x-serial") == number and again.body == first.body, "a kept answer", again)
        other = ask(port, path(workload) + "?other", bearer())
        expect(other.headers.get("x-serial") != number, "another answer for another query", other)

    return checked


def find_varnish() -> str | None:
    return shutil.which("varnishd") or ("/usr/sbin/varnishd" if Path("/usr/sbin/varnishd").exists() else None)


def varnish(workload: str, upstream: int, port: int, folder: Path) -> Sequence[str]:
    """A thread for each connection: all of them on the core of the gateway."""
    (folder / "bench.vcl").write_text(VCL.replace("@WORKLOAD@", workload).replace("@UPSTREAM@", str(upstream)))
    parameters = {
        "thread_pools": 1,
        "thread_pool_min": 100,
        "timeout_idle": 3600,
        "backend_idle_timeout": 3600,
    }
    told = [word for name, value in parameters.items() for word in ("-p", f"{name}={value}")]
    command = [find_varnish() or "varnishd", "-F", "-n", str(folder / "work"), "-a", f"127.0.0.1:{port}"]
    return [*command, "-f", str(folder / "bench.vcl"), "-s", "malloc,64m", "-T", "none", *told]
