"""Prometheus metrics over all workers, rendered outside them.

Workers count into shared memory (`_core/record.pyx`); here the blocks of all workers are added up and given to
prometheus-client, whose exposition format this is. Labels are bounded: what has no slot of its own is `other`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from fastgw._core.record import BOUNDS, CACHED, CODINGS, STATUS_CLASSES, WS_CLOSES, Stats
from fastgw.observe.attempts import attempts, concurrency
from fastgw.observe.cache import cache_metrics
from fastgw.observe.limits import LimitRow, limits
from fastgw.observe.mirrors import mirrors
from fastgw.observe.queues import queues
from fastgw.observe.secrets import SecretRead, secret_metrics
from fastgw.observe.upstreams import WatchedCircuit, WatchedEndpoint, circuit_metrics, health_metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (
    ("fastgw_request_seconds", "From the request's head to the end of its answer."),
    ("fastgw_upstream_seconds", "From the dispatch to the end of the upstream's answer."),
    ("fastgw_gateway_seconds", "The gateway's own share: total less upstream."),
)
CONNECTIONS = (
    ("accepted", "Client connections accepted."),
    ("closed", "Client connections closed."),
    ("refused", "Client connections refused because there were too many."),
)
TLS_REASONS = (
    "timeout", "closed", "busy", "plain", "version", "cipher", "name", "alpn", "certificate", "alert", "protocol",
)  # fmt: skip
"""Why a handshake came to nothing, as record.COUNTERS has them after `tls_`."""
FEEDS = (
    ("streams", "Streams of services opened for websocket_broadcast."),
    ("messages", "Messages that came by them."),
    ("dropped", "Messages not sent to a client that was too slow."),
)
POOL_STATES = ("busy", "idle", "connecting")


class ServedCertificate(Protocol):
    """What metrics want to know of a certificate; `not_after` is seconds since 1970."""

    @property
    def listener(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def not_after(self) -> int: ...


class Discovered(Protocol):
    """What metrics want to know of the discovery of a service; `age` in seconds, None before the first answer."""

    service: str
    age: float | None
    endpoints: int
    updates: int
    failures: int


class IssuerKeys(Protocol):
    """What metrics want to know of the keys of an issuer; `age` in seconds, None before the first answer."""

    issuer: str
    keys: int
    age: float | None
    fetches: int
    failures: int


class TriedPlan(Protocol):
    """What metrics want to know of one of two plans that are compared."""

    requests: int
    errors: int

    def quantile(self, q: float) -> float | None: ...


@dataclass(slots=True)
class View:
    """What is known at one moment, over all workers.

    stats        the blocks of the workers, also of dead ones: what they counted stays counted
    routes       slot → route name; slot 0 is `other`
    services     slot → service name
    snapshots    Engine.snapshot() of each worker that answered
    api_keys     (consumer, id, uses) of API keys that were used, at most max_label_values
    certificates those that are served; none without TLS
    rollouts     ends of configurations that were tried, by how
    cache        what the storage of answers counts
    cache_disk   what its level on disk does, where there is one
    limits       what became of requests at limits, by route and limit
    limit_table  what the table of limits counts, and its slots
    trial        the plan in force and the one that is tried, while one is
    """

    stats: Sequence[Stats] = ()
    routes: Mapping[int, str] = field(default_factory=dict)
    services: Mapping[int, str] = field(default_factory=dict)
    snapshots: Sequence[Mapping[str, Any]] = ()
    generation: int = 0
    workers: int = 0
    restarts: int = 0
    reloads: Mapping[str, int] = field(default_factory=dict)
    dropped_lines: int = 0
    version: str = ""
    certificates: Sequence[ServedCertificate] = ()
    certificate_failures: int = 0
    discovery: Sequence[Discovered] = ()
    health: Sequence[WatchedEndpoint] = ()
    circuits: Sequence[WatchedCircuit] = ()
    keys: Sequence[IssuerKeys] = ()
    secrets: Sequence[SecretRead] = ()
    api_keys: Sequence[tuple[str, str, int]] = ()
    rollouts: Mapping[str, int] = field(default_factory=dict)
    trial: tuple[TriedPlan, TriedPlan] | None = None
    cache: Mapping[str, int] = field(default_factory=dict)
    cache_disk: Mapping[str, Any] | None = None
    limits: Sequence[LimitRow] = ()
    limit_table: Mapping[str, int] = field(default_factory=dict)


class Collector:
    """A collector of prometheus-client over one View."""

    def __init__(self, view: View) -> None:
        self.view = view

    def collect(self) -> Iterator[Metric]:
        yield from self.requests()
        yield from self.errors()
        yield from self.connections()
        yield from self.http2()
        yield from self.websockets()
        yield from self.proxy_protocol()
        yield from self.keys()
        yield from self.stores()
        yield from self.tunnels()
        yield from self.pools()
        yield from attempts(self.view.stats, self.view.services)
        yield from secret_metrics(self.view.secrets)
        yield from mirrors(self.view.stats, self.view.services, self.view.snapshots)
        yield from self.process()
        if self.view.rollouts:
            yield from self.rollouts()
        if self.view.certificates:
            yield from self.certificates()
            yield from self.handshakes()
        if self.view.discovery:
            yield from self.discovery()
        if self.view.health:
            yield from health_metrics(self.view.health)
        if self.view.api_keys:
            uses = CounterMetricFamily(
                "fastgw_key_requests", "Requests that came with an API key.", labels=("consumer", "key")
            )
            for consumer, key, count in self.view.api_keys:
                uses.add_metric((consumer, key), count)
            yield uses
        yield from concurrency(self.view.snapshots)
        yield from queues(self.view.snapshots)
        yield from cache_metrics(self.view.cache, self.view.snapshots, self.view.cache_disk)
        yield from limits(self.view.limits, self.view.limit_table)
        if self.view.circuits:
            yield from circuit_metrics(self.view.circuits)

    def discovery(self) -> Iterator[Metric]:
        labels = ("service",)
        age = GaugeMetricFamily(
            "fastgw_discovery_age_seconds", "Since the source last confirmed the endpoints of a service.", labels=labels
        )
        count = GaugeMetricFamily("fastgw_discovery_endpoints", "Endpoints of a discovered service.", labels=labels)
        updates = CounterMetricFamily("fastgw_discovery_updates", "Changes of a service's endpoints.", labels=labels)
        failures = CounterMetricFamily("fastgw_discovery_failures", "Answers that were none.", labels=labels)
        for one in self.view.discovery:
            if one.age is not None:
                age.add_metric((one.service,), one.age)
            count.add_metric((one.service,), one.endpoints)
            updates.add_metric((one.service,), one.updates)
            failures.add_metric((one.service,), one.failures)
        yield from (age, count, updates, failures)

    def keys(self) -> Iterator[Metric]:
        labels = ("issuer",)
        age = GaugeMetricFamily("fastgw_jwks_age_seconds", "Since the keys of an issuer were fetched.", labels=labels)
        count = GaugeMetricFamily("fastgw_jwks_keys", "Keys of an issuer that are in force.", labels=labels)
        fetches = CounterMetricFamily("fastgw_jwks_fetches", "Questions for the keys of an issuer.", labels=labels)
        failures = CounterMetricFamily("fastgw_jwks_failures", "Those that brought no keys.", labels=labels)
        for issuer in sorted({one.issuer for one in self.view.keys}):
            same = [one for one in self.view.keys if one.issuer == issuer]
            ages = [one.age for one in same if one.age is not None]
            if ages:
                age.add_metric((issuer,), max(ages))
            count.add_metric((issuer,), max(one.keys for one in same))
            fetches.add_metric((issuer,), sum(one.fetches for one in same))
            failures.add_metric((issuer,), sum(one.failures for one in same))
        if self.view.keys:
            yield from (age, count, fetches, failures)

    def rollouts(self) -> Iterator[Metric]:
        ends = CounterMetricFamily("fastgw_canaries", "Configurations that were tried.", labels=("result",))
        for result, count in self.view.rollouts.items():
            ends.add_metric((result,), count)
        yield ends
        if self.view.trial is None:
            return
        requests = CounterMetricFamily("fastgw_canary_requests", "Requests of both plans.", labels=("plan",))
        errors = CounterMetricFamily("fastgw_canary_errors", "Those that failed.", labels=("plan",))
        seconds = GaugeMetricFamily("fastgw_canary_seconds", "How long they took.", labels=("plan", "quantile"))
        for plan, side in zip(("old", "new"), self.view.trial, strict=True):
            requests.add_metric((plan,), side.requests)
            errors.add_metric((plan,), side.errors)
            for q in (0.5, 0.99):
                if (value := side.quantile(q)) is not None:
                    seconds.add_metric((plan, str(q)), value)
        yield from (requests, errors, seconds)

    def stores(self) -> Iterator[Metric]:
        """Gauges: a worker's store counts from when the worker opened it."""
        rows = [row for snapshot in self.view.snapshots for row in snapshot.get("stores", ())]
        labels = ("store",)
        calls = GaugeMetricFamily("fastgw_store_calls", "Calls of a store by the workers that live.", labels=labels)
        failures = GaugeMetricFamily("fastgw_store_failures", "Those that failed.", labels=labels)
        paused = GaugeMetricFamily("fastgw_store_paused", "Workers that leave the store alone for now.", labels=labels)
        trips = GaugeMetricFamily("fastgw_store_round_trips", "Writes to it: calls share them.", labels=labels)
        for name in sorted({row["name"] for row in rows}):
            same = [row for row in rows if row["name"] == name]
            for family, key in (
                (calls, "calls"), (failures, "failures"), (paused, "paused"), (trips, "round_trips")
            ):  # fmt: skip
                family.add_metric((name,), sum(row[key] for row in same))
        if rows:
            yield from (calls, failures, paused, trips)

    def certificates(self) -> Iterator[Metric]:
        ends: dict[tuple[str, str, str], int] = {}
        for one in self.view.certificates:
            key = (one.listener, one.name, one.kind)
            ends[key] = min(one.not_after, ends.get(key, one.not_after))
        family = GaugeMetricFamily(
            "fastgw_certificate_not_after_seconds",
            "End of a certificate's validity, seconds since 1970.",
            labels=("listener", "name", "kind"),
        )
        for key in sorted(ends):
            family.add_metric(key, ends[key])
        yield family
        yield CounterMetricFamily(
            "fastgw_certificate_reload_failures",
            "Changed certificate files that could not be taken into use.",
            value=self.view.certificate_failures,
        )

    def handshakes(self) -> Iterator[Metric]:
        counters = [stats.read_counters() for stats in self.view.stats]
        done = CounterMetricFamily("fastgw_tls_handshakes", "TLS handshakes with clients.", labels=("kind",))
        for kind in ("full", "resumed"):
            done.add_metric((kind,), sum(c[f"tls_{kind}"] for c in counters))
        yield done
        failed = CounterMetricFamily(
            "fastgw_tls_handshake_failures", "TLS handshakes that came to nothing.", labels=("reason",)
        )
        for reason in TLS_REASONS:
            failed.add_metric((reason,), sum(c[f"tls_{reason}"] for c in counters))
        yield failed

    def http2(self) -> Iterator[Metric]:
        counters = [stats.read_counters() for stats in self.view.stats]
        for name, text in (("connections", "HTTP/2 connections of clients."), ("streams", "Requests over HTTP/2.")):
            yield CounterMetricFamily(f"fastgw_http2_{name}", text, value=sum(c[f"h2_{name}"] for c in counters))
        ended = CounterMetricFamily(
            "fastgw_http2_ended", "HTTP/2 connections and streams that the gateway ended.", labels=("reason",)
        )
        for reason in ("resets", "frames", "headers", "stalled", "protocol", "refused"):
            ended.add_metric((reason,), sum(c[f"h2_{reason}"] for c in counters))
        yield ended

    def websockets(self) -> Iterator[Metric]:
        counters = [stats.read_counters() for stats in self.view.stats]
        yield CounterMetricFamily(
            "fastgw_websockets_opened", "WebSockets opened.", value=sum(c["ws_opened"] for c in counters)
        )
        yield GaugeMetricFamily("fastgw_websockets_open", "WebSockets open.", value=sum(c["ws_open"] for c in counters))
        for what, text in (("frames", "Frames of WebSockets."), ("messages", "Messages of WebSockets.")):
            passed = CounterMetricFamily(f"fastgw_websocket_{what}", text, labels=("direction",))
            for direction in ("in", "out"):
                passed.add_metric((direction,), sum(c[f"ws_{what}_{direction}"] for c in counters))
            yield passed
        yield CounterMetricFamily(
            "fastgw_websocket_pings", "Pings the gateway sent.", value=sum(c["ws_pings"] for c in counters)
        )
        closes = CounterMetricFamily(
            "fastgw_websocket_closes", "WebSockets closed, by the code of the first close frame.", labels=("code",)
        )
        for code in WS_CLOSES:
            if count := sum(c[f"ws_close_{code}"] for c in counters):
                closes.add_metric((code,), count)
        yield closes
        for name, text in FEEDS:
            yield CounterMetricFamily(f"fastgw_broadcast_{name}", text, value=sum(c[f"feed_{name}"] for c in counters))

    def proxy_protocol(self) -> Iterator[Metric]:
        counters = [stats.read_counters() for stats in self.view.stats]
        told = CounterMetricFamily(
            "fastgw_proxy_protocol_connections", "Connections that began with a PROXY header.", labels=("version",)
        )
        for version in ("1", "2"):
            told.add_metric((version,), sum(c[f"proxy_v{version}"] for c in counters))
        yield told
        failed = CounterMetricFamily(
            "fastgw_proxy_protocol_failures", "Connections closed for want of a PROXY header.", labels=("reason",)
        )
        for reason in ("timeout", "closed", "missing", "malformed"):
            failed.add_metric((reason,), sum(c[f"proxy_{reason}"] for c in counters))
        yield failed

    def tunnels(self) -> Iterator[Metric]:
        opened = CounterMetricFamily(
            "fastgw_tcp_connections", "Connections of `protocol: tcp` that an endpoint took.", labels=("service",)
        )
        traffic = CounterMetricFamily("fastgw_tcp_bytes", "Bytes they carried.", labels=("service", "direction"))
        for slot in sorted({0, *self.view.services}):
            blocks = [stats.read_tunnels(slot) for stats in self.view.stats if slot < stats.services]
            if any(block[0] for block in blocks):
                service = self.view.services.get(slot, "other")
                opened.add_metric((service,), sum(block[0] for block in blocks))
                traffic.add_metric((service, "in"), sum(block[1] for block in blocks))
                traffic.add_metric((service, "out"), sum(block[2] for block in blocks))
        yield opened
        yield traffic

    def requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("fastgw_requests", "Requests answered.", labels=("route", "status"))
        traffic = CounterMetricFamily("fastgw_body_bytes", "Bytes of bodies.", labels=("route", "direction"))
        times = [HistogramMetricFamily(name, text, labels=("route",)) for name, text in SECONDS]
        cached = CounterMetricFamily(
            "fastgw_cache_requests", "Requests by what the policy `cache` had for them.", labels=("route", "result")
        )
        slots = sorted({0, *self.view.routes})
        for slot in slots:
            blocks = [block for stats in self.view.stats if slot < stats.slots and (block := stats.read_route(slot))]
            if not blocks:
                continue
            route = self.view.routes.get(slot, "other")
            for index, status in enumerate(STATUS_CLASSES):
                count = sum(block[0][index] for block in blocks)
                if count:
                    requests.add_metric((route, status), count)
            traffic.add_metric((route, "in"), sum(block[1] for block in blocks))
            traffic.add_metric((route, "out"), sum(block[2] for block in blocks))
            for index, family in enumerate(times):
                add_histogram(family, route, [block[3][index] for block in blocks])
            found = [stats.read_cached(slot) for stats in self.view.stats if slot < stats.slots]
            for index, result in enumerate(CACHED):
                count = sum(each[index] for each in found)
                if count:
                    cached.add_metric((route, result), count)
        yield requests
        yield cached
        yield traffic
        yield from times

    def errors(self) -> Iterator[Metric]:
        errors = CounterMetricFamily("fastgw_errors", "Failed requests by code.", labels=("code",))
        total: dict[str, int] = {}
        for stats in self.view.stats:
            for code, count in stats.read_codes().items():
                total[code] = total.get(code, 0) + count
        for code in sorted(total):
            errors.add_metric((code,), total[code])
        yield errors
        yield CounterMetricFamily(
            "fastgw_rate_limited", "Requests refused by a rate limit.", value=total.get("rate_limited", 0)
        )

    def connections(self) -> Iterator[Metric]:
        counters = [stats.read_counters() for stats in self.view.stats]
        for name, text in CONNECTIONS:
            yield CounterMetricFamily(f"fastgw_connections_{name}", text, value=sum(c[name] for c in counters))
        yield GaugeMetricFamily(
            "fastgw_connections_active", "Client connections open.", value=sum(c["active"] for c in counters)
        )
        yield CounterMetricFamily(
            "fastgw_coalesced",
            "Requests that shared another one's answer.",
            value=sum(c["coalesced"] for c in counters),
        )
        yield CounterMetricFamily(
            "fastgw_idempotency_replayed",
            "Answers given again to a request with the same idempotency key.",
            value=sum(c["idempotency_replayed"] for c in counters),
        )
        yield CounterMetricFamily(
            "fastgw_idempotency_unkept",
            "Answers to requests with an idempotency key that could not be kept.",
            value=sum(c["idempotency_unkept"] for c in counters),
        )
        for way, label, values in (
            ("compressed", "encoding", CODINGS),
            ("decompressed", "what", ("requests", "responses")),
        ):
            for word, text in (
                ("bodies", f"Bodies that were {way}."),
                ("in", f"Bytes of bodies before they were {way}."),
                ("out", f"Bytes of bodies when they were {way}."),
            ):
                name = f"fastgw_{way}_bodies" if word == "bodies" else f"fastgw_{way}_bytes_{word}"
                family = CounterMetricFamily(name, text, labels=(label,))
                for value in values:
                    family.add_metric((value,), sum(c[f"{way}_{value}_{word}"] for c in counters))
                yield family

    def pools(self) -> Iterator[Metric]:
        labels = ("service", "endpoint")
        connections = GaugeMetricFamily(
            "fastgw_pool_connections", "Upstream connections.", labels=(*labels, "state")
        )
        waiting = GaugeMetricFamily("fastgw_pool_waiting", "Requests waiting for a connection.", labels=labels)
        connects = CounterMetricFamily("fastgw_pool_connects", "Upstream connections begun.", labels=labels)
        errors = CounterMetricFamily("fastgw_pool_connect_errors", "Upstream connections that failed.", labels=labels)
        reuses = CounterMetricFamily("fastgw_pool_reuses", "Requests on a kept connection.", labels=labels)
        total: dict[tuple[str, str], dict[str, int]] = {}
        for pool in (pool for snapshot in self.view.snapshots for pool in snapshot["pools"]):
            into = total.setdefault((pool["service"], pool["endpoint"]), {})
            for name in (*POOL_STATES, "waiting", "connects", "connect_errors", "reuses"):
                into[name] = into.get(name, 0) + pool[name]
        for key in sorted(total):
            values = total[key]
            for state in POOL_STATES:
                connections.add_metric((*key, state), values[state])
            waiting.add_metric(key, values["waiting"])
            connects.add_metric(key, values["connects"])
            errors.add_metric(key, values["connect_errors"])
            reuses.add_metric(key, values["reuses"])
        yield from (connections, waiting, connects, errors, reuses)

    def process(self) -> Iterator[Metric]:
        view = self.view
        yield GaugeMetricFamily("fastgw_plan_generation", "The configuration in force.", value=view.generation)
        plans = max((snapshot.get("plans", 0) for snapshot in view.snapshots), default=0)
        yield GaugeMetricFamily("fastgw_plans_alive", "Configurations that a worker holds, at most.", value=plans)
        yield GaugeMetricFamily("fastgw_workers", "Worker processes that serve.", value=view.workers)
        yield CounterMetricFamily("fastgw_worker_restarts", "Workers that were replaced.", value=view.restarts)
        yield CounterMetricFamily(
            "fastgw_access_log_dropped", "Access log lines that were dropped.", value=view.dropped_lines
        )
        reloads = CounterMetricFamily("fastgw_reloads", "Configurations that were to be adopted.", labels=("result",))
        for result in ("ok", "failed"):
            reloads.add_metric((result,), view.reloads.get(result, 0))
        yield reloads
        info = GaugeMetricFamily("fastgw_build_info", "The version that runs.", labels=("version",))
        info.add_metric((view.version,), 1)
        yield info
        resident = GaugeMetricFamily("fastgw_resident_bytes", "Resident memory.", labels=("pid",))
        for snapshot in view.snapshots:
            pid = snapshot.get("pid")
            if pid is not None and (size := resident_bytes(pid)) is not None:
                resident.add_metric((str(pid),), size)
        yield resident


def add_histogram(family: HistogramMetricFamily, route: str, parts: Iterable[tuple[Sequence[int], int, int]]) -> None:
    """Adds the workers' histograms up; buckets become cumulative, as the format wants them."""
    parts = list(parts)
    if not any(count for _, _, count in parts):
        return
    seen = 0
    buckets = []
    for index, bound in enumerate((*map(str, BOUNDS), "+Inf")):
        seen += sum(part[0][index] for part in parts)
        buckets.append((bound, float(seen)))
    family.add_metric((route,), buckets, sum(part[1] for part in parts) / 1e9)


def resident_bytes(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def render(view: View) -> bytes:
    """The exposition of one View."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(view))
    return generate_latest(registry)
