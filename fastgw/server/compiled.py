"""A configuration compiled: the checked tree and the plan's spec, and what about it can only change at a start."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from fastgw.config import Config, ConfigError, Problem, check
from fastgw.plan import PlanSpec, compile_spec
from fastgw.policies import RESOLVER
from fastgw.server.shared import Slots

Source = Any


@dataclass(slots=True)
class Compiled:
    config: Config
    spec: PlanSpec
    warnings: list[Problem]

    def restart_needed(self, other: Compiled) -> list[str]:
        """The keys that differ between this, which runs, and another one, and need a restart to take effect."""
        mine, theirs = self.config, other.config
        pairs = {
            "server.workers": (mine.server.workers, theirs.server.workers),
            "admin": (mine.admin, theirs.admin),
            "observability.metrics.max_label_values": (
                mine.observability.metrics.max_label_values,
                theirs.observability.metrics.max_label_values,
            ),
        }
        return [key for key, (old, new) in pairs.items() if old != new]


def compile_config(source: Source, generation: int, route_slots: Slots | None, service_slots: Slots | None) -> Compiled:
    """Raises ConfigError with every problem."""
    config, problems = check(source, resolver=RESOLVER)
    if config is None:
        raise ConfigError(problems)
    spec = compile_spec(
        config,
        generation=generation,
        route_slot=route_slots or Slots(config.observability.metrics.max_label_values),
        service_slot=service_slots or Slots(1024),
    )
    if config.file and os.path.exists(config.file):
        spec.config_dir = os.path.dirname(os.path.abspath(config.file))
    return Compiled(config, spec, problems)


def worker_count(config: Config) -> int:
    """`auto` is one per core this process may use."""
    if config.server.workers is not None:
        return config.server.workers
    return max(1, len(os.sched_getaffinity(0)))
