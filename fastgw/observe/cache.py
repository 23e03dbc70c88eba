"""Metrics of the storage of the cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
DISK_GAUGES = {
    "entries": "Answers on disk that can be found.",
    "bytes": "Bytes of them.",
    "file_bytes": "Bytes of all files, with what is not found any more.",
    "bytes_max": "Bytes the files may have.",
}
DISK_COUNTERS = {
    "hits": "Look-ups that brought an answer back into the memory.",
    "misses": "Look-ups that did not.",
    "bytes_read": "Bytes of answers that were brought back.",
    "writes": "Answers that were written.",
    "bytes_written": "Bytes that were written.",
    "evictions": "Answers that went with the oldest segment.",
    "purged": "Answers that were purged on disk.",
    "late": "Answers that were gone from the memory before they were written.",
    "too_large": "Answers that are too large for the disk.",
    "broken": "Reads that found something else than what was written.",
    "errors": "Failures of the disk, or of the system.",
    "busy": "Look-ups that were left out, as too many waited for the disk.",
}


LOOKUPS = {"hit": "hits", "miss": "misses", "error": "errors", "late": "late"}


def cache_metrics(
    stats: Mapping[str, int], snapshots: Sequence[Mapping[str, Any]], disk: Mapping[str, Any] | None = None
) -> Iterator[Metric]:
    """Of a cache that nobody ever asked there is nothing. `disk`: its level there, where it has one."""
    if disk is not None:
        yield from disk_metrics(disk)
    views = [snapshot.get("cache", {}) for snapshot in snapshots]
    yield from level_metrics([row for view in views for row in view.get("levels", ())])
    yield from teller_metrics([row for view in views for row in view.get("told", ())])
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


def level_metrics(rows: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """Gauges: a worker counts from when it opened the level."""
    looks = GaugeMetricFamily(
        "fastgw_cache_level_lookups", "Look-ups in a level behind the memory, by the workers that live.",
        labels=("level", "result"),
    )  # fmt: skip
    moved = GaugeMetricFamily(
        "fastgw_cache_level_bytes", "Bytes written to a level, and read.", labels=("level", "direction")
    )
    plain = {
        "kept": GaugeMetricFamily("fastgw_cache_level_kept", "Answers a level was given.", labels=("level",)),
        "dropped": GaugeMetricFamily(
            "fastgw_cache_level_dropped", "Answers it was not given, as too many waited.", labels=("level",)
        ),
        "waiting": GaugeMetricFamily("fastgw_cache_level_waiting", "Answers that wait for it.", labels=("level",)),
    }
    for level in sorted({row["level"] for row in rows}):
        same = [row for row in rows if row["level"] == level]
        for result, name in LOOKUPS.items():
            looks.add_metric((level, result), sum(row[name] for row in same))
        for direction in ("written", "read"):
            moved.add_metric((level, direction), sum(row.get(f"{direction}_bytes", 0) for row in same))
        for name, family in plain.items():
            family.add_metric((level,), sum(row[name] for row in same))
    if rows:
        yield from (looks, moved, *plain.values())


def teller_metrics(rows: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    if not rows:
        return
    told = GaugeMetricFamily(
        "fastgw_cache_purges_shared", "Purges of workers, by whether other hosts were told.", labels=("result",)
    )
    told.add_metric(("told",), sum(row["told"] for row in rows))
    told.add_metric(("failed",), sum(row["failures"] for row in rows))
    yield told
    yield GaugeMetricFamily(
        "fastgw_cache_purges_untold", "Those that are still to be told.", value=sum(row["untold"] for row in rows)
    )


def disk_metrics(view: Mapping[str, Any]) -> Iterator[Metric]:
    ready = GaugeMetricFamily("fastgw_cache_disk_ready", "Whether the level on disk is in use, and can be written to.")
    ready.add_metric((), int(view.get("state") == "ready" and not view.get("full")))
    yield ready
    for name, text in DISK_GAUGES.items():
        gauge = GaugeMetricFamily(f"fastgw_cache_disk_{name}", text)
        gauge.add_metric((), view.get(name, 0))
        yield gauge
    for name, text in DISK_COUNTERS.items():
        counter = CounterMetricFamily(f"fastgw_cache_disk_{name}", text)
        counter.add_metric((), view[name])
        yield counter
