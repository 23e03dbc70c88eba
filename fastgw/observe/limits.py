"""Metrics of rate limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

LimitRow = tuple[str, str, Mapping[str, int]]
"""Route or `*`, limit, counts by kind."""


def limits(rows: Sequence[LimitRow], table: Mapping[str, int]) -> Iterator[Metric]:
    """`table`: keys, evicted and no_room of the table of buckets, and its slots."""
    family = CounterMetricFamily(
        "fastgw_limit_requests",
        "Requests that came to a limit, by what became of them: allowed, delayed (of those), refused, would_refuse "
        "(mode: log), no_room.",
        labels=("route", "limit", "result"),
    )
    over = CounterMetricFamily(
        "fastgw_rate_limit_over_admitted",
        "Requests admitted beyond a limit that several hosts share.",
        labels=("route", "limit"),
    )
    for route, limit, counts in rows:
        for kind, count in counts.items():
            if kind != "over_admitted":
                family.add_metric((route, limit, kind), count)
            elif count:
                over.add_metric((route, limit), count)
    yield from (family, over)
    yield GaugeMetricFamily("fastgw_limit_table_slots", "Places in the table of limits.", value=table.get("slots", 0))
    yield GaugeMetricFamily("fastgw_limit_table_keys", "Of them taken, idle or not.", value=table.get("keys", 0))
    evicted = CounterMetricFamily("fastgw_limit_table_evictions", "Idle keys that gave their place to another.")
    evicted.add_metric((), table.get("evicted", 0))
    yield evicted
