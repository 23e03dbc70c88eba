"""The gateways that are compared: where each is found, and how each is configured for each workload.

All of them: one worker (or thread), no access log, connections kept open on both sides, X-Forwarded-For and
X-Request-Id to the upstream. A gateway that can not do a workload in its stock form is not in that workload.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from . import edge, fastgw_config, sockets, transcode
from .backend import HOME, JSON
from .process import GATEWAY_CORE, Child, free_port, run
from .tokens import ISSUER, SECRET, TENANT

TEMPLATES = Path(__file__).resolve().parent / "templates"
ORIGIN = "https://app.example.com"
UNLIMITED = 1_000_000_000
"""A rate per key and second that no load reaches: the limiter does its whole work and admits."""


def fill(template: str, **values: object) -> str:
    """The template with every @NAME@ replaced. Raises ValueError when a name is left over or not used."""
    text = (TEMPLATES / template).read_text()
    for name, value in values.items():
        if f"@{name}@" not in text:
            raise ValueError(f"{template} has no @{name}@")
        text = text.replace(f"@{name}@", str(value))
    left = sorted(set(re.findall(r"@[A-Z]+@", text)))
    if left:
        raise ValueError(f"{template}: not filled in: {', '.join(left)}")
    return text


@dataclass(slots=True)
class Setup:
    """What a gateway is started for."""

    workload: str
    upstream: int
    folder: Path
    routes: int = 1000
    rate: int = UNLIMITED
    port: int = field(default_factory=free_port)
    single: bool = False
    """One process and no supervisor, for callgrind."""

    def put(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


Write = Callable[[Setup], Sequence[str]]
"""Writes the configuration into the setup's folder and returns the command."""


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


# Envoy


def find_envoy() -> str | None:
    """On the path, or in the environment that setup.sh makes."""
    own = HOME / "envoy" / "bin" / "envoy"
    return shutil.which("envoy") or (str(own) if own.exists() else None)


def typed(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/envoy.{kind}", **fields}


def http_filter(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": f"envoy.filters.http.{name}", "typed_config": typed(kind, **fields)}


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def envoy(jwt_cache: bool) -> Write:
    def write(setup: Setup) -> Sequence[str]:
        filters: list[dict[str, Any]] = []
        host: dict[str, Any] = {"name": "all", "domains": ["*"]}
        if setup.workload == "policy":
            filters = envoy_filters(setup, jwt_cache)
            host |= envoy_routes(setup)
        elif setup.workload == "static":
            answer = {"status": 200, "body": {"inline_string": JSON}}
            host["routes"] = [{"match": {"prefix": "/api/"}, "direct_response": answer}]
        else:
            route = {"cluster": "service", "timeout": "60s"}
            host["routes"] = [{"match": {"prefix": prefix}, "route": route} for prefix in ("/api/", "/bench.S/")]
        if setup.workload == "transcode":
            filters = [envoy_transcoder(setup)]
        router = http_filter("router", "extensions.filters.http.router.v3.Router", suppress_envoy_headers=True)
        setup.put("envoy.json", json.dumps(envoy_bootstrap(setup, host, [*filters, router]), indent=1))
        flags = ["--concurrency", "1", "--disable-hot-restart", "-l", "error"]
        return [find_envoy() or "envoy", "-c", "envoy.json", *flags]

    return write


def envoy_transcoder(setup: Setup) -> dict[str, Any]:
    return http_filter(
        "grpc_json_transcoder",
        "extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        proto_descriptor=str(transcode.descriptors(setup.folder)),
        services=[transcode.SERVICE],
    )


def envoy_bootstrap(setup: Setup, host: dict[str, Any], filters: list[dict[str, Any]]) -> dict[str, Any]:
    manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="edge",
        codec_type="AUTO",
        use_remote_address=True,
        generate_request_id=True,
        stream_idle_timeout="0s",
        route_config={"name": "routes", "virtual_hosts": [host]},
        http_filters=filters,
    )
    http = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    chain: dict[str, Any] = {"filters": [http]}
    if setup.workload in edge.TLS:
        cert, key = edge.certificate(setup.folder)
        context = {
            "tls_certificates": [
                {"certificate_chain": {"filename": str(cert)}, "private_key": {"filename": str(key)}}
            ],
            "alpn_protocols": ["h2"] if setup.workload in edge.HTTP2 else ["http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
        }
        socket_context = typed(
            "extensions.transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context=context
        )
        chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": socket_context}
    listener = {
        "name": "edge",
        "address": address(setup.port),
        "tcp_backlog_size": 4096,
        "filter_chains": [chain],
    }
    bounds = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    endpoint = {"endpoint": {"address": address(setup.upstream)}}
    cluster = {
        "name": "service",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [dict.fromkeys(bounds, 100_000)]},
        "load_assignment": {"cluster_name": "service", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if setup.workload in edge.HTTP2_UPSTREAM:
        explicit = {"http2_protocol_options": {"max_concurrent_streams": 1000}}
        options = typed("extensions.upstreams.http.v3.HttpProtocolOptions", explicit_http_config=explicit)
        name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        cluster["typed_extension_protocol_options"] = {name: options}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def envoy_routes(setup: Setup) -> dict[str, Any]:
    """The routes as a tree of prefixes (a list would be walked), then the one-segment template."""

    def one(i: int) -> dict[str, Any]:
        template = typed(
            "extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
            path_template=f"/api/svc{i:04d}/{{id}}",
        )
        name = "envoy.path.match.uri_template.uri_template_matcher"
        match = {"path_match_policy": {"name": name, "typed_config": template}}
        route = typed("config.route.v3.Route", match=match, route={"cluster": "service", "timeout": "60s"})
        return {"action": {"name": "route", "typed_config": route}}

    path = typed("type.matcher.v3.HttpRequestHeaderMatchInput", header_name=":path")
    path["@type"] = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
    tree = {
        "input": {"name": "path", "typed_config": path},
        "prefix_match_map": {"map": {f"/api/svc{i:04d}/": one(i) for i in range(setup.routes)}},
    }
    cors = typed(
        "extensions.filters.http.cors.v3.CorsPolicy",
        allow_origin_string_match=[{"exact": ORIGIN}],
        allow_methods="GET, POST, PUT, DELETE",
        allow_headers="Authorization, Content-Type, X-Api-Key",
        expose_headers="X-Request-Id",
        max_age="600",
        allow_credentials=True,
    )
    return {
        "matcher": {"matcher_tree": tree},
        "typed_per_filter_config": {"envoy.filters.http.cors": cors},
        "response_headers_to_add": [{"header": {"key": "X-Gateway", "value": "envoy"}}],
        "response_headers_to_remove": ["x-powered-by"],
    }


def envoy_filters(setup: Setup, jwt_cache: bool) -> list[dict[str, Any]]:
    """CORS, rate limit per key, JWT, and RBAC for the claim."""
    key = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
    keys = {"keys": [{"kty": "oct", "kid": "bench", "alg": "HS256", "k": key}]}
    provider: dict[str, Any] = {
        "issuer": ISSUER,
        "local_jwks": {"inline_string": json.dumps(keys)},
        "forward": False,
        "payload_in_metadata": "claims",
        "claim_to_headers": [{"header_name": "x-user-id", "claim_name": "sub"}],
    }
    if jwt_cache:
        provider["jwt_cache_config"] = {"jwt_cache_size": 1000}
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}

    def bucket(rate: int) -> dict[str, Any]:
        return {"max_tokens": rate, "tokens_per_fill": rate, "fill_interval": "1s"}

    by_key = {"request_headers": {"header_name": "x-api-key", "descriptor_key": "key"}}
    limit = http_filter(
        "local_ratelimit",
        "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="limit",
        token_bucket=bucket(UNLIMITED),
        filter_enabled=always,
        filter_enforced=always,
        max_dynamic_descriptors=10_000,
        # an entry without a value: each value that is seen has a bucket of its own
        descriptors=[{"entries": [{"key": "key"}], "token_bucket": bucket(setup.rate)}],
        rate_limits=[{"actions": [by_key]}],
    )
    authn = http_filter(
        "jwt_authn",
        "extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        providers={"bench": provider},
        rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}],
    )
    tenant = {
        "filter": "envoy.filters.http.jwt_authn",
        "path": [{"key": "claims"}, {"key": "tenant"}],
        "value": {"string_match": {"exact": TENANT}},
    }
    policy = {
        "permissions": [{"any": True}],
        "principals": [{"sourced_metadata": {"metadata_matcher": tenant}}],
    }
    rules = {"action": "ALLOW", "policies": {"tenant": policy}}
    return [
        http_filter("cors", "extensions.filters.http.cors.v3.Cors"),
        limit,
        authn,
        http_filter("rbac", "extensions.filters.http.rbac.v3.RBAC", rules=rules),
    ]


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
        Gateway("nginx", (*NGINX, *SOCKETS, "static"), nginx("stock"), find_nginx, ("-v",)),
        Gateway("nginx-4k-buffers", ("body_100k", "body_10m"), nginx("stock", ""), find_nginx, ("-v",)),
        Gateway("nginx-lua", ("policy",), nginx("lua"), nginx_with(*LUA_MODULES), ("-v",)),
        Gateway("nginx-njs", ("policy",), nginx("njs"), nginx_with(*NJS_MODULES), ("-v",), by_default=False),
        Gateway(
            "haproxy",
            (*PROXIES, *SOCKETS, "h2_h2", "static", "policy"),
            haproxy,
            lambda: shutil.which("haproxy"),
            ("-v",),
        ),
        Gateway("envoy", (*ENVOY, "h2_h2", "transcode", "static", "policy"), envoy(False), find_envoy, ("--version",)),
        Gateway("envoy-jwt-cache", ("policy",), envoy(True), find_envoy, ("--version",)),
        Gateway(
            "fastgw",
            (*PROXIES, *SOCKETS, "h2_h2", "transcode", "static", "policy"),
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
