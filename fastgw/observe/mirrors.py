"""Metrics of copied requests, and of what their answers differed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from fastgw._core.record import MIRROR_RESULTS, Stats


def mirrors(
    stats: Sequence[Stats], services: Mapping[int, str], snapshots: Sequence[Mapping[str, Any]]
) -> Iterator[Metric]:
    """`services`: the names of slots; `snapshots` of the workers, whose `mirrors` are pairs of a route and outcomes."""
    mirrored = CounterMetricFamily(
        "fastgw_mirrored", "Copies of requests for a service, by what became of them.", labels=("service", "result")
    )
    for slot in sorted({0, *services}):
        copies = [one.read_mirror(slot) for one in stats if slot < one.services]
        for result, many in zip(MIRROR_RESULTS, map(sum, zip(*copies, strict=True)), strict=False):
            if many:
                mirrored.add_metric((services.get(slot, "other"), result), many)
    compared = CounterMetricFamily(
        "fastgw_mirror_compared", "Pairs of answers, by the outcome of comparing them.", labels=("route", "result")
    )
    outcomes: dict[tuple[str, str], int] = {}
    for route, counts in (one for snapshot in snapshots for one in snapshot.get("mirrors", ())):
        for result, many in counts.items():
            outcomes[route, result] = outcomes.get((route, result), 0) + many
    for key, many in sorted(outcomes.items()):
        if many:
            compared.add_metric(key, many)
    yield from (mirrored, compared)
