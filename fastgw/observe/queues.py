"""Metrics of those that wait before a service, by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from fastgw._core.concurrency import WAIT_BOUNDS

LABELS = ("scope", "name", "class")


def queues(snapshots: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """Added up over the workers; of a class that nobody waited in, or was refused in, there is nothing."""
    waiting = GaugeMetricFamily("fastgw_queue_waiting", "Requests that wait for a place.", labels=LABELS)
    shed = CounterMetricFamily(
        "fastgw_queue_shed", "Requests that got none: full, timeout, displaced or delay.", labels=(*LABELS, "reason")
    )
    waited = HistogramMetricFamily("fastgw_queue_wait_seconds", "How long they waited.", labels=LABELS)
    now: dict[tuple[str, str, str], int] = {}
    gone: dict[tuple[str, str, str, str], int] = {}
    took: dict[tuple[str, str, str], tuple[list[int], float]] = {}
    for one in (one for snapshot in snapshots for one in snapshot.get("limits", ())):
        for told in one["classes"]:
            key = (one["scope"], one["name"], told["name"])
            now[key] = now.get(key, 0) + told["waiting"]
            for reason, many in told["sheds"].items():
                gone[*key, reason] = gone.get((*key, reason), 0) + many
            counts, seconds = took.get(key, ([0] * len(told["waited"]), 0.0))
            counts = [a + b for a, b in zip(counts, told["waited"], strict=True)]
            took[key] = (counts, seconds + told["waited_seconds"])
    for key, (counts, seconds) in sorted(took.items()):
        refused = [(reason, gone.get((*key, reason), 0)) for reason in ("full", "timeout", "displaced", "delay")]
        if not (sum(counts) or now[key] or any(many for _, many in refused)):
            continue
        waiting.add_metric(key, now[key])
        for reason, many in refused:
            shed.add_metric((*key, reason), many)
        total, buckets = 0, []
        for bound, count in zip((*map(str, WAIT_BOUNDS), "+Inf"), counts, strict=True):
            total += count
            buckets.append((bound, total))
        waited.add_metric(key, buckets, sum_value=seconds)
    if now:
        yield from (waiting, shed, waited)
    yield from pressure(snapshots)


def pressure(snapshots: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """Of the policy `overload`; nothing without it."""
    rows = [row for snapshot in snapshots for row in snapshot.get("pressure", ())]
    if not rows:
        return
    yield GaugeMetricFamily(
        "fastgw_worker_lag_seconds", "By how much the latest worker is late.", value=max(row["lag"] for row in rows)
    )
    shed = CounterMetricFamily("fastgw_worker_shed", "Requests refused for that.", labels=("class",))
    total: dict[str, int] = {}
    for row in rows:
        for name, many in row["sheds"].items():
            total[name] = total.get(name, 0) + many
    for name, many in sorted(total.items()):
        shed.add_metric((name,), many)
    yield shed
