"""Metrics of the storage of the cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

GAUGES = {
    "bytes": "Bytes of the memory for answers that are in use.",
    "bytes_max": "Bytes of the memory for answers.",
    "entries": "Answers that can be found.",
    "entries_max": "Answers there is an index for.",
    "filling": "Answers that are being stored.",
    "retired": "Answers that were replaced, purged or evicted while somebody reads them.",
}
COUNTERS = {
    "hits": "Look-ups that found an answer, fresh or stale.",
    "misses": "Look-ups that found none.",
    "fills": "Answers that were stored.",
    "refused": "Answers that were not: too large, cut, or no room.",
    "evictions": "Answers that went for others.",
    "expirations": "Those of them that were useless already.",
    "purges": "Commands to purge.",
    "purged": "Answers that were purged.",
    "busy": "Times that the lock could not be had, so that something was not stored.",
    "recoveries": "Times that the memory was put in order after a process died in the middle of a change.",
}


def cache_metrics(stats: Mapping[str, int]) -> Iterator[Metric]:
    """Of a cache that nobody ever asked there is nothing."""
    if not (stats.get("hits") or stats.get("misses") or stats.get("fills")):
        return
    for name, text in GAUGES.items():
        gauge = GaugeMetricFamily(f"fastgw_cache_store_{name}", text)
        gauge.add_metric((), stats[name])
        yield gauge
    for name, text in COUNTERS.items():
        counter = CounterMetricFamily(f"fastgw_cache_store_{name}", text)
        counter.add_metric((), stats[name])
        yield counter
