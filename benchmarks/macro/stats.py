"""From rounds to one figure for each gateway, and from these to the table of targets."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .workloads import Target

Medians = Mapping[str, float]
Rounds = Mapping[str, Sequence[Mapping[str, float]]]
"""For each gateway, its rounds in the order they were run."""


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over the rounds. Raises ValueError when there is no round."""
    if not rounds:
        raise ValueError("no round to take a median of")
    return {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}


def spread(rounds: Sequence[Mapping[str, float]], name: str) -> float:
    """(largest - smallest) / median of one figure: how far to trust it. 0 when the median is 0."""
    values = [r[name] for r in rounds]
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def add_latency(rounds: Rounds, direct: Sequence[Mapping[str, float]]) -> dict[str, list[dict[str, float]]]:
    """Each gateway's rounds with `added_us`: the mean time of a request above the same round's direct one.

    Mean is duration / requests, which a closed loop of one connection makes exact.
    """

    def mean_us(figures: Mapping[str, float]) -> float:
        return 1e6 / figures["requests_per_s"]

    return {
        name: [{**own, "added_us": mean_us(own) - mean_us(base)} for own, base in zip(its, direct, strict=True)]
        for name, its in rounds.items()
    }


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the table of targets. `reached` is None when a side was not measured."""

    text: str
    workload: str
    metric: str
    value: float | None
    limit: float | None
    reached: bool | None


def judge(target: Target, measured: Mapping[str, Mapping[str, Medians]]) -> Verdict:
    """`measured[workload][gateway]` holds medians."""
    gateways = measured.get(target.workload, {})
    value = gateways.get(target.subject, {}).get(target.metric)
    if target.peer is None:
        limit: float | None = target.factor
    else:
        peer = gateways.get(target.peer, {}).get(target.metric)
        limit = None if peer is None else target.limit(peer)
    reached = None if value is None or limit is None else target.better(value, limit)
    return Verdict(target.text, target.workload, target.metric, value, limit, reached)
