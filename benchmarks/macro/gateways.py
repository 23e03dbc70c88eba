"""The gateways that are compared: where each is found, and how each is configured for each workload.

All of them: one worker (or thread), no access log, connections kept open on both sides, X-Forwarded-For and
X-Request-Id to the upstream. A gateway that can not do a workload in its stock form is not in that workload.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from . import caches, edge, fastgw_config, sockets, transcode
from .backend import JSON
from .envoy import envoy, find_envoy
from .process import GATEWAY_CORE, Child, run
from .setups import ORIGIN, Setup, Write, fill
from .tokens import SECRET


@dataclass(frozen=True, slots=True)
class Gateway:
    name: str
    workloads: tuple[str, ...]
    write: Write
    find: Callable[[], str | None]
    version_command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    by_default: bool = True

    def version(self) -> str | None:
        """Its version number, or None when it is not installed."""
        binary = self.find()
        if binary is None:
            return None
        # nginx says it on stderr
        said = run(["sh", "-c", '"$@" 2>&1', "sh", binary, *self.version_command], 60)
        number = re.search(r"\d+\.\d+(?:\.\d+)?", said)
        return number.group() if number else "unknown"

    def start(self, setup: Setup, prefix: Sequence[str] = (), core: int | None = GATEWAY_CORE) -> Child:
        """The gateway, accepting connections on `setup.port`. `prefix` goes before its command (valgrind)."""
        setup.folder.mkdir(parents=True)
        setup.folder.chmod(0o755)  # nginx's worker drops root and must pass
        command = [*prefix, *self.write(setup)]
        child = Child(self.name, command, core=core, cwd=setup.folder, env=self.env)
        try:
            child.wait_for_port(setup.port, 120 if prefix else 30)
        except BaseException:
            child.stop()
            raise
        return child


# nginx


def find_nginx() -> str | None:
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")


@cache
def nginx_modules() -> Path:
    said = run(["sh", "-c", "nginx -V 2>&1"], 10)
    found = re.search(r"--modules-path=(\S+)", said)
    return Path(found.group(1) if found else "/usr/lib/nginx/modules")


def nginx_with(*modules: str) -> Callable[[], str | None]:
    """Finds nginx when these dynamic modules are there too."""

    def find() -> str | None:
        binary = find_nginx()
        return binary if binary and all((nginx_modules() / f"{m}.so").exists() for m in modules) else None

    return find


LUA_MODULES = ("ndk_http_module", "ngx_http_lua_module")
NJS_MODULES = ("ngx_http_js_module",)


# Its own default (8 buffers of 4 KiB) halves its throughput of large bodies: it is compared at its better.
NGINX_BUFFERS = "    proxy_buffers 8 16k;\n    proxy_busy_buffers_size 64k;"


def nginx(flavour: str, buffers: str = NGINX_BUFFERS) -> Write:
    def write(setup: Setup) -> Sequence[str]:
        modules = {"lua": LUA_MODULES, "njs": NJS_MODULES}.get(flavour, ())
        http = ""
        if setup.workload == "policy":
            http, server = nginx_policy(setup, flavour)
        elif setup.workload in caches.WORKLOADS:
            http, server = caches.NGINX_HTTP, caches.NGINX_LOCATION
        elif setup.workload == "static":
            server = fill("nginx-static.conf", JSON=JSON)
        else:
            server = fill("nginx-socket.conf" if setup.workload in sockets.WORKLOADS else "nginx-plain.conf")
        text = fill(
            "nginx.conf",
            WORKLOAD=setup.workload,
            MASTER="master_process off;" if setup.single else "worker_processes 1;",
            MODULES="\n".join(f"load_module {nginx_modules()}/{m}.so;" for m in modules),
            UPSTREAM=setup.upstream,
            LISTEN=nginx_listen(setup),
            BUFFERS=buffers,
            HTTP=http,
            SERVER=server,
        )
        setup.put("nginx.conf", text)
        return [find_nginx() or "nginx", "-p", f"{setup.folder}/", "-c", "nginx.conf"]

    return write


def nginx_listen(setup: Setup) -> str:
    words = [f"listen 127.0.0.1:{setup.port} backlog=4096"]
    words += ["ssl"] if setup.workload in edge.TLS else []
    words += ["http2"] if setup.workload in edge.HTTP2 else []
    listen = " ".join(words) + ";"
    if setup.workload in edge.TLS:
        cert, key = edge.certificate(setup.folder)
        listen += f" ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;"
        listen += f" ssl_conf_command Ciphersuites {edge.CIPHERSUITE};"
    if setup.workload in edge.HTTP2:
        listen += " http2_max_concurrent_streams 128;"
    return listen


def nginx_policy(setup: Setup, flavour: str) -> tuple[str, str]:
    """What policy adds to the http and to the server block."""
    if flavour == "lua":
        setup.put("bearer.lua", fill("bearer.lua", SECRET=SECRET))
        load = f'    lua_package_path "{setup.folder}/?.lua;;";\n    init_by_lua_block {{ require "bearer" }}'
        check = '        access_by_lua_block { require("bearer").check() }'
        identity = ""
    else:
        setup.put("bearer.js", fill("bearer.js", SECRET=SECRET))
        load = "    js_path .;\n    js_import bearer from bearer.js;\n    js_set $subject bearer.subject;"
        check = '        if ($subject = "") { return 401; }'
        identity = '        proxy_set_header Authorization "";\n        proxy_set_header X-User-Id $subject;'
    rate = min(setup.rate, 10_000_000)  # more overflows its thousandths of a request
    http = fill("nginx-policy-http.conf", RATE=rate, ORIGIN=ORIGIN, JWTHTTP=load)
    routes = "\n".join(
        f"        location /api/svc{i:04d}/ {{ proxy_pass http://backend; }}" for i in range(setup.routes)
    )
    return http, fill("nginx-policy.conf", BURST=rate, JWT=check, IDENTITY=identity, ROUTES=routes)


# HAProxy


def haproxy_bind(setup: Setup) -> str:
    words = f"bind 127.0.0.1:{setup.port} backlog 4096"
    if setup.workload in edge.TLS:
        edge.certificate(setup.folder)
        words += f" ssl crt {setup.folder}/edge.pem ssl-min-ver TLSv1.3 ciphersuites {edge.CIPHERSUITE}"
        words += " alpn h2" if setup.workload in edge.HTTP2 else " alpn http/1.1"
    elif setup.workload in edge.HTTP2:
        words += " proto h2"
    return words


def haproxy(setup: Setup) -> Sequence[str]:
    more = ""
    if setup.workload == "policy":
        frontend = fill("haproxy-policy.cfg", ORIGIN=ORIGIN, SECRET=SECRET, RATE=setup.rate)
        setup.put("routes.map", "".join(f"/api/svc{i:04d}/ service\n" for i in range(setup.routes)))
        more = "backend per_key\n    stick-table type string len 64 size 100k expire 1m store http_req_rate(1s)"
    elif setup.workload == "static":
        frontend = fill("haproxy-static.cfg", JSON=JSON)
    else:
        frontend = fill("haproxy-plain.cfg")
    if setup.workload in caches.WORKLOADS:
        frontend, more = caches.HAPROXY_USE + frontend, caches.HAPROXY_CACHE
    more_server = " proto h2" if setup.workload in edge.HTTP2_UPSTREAM else ""
    text = fill(
        "haproxy.cfg",
        WORKLOAD=setup.workload,
        MAXCONN=9_900,  # it wants two descriptors for each, and 20,000 is a usual hard limit
        BIND=haproxy_bind(setup),
        UPSTREAM=f"{setup.upstream}{more_server}",
        FRONTEND=frontend,
        MORE=more,
    )
    setup.put("haproxy.cfg", text)
    return [shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", "haproxy.cfg"]


def varnish(setup: Setup) -> Sequence[str]:
    return caches.varnish(setup.workload, setup.upstream, setup.port, setup.folder)


# fastgw


def fastgw(token_cache: bool) -> Write:
    def write(setup: Setup) -> Sequence[str]:
        text = fastgw_config.render(
            setup.workload,
            port=setup.port,
            upstream=setup.upstream,
            routes=setup.routes,
            rate=setup.rate,
            token_cache=token_cache,
            certificate=edge.certificate(setup.folder) if setup.workload in edge.TLS else None,
        )
        setup.put("gateway.yaml", text)
        if setup.workload == "transcode":
            transcode.descriptors(setup.folder)
        command = [sys.executable, "-m", "fastgw", "run", "gateway.yaml"]
        return [*command, *fastgw_config.SINGLE_PROCESS] if setup.single else command

    return write


def find_fastgw() -> str | None:
    return sys.executable if (fastgw_config.ROOT / "fastgw" / "__main__.py").exists() else None


FASTGW_ENV = {"PYTHONPATH": str(fastgw_config.ROOT)}
EDGE = (*edge.TLS, "h2c", "h2c_one", "grpc")
SOCKETS = sockets.WORKLOADS
PROXIES = ("plain", "latency", "body_100k", "body_10m", "memory", *EDGE)

# after h2load broke off its calls, nginx's grpc_pass answered 502 over kept connections
NGINX = tuple(name for name in PROXIES if name != "grpc")
# openssl s_time speaks HTTP/1.0, which Envoy refuses
ENVOY = tuple(name for name in PROXIES if name not in ("handshake", "resumed"))

GATEWAYS: Mapping[str, Gateway] = {
    gateway.name: gateway
    for gateway in (
        Gateway("nginx", (*NGINX, *SOCKETS, *caches.WORKLOADS, "static"), nginx("stock"), find_nginx, ("-v",)),
        Gateway("nginx-4k-buffers", ("body_100k", "body_10m"), nginx("stock", ""), find_nginx, ("-v",)),
        Gateway("nginx-lua", ("policy",), nginx("lua"), nginx_with(*LUA_MODULES), ("-v",)),
        Gateway("nginx-njs", ("policy",), nginx("njs"), nginx_with(*NJS_MODULES), ("-v",), by_default=False),
        Gateway(
            "haproxy",
            (*PROXIES, *SOCKETS, *caches.WORKLOADS, "h2_h2", "static", "policy"),
            haproxy,
            lambda: shutil.which("haproxy"),
            ("-v",),
        ),
        Gateway(
            "envoy",
            (*ENVOY, *caches.WORKLOADS, "h2_h2", "transcode", "static", "policy"),
            envoy(False),
            find_envoy,
            ("--version",),
        ),
        Gateway("varnish", caches.WORKLOADS, varnish, caches.find_varnish, ("-V",)),
        Gateway("envoy-jwt-cache", ("policy",), envoy(True), find_envoy, ("--version",)),
        Gateway(
            "fastgw",
            (*PROXIES, *SOCKETS, *caches.WORKLOADS, "h2_h2", "transcode", "static", "policy"),
            fastgw(True),
            find_fastgw,
            ("-c", "import fastgw; print(fastgw.__version__)"),
            env=FASTGW_ENV,
        ),
        Gateway(
            "fastgw-no-token-cache",
            ("policy",),
            fastgw(False),
            find_fastgw,
            ("-c", "import fastgw; print(fastgw.__version__)"),
            env=FASTGW_ENV,
        ),
    )
}
