"""Metrics of how services and their endpoints are: health and circuit breakers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric


class WatchedEndpoint(Protocol):
    """What metrics want to know of an endpoint whose health is watched."""

    service: str
    url: str
    state: str
    ejections: int
    good: int
    bad: int

    @property
    def up(self) -> bool: ...


class WatchedCircuit(Protocol):
    """What metrics want to know of a circuit breaker; `facts` has `transitions` by state, and `refused`."""

    scope: str
    service: str
    name: str
    state: str
    facts: dict[str, Any]


def circuit_metrics(circuits: Sequence[WatchedCircuit]) -> Iterator[Metric]:
    """One family for the state, one for transitions, one for what was refused."""
    labels = ("service", "scope", "name")
    state = GaugeMetricFamily(
        "fastgw_circuit_state", "1 for the state that a circuit breaker is in.", labels=(*labels, "state")
    )
    moves = CounterMetricFamily(
        "fastgw_circuit_transitions", "Transitions, by the state they led to.", labels=(*labels, "state")
    )
    refused = CounterMetricFamily(
        "fastgw_circuit_refused", "Requests that an open circuit breaker refused.", labels=labels
    )
    for one in circuits:
        key = (one.service, one.scope, one.name.partition("://")[2] or one.name)
        state.add_metric((*key, one.state), 1)
        for to, count in one.facts["transitions"].items():
            moves.add_metric((*key, to), count)
        refused.add_metric(key, one.facts["refused"])
    yield from (state, moves, refused)


def health_metrics(endpoints: Sequence[WatchedEndpoint]) -> Iterator[Metric]:
    """Whether they are up, how often they were ejected, and their checks."""
    labels = ("service", "endpoint")
    up = GaugeMetricFamily("fastgw_endpoint_up", "1: it is asked; 0: it is down or ejected.", labels=labels)
    ejections = CounterMetricFamily(
        "fastgw_endpoint_ejections", "Times that an endpoint was left out for failing requests.", labels=labels
    )
    checks = CounterMetricFamily("fastgw_health_checks", "Health checks.", labels=(*labels, "result"))
    for one in endpoints:
        key = (one.service, one.url.partition("://")[2] or one.url)
        up.add_metric(key, float(one.up))
        ejections.add_metric(key, one.ejections)
        if one.good or one.bad:
            checks.add_metric((*key, "good"), one.good)
            checks.add_metric((*key, "bad"), one.bad)
    yield from (up, ejections, checks)
