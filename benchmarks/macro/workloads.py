"""What is measured, and what fastgw must reach in it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from . import caches, checks, edge, sockets, transcode
from .load import Load

ROUTES = 1000
KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Workload:
    """`metric` is the figure of merit, a key of the medians; `direct`: the backend alone is loaded too."""

    name: str
    title: str
    load: Load
    check: Callable[[int], None]
    metric: str = "cpu_us"
    direct: bool = False
    backend: str = ""
    """Another backend than the run's own."""


WORKLOADS: Mapping[str, Workload] = {
    w.name: w
    for w in (
        Workload("plain", "plain proxying, 8 request headers, 154-byte JSON", Load(), checks.plain),
        Workload(
            "policy",
            "1,000 routes, HS256 JWT, per-key rate limit, header edits, CORS",
            Load(routes=ROUTES),
            checks.policy,
        ),
        Workload("static", "static answer by the gateway", Load(), checks.static),
        Workload(
            "latency",
            "one connection, added to the backend's own",
            Load(connections=1),
            checks.plain,
            "added_us",
            True,
        ),
        Workload(
            "body_100k",
            "answers of 100 KiB",
            Load(connections=16, path=f"/api/bytes/{100 * KIB}"),
            checks.body(100 * KIB),
            "bytes_per_s",
            True,
        ),
        Workload(
            "body_10m",
            "answers of 10 MiB",
            Load(connections=4, path=f"/api/bytes/{10 * MIB}"),
            checks.body(10 * MIB),
            "bytes_per_s",
            True,
        ),
        Workload("tls", "TLS 1.3, connections kept, plain proxying", Load(tls=True), partial(edge.check, "tls")),
        Workload(
            "handshake",
            "TLS 1.3, a new connection with a whole handshake for each request",
            Load(connections=1, tool="s_time", tls=True),
            partial(edge.check, "handshake"),
        ),
        Workload(
            "resumed",
            "TLS 1.3, a new connection that resumes a session for each request",
            Load(connections=1, tool="s_time", tls=True, resumed=True),
            partial(edge.check, "resumed"),
        ),
        Workload(
            "h2c",
            "HTTP/2 without TLS, 16 connections of 32 streams",
            Load(connections=16, streams=32, tool="h2load"),
            partial(edge.check, "h2c"),
        ),
        Workload(
            "h2c_one",
            "HTTP/2 without TLS, 64 connections of one stream",
            Load(connections=64, tool="h2load"),
            partial(edge.check, "h2c_one"),
        ),
        Workload(
            "h2_tls",
            "HTTP/2 over TLS 1.3, 16 connections of 32 streams",
            Load(connections=16, streams=32, tool="h2load", tls=True),
            partial(edge.check, "h2_tls"),
        ),
        Workload(
            "ws_small",
            "WebSockets, 64 of them, messages of 128 bytes and their echoes",
            Load(tool="sockets", size=128),
            sockets.check,
        ),
        Workload(
            "ws_large",
            "WebSockets, 16 of them, messages of 64 KiB and their echoes",
            Load(connections=16, tool="sockets", size=64 * KIB),
            sockets.check,
        ),
        Workload(
            "h2_h2",
            "HTTP/2 without TLS on both sides, 16 connections of 32 streams",
            Load(connections=16, streams=32, tool="h2load"),
            partial(edge.check, "h2_h2"),
            backend="h2c",
        ),
        Workload(
            "grpc",
            "unary gRPC calls of 64 bytes, 16 connections of 32 streams",
            Load(connections=16, streams=32, tool="h2load", call=True),
            partial(edge.check, "grpc"),
            backend="h2c",
        ),
        Workload(
            "transcode",
            "JSON for a gRPC service, GET over HTTP/1.1, a message of 64 bytes",
            Load(),
            transcode.check,
            backend="h2c",
        ),
        Workload(
            "cache_small",
            "154 bytes of JSON out of the cache",
            Load(path=caches.path("cache_small")),
            caches.check("cache_small"),
        ),
        Workload(
            "cache_10k",
            "10 KiB out of the cache",
            Load(path=caches.path("cache_10k")),
            caches.check("cache_10k"),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Target:
    """fastgw's `metric` in a workload must be `better` than, or equal to, the peer's times `factor`.

    Without a peer, `factor` is the limit itself.
    """

    workload: str
    metric: str
    peer: str | None
    factor: float
    text: str
    better: Callable[[float, float], bool] = operator.le
    subject: str = "fastgw"

    def limit(self, peer_value: float) -> float:
        return peer_value * self.factor


TARGETS: tuple[Target, ...] = (
    Target("plain", "cpu_us", "nginx", 1 / 1.2, "CPU per request ≤ nginx ÷ 1.2"),
    Target("plain", "cpu_us", "haproxy", 1 / 1.1, "CPU per request ≤ HAProxy ÷ 1.1"),
    Target("plain", "cpu_us", "envoy", 1 / 2.3, "CPU per request ≤ Envoy ÷ 2.3"),
    Target("policy", "cpu_us", "haproxy", 1 / 1.6, "CPU per request ≤ HAProxy ÷ 1.6"),
    Target("policy", "cpu_us", "nginx-lua", 1 / 1.6, "CPU per request ≤ nginx with Lua ÷ 1.6"),
    Target("policy", "cpu_us", "envoy-jwt-cache", 1 / 2.8, "CPU per request ≤ Envoy with its JWT cache ÷ 2.8"),
    Target("static", "cpu_us", "nginx", 1.1, "CPU per request ≤ 1.1 x nginx `return 200`"),
    Target("latency", "added_us", "nginx", 1.0, "added latency, one connection ≤ nginx"),
    Target("body_100k", "bytes_per_s", "nginx", 0.9, "100 KiB bodies: bytes/s ≥ 0.9 x nginx", operator.ge),
    Target("body_10m", "bytes_per_s", "nginx", 0.9, "10 MiB bodies: bytes/s ≥ 0.9 x nginx", operator.ge),
    Target("tls", "cpu_us", "nginx", 0.85, "TLS 1.3, connections kept: CPU per request ≤ 0.85 x nginx"),
    Target("tls", "cpu_us", "envoy", 0.5, "TLS 1.3, connections kept: CPU per request ≤ 0.5 x Envoy"),
    Target("handshake", "cpu_us", "nginx", 1.0, "whole handshakes: CPU per connection ≤ nginx"),
    Target("resumed", "cpu_us", "nginx", 1.05, "resumed handshakes: CPU per connection ≤ 1.05 x nginx"),
    Target("h2c", "cpu_us", "nginx", 0.5, "h2c, 16 x 32 streams: CPU per request ≤ 0.5 x nginx"),
    Target("h2c", "cpu_us", "haproxy", 0.9, "h2c, 16 x 32 streams: CPU per request ≤ 0.9 x HAProxy"),
    Target("h2c", "cpu_us", "envoy", 0.25, "h2c, 16 x 32 streams: CPU per request ≤ 0.25 x Envoy"),
    Target("h2c_one", "cpu_us", "nginx", 0.85, "h2c, one stream a connection: CPU per request ≤ 0.85 x nginx"),
    Target("h2_tls", "cpu_us", "nginx", 0.6, "h2 over TLS, 16 x 32 streams: CPU per request ≤ 0.6 x nginx"),
    Target("h2_tls", "cpu_us", "haproxy", 0.9, "h2 over TLS, 16 x 32 streams: CPU per request ≤ 0.9 x HAProxy"),
    Target("ws_small", "cpu_us", "nginx", 1.0, "WebSocket echoes of 128 bytes: CPU per message ≤ nginx"),
    Target("ws_large", "cpu_us", "nginx", 1.0, "WebSocket echoes of 64 KiB: CPU per message ≤ nginx"),
    Target("h2_h2", "cpu_us", "envoy", 0.3, "h2c on both sides: CPU per request ≤ 0.3 x Envoy"),
    Target("grpc", "cpu_us", "envoy", 0.35, "unary gRPC calls: CPU per call ≤ 0.35 x Envoy"),
    Target("transcode", "cpu_us", "envoy", 1.0, "JSON for a gRPC service: CPU per request ≤ Envoy"),
    *(
        Target(f"cache_{size}", "cpu_us", peer, 1 / by, f"{what} out of the cache: CPU per request ≤ {peer} ÷ {by:g}")
        for size, what in (("small", "154 bytes"), ("10k", "10 KiB"))
        for peer, by in (("haproxy", 1.25), ("nginx", 1.35), ("varnish", 2))
    ),
    Target("reload", "reload_p99_ratio", None, 1.5, "p99 while 10,000 routes are reloaded ≤ 1.5 x quiet"),
    Target("routes", "look_up_ratio", None, 2.0, "look-up, 10 to 100,000 routes: ≤ 2 x"),
    Target("routes", "compile_s", None, 5.0, "compiling 100,000 checked routes ≤ 5 s"),
    Target("routes", "compile_growth_bytes", None, 300 * MIB, "compiling 100,000 checked routes ≤ 300 MiB"),
    Target("memory", "private_bytes_per_worker", None, 25 * MIB, "private memory of a worker ≤ 25 MiB"),
    Target("memory", "bytes_per_idle_connection", None, 6 * KIB, "user memory of an idle connection ≤ 6 KiB"),
    Target("memory", "bytes_per_idle_tls_connection", "nginx", 1.0, "user memory of an idle TLS connection ≤ nginx"),
    Target("memory", "slow_reader_growth_bytes", None, 4 * MIB, "1 GiB through a slow reader: RSS grows ≤ 4 MiB"),
)
