"""Metrics of secrets that Vault and Kubernetes keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric


class SecretRead(Protocol):
    """`secret` is its path or name; `age` in seconds, None when it never was read."""

    @property
    def source(self) -> str: ...
    @property
    def secret(self) -> str: ...
    @property
    def age(self) -> float | None: ...
    @property
    def failures(self) -> int: ...


def secret_metrics(secrets: Sequence[SecretRead]) -> Iterator[Metric]:
    """Nothing where no secret is kept elsewhere."""
    labels = ("source", "secret")
    age = GaugeMetricFamily("fastgw_secret_age_seconds", "Since a secret was last read from its keeper.", labels=labels)
    failures = CounterMetricFamily("fastgw_secret_failures", "Times that it could not be read.", labels=labels)
    for one in secrets:
        if one.age is not None:
            age.add_metric((one.source, one.secret), one.age)
        failures.add_metric((one.source, one.secret), one.failures)
    if secrets:
        yield from (age, failures)
