"""Metrics of the attempts at services: sent again, sent twice, limited, and how calls of gRPC ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from fastgw._core.record import Stats

HEDGES = (
    ("", "Attempts beside the first, by `hedge`."),
    ("_won", "Those whose answer was taken."),
    ("_denied", "Those that there was no budget for."),
)


def concurrency(snapshots: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """Added up over the workers; nothing where no service and no route has a limit."""
    labels = ("scope", "name")
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {
        "limit": GaugeMetricFamily("fastgw_concurrency_limit", "Requests that may be under way.", labels=labels),
        "in_flight": GaugeMetricFamily("fastgw_concurrency_in_flight", "Those that are.", labels=labels),
        "queued": GaugeMetricFamily("fastgw_concurrency_queued", "Those that wait.", labels=labels),
        "refused": CounterMetricFamily("fastgw_concurrency_refused", "Those refused.", labels=labels),
    }
    total: dict[tuple[str, str, str], int] = {}
    for one in (one for snapshot in snapshots for one in snapshot.get("limits", ())):
        for word in families:
            key = (word, one["scope"], one["name"])
            total[key] = total.get(key, 0) + one[word]
    for (word, scope, name), value in sorted(total.items()):
        families[word].add_metric((scope, name), value)
    if total:
        yield from families.values()


def attempts(stats: Sequence[Stats], services: Mapping[int, str]) -> Iterator[Metric]:
    """Of each service, over all workers. `services`: slot → name."""
    labels = ("service",)
    silent = CounterMetricFamily("fastgw_silent_retries", "Requests sent again.", labels=labels)
    again = CounterMetricFamily("fastgw_retries", "Attempts beyond the first, by `retry`.", labels=labels)
    denied = CounterMetricFamily("fastgw_retries_denied", "Attempts that were not made.", labels=(*labels, "reason"))
    hedges = [CounterMetricFamily(f"fastgw_hedges{name}", text, labels=labels) for name, text in HEDGES]
    fallbacks = CounterMetricFamily(
        "fastgw_fallbacks", "Requests for a service that something else answered.", labels=(*labels, "by")
    )
    grpc = CounterMetricFamily(
        "fastgw_grpc_calls", "gRPC calls by grpc-status; none: ended without.", labels=(*labels, "status")
    )
    for slot in sorted({0, *services}):
        service = services.get(slot, "other")
        blocks = [one for one in stats if slot < one.services]
        retries = [sum(many) for many in zip(*(one.read_retries(slot) for one in blocks), strict=True)]
        for (family, key), many in zip(
            ((again, (service,)), (denied, (service, "budget")), (denied, (service, "body"))), retries, strict=False
        ):
            if many:
                family.add_metric(key, many)
        beside = [sum(many) for many in zip(*(one.read_hedges(slot) for one in blocks), strict=True)]
        for family, many in zip(hedges, beside, strict=False):
            if many:
                family.add_metric((service,), many)
        elsewhere = [sum(many) for many in zip(*(one.read_fallbacks(slot) for one in blocks), strict=True)]
        for by, many in zip(("service", "reply"), elsewhere, strict=False):
            if many:
                fallbacks.add_metric((service, by), many)
        for status, calls in enumerate(map(sum, zip(*(one.read_grpc(slot) for one in blocks), strict=True))):
            if calls:
                grpc.add_metric((service, str(status) if status <= 16 else "none"), calls)
        if count := sum(one.read_service(slot) for one in blocks):
            silent.add_metric((service,), count)
    yield from (silent, again, denied, *hedges, fallbacks, grpc)
