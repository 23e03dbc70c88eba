"""A configuration compiled: the checked tree and the plan's spec, and what about it can only change at a start."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from fastgw.config import Config, ConfigError, Problem, check
from fastgw.config.errors import dotted
from fastgw.config.material import Material
from fastgw.config.schema.routes import Route
from fastgw.plan import PlanSpec, Tickets, TlsSpec, compile_spec, with_tls
from fastgw.plan.resilience import RouteCircuits, route_circuits
from fastgw.policies import RESOLVER, Policy, PolicyError
from fastgw.policies._keysets import Source as KeySource
from fastgw.server import control, plan_file
from fastgw.server.secret_sources import SOURCES
from fastgw.server.shared import SERVICES, Slots

Source = Any


@dataclass(slots=True)
class Compiled:
    config: Config
    spec: PlanSpec
    warnings: list[Problem]
    route_slots: Slots
    service_slots: Slots

    def refreshed(self, material: Material, rotate: Container[str]) -> Compiled:
        """The same, one generation on, with certificates as they are now and new ticket keys for some listeners."""
        config = replace(self.config, tls=material)
        spec = with_tls(self.spec, config, rotate)
        slots = self.route_slots.again(spec.generation), self.service_slots.again(spec.generation)
        return Compiled(config, spec, [], *slots)


@dataclass(slots=True)
class Release:
    """A compiled configuration as supervisor and agent hold it: what they need themselves as objects, the rest in
    memory files (memfd) that they pass on unread. Ten thousand routes are then no work and no memory for either.

    head    the configuration without its routes
    plan    a memory file: plan_file.write of the PlanSpec
    routes  a memory file: control.dumps of the routes; the routes themselves in the processes forked from the one
            that checked them
    tls     the plan's, by listener
    keys    the issuers whose keys are to be fetched
    circuits the circuit breakers that stand for a route
    """

    generation: int
    head: Config
    warnings: list[Problem]
    route_slots: Slots
    service_slots: Slots
    plan: int
    routes: int | tuple[Route, ...]
    tls: Mapping[str, TlsSpec] = field(default_factory=dict)
    keys: frozenset[KeySource] = frozenset()
    circuits: RouteCircuits = ()

    @classmethod
    def of(cls, compiled: Compiled) -> Release:
        """Of one that was compiled in this process."""
        return cls(
            compiled.spec.generation,
            replace(compiled.config, routes=()),
            compiled.warnings,
            compiled.route_slots,
            compiled.service_slots,
            plan_file.write(compiled.spec),
            compiled.config.routes,
            compiled.spec.tls,
            key_sources(compiled.config),
            route_circuits(compiled.config),
        )

    def refreshed(self, material: Material, rotate: Container[str]) -> Release:
        """The same, one generation on, with certificates as they are now and new ticket keys for some listeners."""
        head = replace(self.head, tls=material)
        spec = with_tls(plan_file.read(self.plan), head, rotate)
        plan = plan_file.write(spec)
        routes = self.routes
        routes = os.dup(routes) if isinstance(routes, int) else control.memory_file(control.dumps(routes))
        slots = self.route_slots.again(spec.generation), self.service_slots.again(spec.generation)
        return Release(spec.generation, head, [], *slots, plan, routes, spec.tls, self.keys, self.circuits)

    def summary(self) -> Release:
        """What travels in a message; the files go with it as descriptors."""
        return replace(self, plan=-1, routes=())

    def with_files(self, plan: int, routes: int) -> Release:
        """A summary that has arrived, and its files, which belong to it from now on."""
        return replace(self, plan=plan, routes=routes)

    def close(self) -> None:
        """Closes the files, in this process."""
        os.close(self.plan)
        if isinstance(self.routes, int):
            os.close(self.routes)

    def config(self) -> Config:
        """The whole configuration: with many routes, some time is spent on making it."""
        routes = self.routes
        return replace(self.head, routes=control.loads(routes) if isinstance(routes, int) else routes)


def restart_needed(mine: Config, theirs: Config) -> list[str]:
    """The keys that differ between the configuration that runs and another one, and need a restart to take effect."""
    pairs = {
        "server.workers": (mine.server.workers, theirs.server.workers),
        "admin": (mine.admin, theirs.admin),
        "cache.memory": (mine.cache.memory, theirs.cache.memory),
        "cache.entries": (mine.cache.entries, theirs.cache.entries),
        "cache.disk": (mine.cache.disk, theirs.cache.disk),
        "observability.metrics.max_label_values": (
            mine.observability.metrics.max_label_values,
            theirs.observability.metrics.max_label_values,
        ),
    }
    return [key for key, (old, new) in pairs.items() if old != new]


def compile_config(
    source: Source,
    generation: int,
    route_slots: Slots | None,
    service_slots: Slots | None,
    tls_before: Mapping[str, TlsSpec | Tickets] | None = None,
) -> Compiled:
    """Raises ConfigError with every problem. The slots and the TLS, whose ticket keys go on, are those of the
    generation before, None for the first."""
    config, problems = check(source, resolver=RESOLVER, secrets=SOURCES.reader())
    if config is None:
        raise ConfigError(problems)
    if missing := missing_secrets(config, generation):
        raise ConfigError(missing)
    unprepared = prepare_policies(config)
    if unprepared and generation > 1:
        raise ConfigError(unprepared)
    problems += [replace(problem, severity="warning") for problem in unprepared]
    route_slots = route_slots or Slots(config.observability.metrics.max_label_values)
    route_slots = route_slots.next(generation, dict.fromkeys(str(route.name) for route in config.routes))
    service_slots = (service_slots or Slots(SERVICES)).next(generation, config.services)
    spec = compile_spec(
        config, generation=generation, route_slot=route_slots, service_slot=service_slots, tls_before=tls_before
    )
    if config.file and os.path.exists(config.file):
        spec.config_dir = os.path.dirname(os.path.abspath(config.file))
    return Compiled(config, spec, problems, route_slots, service_slots)


def missing_secrets(config: Config, generation: int) -> list[Problem]:
    """Those without which this cannot come into force. At a start policies may wait for theirs: their routes refuse."""
    return [
        Problem("error", "unavailable", config.file or "", 0, 0, "", text)
        for text, may_wait in config.secrets_missing
        if generation > 1 or not may_wait
    ]


def key_sources(config: Config) -> frozenset[KeySource]:
    """The issuers that policies of the configuration want the keys of."""
    uses = chain(config.policies, *(route.policies for route in config.routes))
    return frozenset(
        source
        for use in uses
        if isinstance(use.spec.handler, type) and issubclass(use.spec.handler, Policy)
        for source in use.spec.handler.sources(use.options)
    )


def prepare_policies(config: Config) -> list[Problem]:
    """Lets policies fetch what they need from elsewhere; the problems of those that cannot."""
    problems = []
    for use in chain(config.policies, *(route.policies for route in config.routes)):
        handler = use.spec.handler
        if not isinstance(handler, type) or not issubclass(handler, Policy):
            continue
        try:
            use.options = handler.prepare(use.options)
        except PolicyError as error:
            where = dotted(use.path)
            problems.append(
                Problem("error", "unavailable", config.file or "", use.line, use.col, where, f"{use.name}: {error}")
            )
    return problems


def worker_count(config: Config) -> int:
    """`auto` is one per core this process may use."""
    if config.server.workers is not None:
        return config.server.workers
    return max(1, len(os.sched_getaffinity(0)))
