"""What holds when a service fails, from the checked configuration to plain data and from there to native objects."""

from __future__ import annotations

import math
import os
from collections.abc import Container, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastgw._core.breaker import Breaker, BreakerRules, CircuitTable
from fastgw._core.hedge import Hedge
from fastgw._core.retry import Budget, Retry
from fastgw.config import Config
from fastgw.config.fields import format_duration
from fastgw.config.schema.breaker import RouteBreaker
from fastgw.config.schema.concurrency import TENANTS, Fair
from fastgw.config.schema.concurrency import Concurrency as ConcurrencyRoom
from fastgw.config.schema.hedge import Hedge as HedgeRoom
from fastgw.config.schema.priorities import PriorityRule
from fastgw.config.schema.retry import GRPC_STATUSES
from fastgw.config.schema.retry import Retry as RetryRoom
from fastgw.config.schema.routes import Route
from fastgw.config.schema.services import Service
from fastgw.config.templating import Template
from fastgw.policies._parts import parts_of
from fastgw.policies.base import Shared

if TYPE_CHECKING:
    from fastgw._core.concurrency import Concurrency
    from fastgw._core.engine import Engine
    from fastgw._core.pressure import Pressure

SECOND = 1_000_000_000
SHOWN_TENANTS = 20
"""Of each limit and worker, those of whom most wait."""

Told = tuple[tuple[bytes, bool, tuple[str, ...] | None], ...]
"""Of a route: the header that tells services their time, whether a client's own is honoured, and which of its services
are told, None for all."""
RouteCircuits = tuple[tuple[str, str, RouteBreaker], ...]
"""Service (empty: the route's own), route, and what the circuit breaker goes by."""


def ns(seconds: float | None) -> int:
    """Seconds → nanoseconds; None → 0, which is "no limit of its own"."""
    return 0 if seconds is None else int(seconds * SECOND)


def retry_of(retry: RetryRoom | None) -> dict[str, Any] | None:
    """The keyword arguments of _core.retry.Retry, and `budget`: those of its Budget."""
    if retry is None:
        return None
    asked = [reason for reason in retry.retry_on if reason[0].isdigit()]
    numbers = [range(500, 600) if reason == "5xx" else (int(reason),) for reason in asked]
    return {
        "attempts": retry.attempts,
        "methods": tuple(retry.methods),
        "statuses": tuple(sorted({status for several in numbers for status in several})),
        "grpc": tuple(GRPC_STATUSES.index(reason[5:]) for reason in retry.retry_on if reason.startswith("grpc:")),
        "connect": "connect" in retry.retry_on,
        "reset": "reset" in retry.retry_on,
        "timeout": "timeout" in retry.retry_on,
        "base_ns": ns(retry.backoff),
        "max_ns": ns(retry.max_backoff),
        "per_try_ns": ns(retry.per_try) if retry.per_try else 0,
        "body": retry.body,
        "trust_key": retry.trust_idempotency_key,
        "budget": {"ratio": retry.budget.ratio, "floor": retry.budget.per_second},
    }


def retry_by(given: dict[str, Any] | None) -> Retry | None:
    if given is None:
        return None
    return Retry(Budget(**given["budget"]), **without_budget(given))


def breaker_of(breaker: RouteBreaker | None) -> dict[str, Any] | None:
    """The keyword arguments of _core.breaker.BreakerRules."""
    if breaker is None:
        return None
    asked = [status for status in breaker.statuses if status[0].isdigit()]
    numbers = [range(500, 600) if status == "5xx" else (int(status),) for status in asked]
    return {
        "failures": breaker.failure_threshold,
        "error_rate": breaker.error_rate or 0,
        "least": breaker.min_requests,
        "window_ns": ns(breaker.window),
        "slow_ns": ns(breaker.slow_call_duration),
        "slow_rate": breaker.slow_call_rate if breaker.slow_call_duration is not None else 0,
        "open_ns": ns(breaker.timeout),
        "probes": breaker.half_open_requests,
        "statuses": tuple(sorted({status for several in numbers for status in several})),
        "grpc": tuple(GRPC_STATUSES.index(name[5:]) for name in breaker.statuses if name.startswith("grpc:")),
    }


@dataclass(slots=True)
class BreakerSpec:
    """The circuit breaker of a service: `scope` is endpoint, route or service."""

    scope: str
    rules: dict[str, Any]


def service_breaker_of(service: Service) -> BreakerSpec | None:
    given = service.circuit_breaker
    rules = breaker_of(given)
    return None if given is None or rules is None else BreakerSpec(given.scope, rules)


def breaker_by(table: CircuitTable, given: BreakerSpec, service: str, name: str = "") -> Breaker:
    """The native one; for `scope: endpoint` it belongs to the balancer, else to the admissions."""
    return Breaker(table, BreakerRules(**given.rules), given.scope, service, name)


def services_of(route: Route) -> tuple[str, ...]:
    """Who may answer on a route."""
    return (route.service,) if route.service else tuple(share.service for share in route.split)


def route_circuits(config: Config) -> RouteCircuits:
    """The circuit breakers that stand for a route: of services with `scope: route`, and of routes themselves."""
    found: list[tuple[str, str, RouteBreaker]] = []
    for route in config.routes:
        if route.circuit_breaker is not None:
            found.append(("", str(route.name), route.circuit_breaker))
        for name in services_of(route):
            given = config.services[name].circuit_breaker
            if given is not None and given.scope == "route":
                found.append((name, str(route.name), given))
    return tuple(found)


def breaker_words(breaker: RouteBreaker, what: str) -> str:
    """When one opens and what then, for `explain`."""
    reasons = []
    if breaker.failure_threshold:
        reasons.append(f"{breaker.failure_threshold} failures in a row")
    window = f"of {breaker.min_requests} requests and more in {format_duration(breaker.window)}"
    if breaker.error_rate is not None:
        reasons.append(f"{breaker.error_rate:.0%} failures {window}")
    if breaker.slow_call_duration is not None:
        slow = f"{breaker.slow_call_rate:.0%} slower than {format_duration(breaker.slow_call_duration)}"
        reasons.append(f"{slow} {window}")
    return (
        f"{what} opens after {' or '.join(reasons)}; {format_duration(breaker.timeout)} later "
        f"{breaker.half_open_requests} probes"
    )


def breakers_of(config: Config, route: Route) -> list[str]:
    """The circuit breakers that a request of a route meets, in words."""
    words = []
    if route.circuit_breaker is not None:
        words.append(breaker_words(route.circuit_breaker, "that of the route"))
    for name in services_of(route):
        given = config.services[name].circuit_breaker
        if given is not None:
            whose = {"endpoint": "that of each endpoint", "route": "that of this route", "service": "that"}[given.scope]
            words.append(breaker_words(given, f"{name}: {whose}"))
    return words


def remaining_of(config: Config, route: Route) -> Told:
    own = route.timeouts
    if own is not None and own.header is not None:
        return ((own.header.encode(), own.honour_client, None),)
    asked = services_of(route)
    found: dict[tuple[str, bool], list[str]] = {}
    for name in asked:
        timeouts = config.services[name].timeouts
        if timeouts.header is not None:
            found.setdefault((timeouts.header, timeouts.honour_client), []).append(name)
    return tuple(
        (header.encode(), honour, None if len(names) == len(asked) else tuple(names))
        for (header, honour), names in found.items()
    )


def remaining_by(engine: Engine, told: Told) -> Iterable[Any]:
    """The hooks that tell it, last in a route's chain."""
    if told:
        from fastgw._core.remaining import RemainingTime

        for header, honour, names in told:
            yield RemainingTime(engine.reactor, header, honour, names)


def hedge_of(hedge: HedgeRoom | None) -> dict[str, Any] | None:
    """The keyword arguments of _core.hedge.Hedge, and `budget`: those of its Budget."""
    if hedge is None:
        return None
    return {
        "delay": ns(hedge.delay),
        "percentile": float(hedge.percentile[1:]) / 100 if hedge.percentile else 0.0,
        "most": hedge.max_extra,
        "methods": tuple(hedge.methods),
        "budget": {"ratio": hedge.budget.ratio, "floor": hedge.budget.per_second},
    }


def hedge_by(
    own: dict[str, Any] | None,
    asked: Container[str | None],
    hedges: Mapping[str, dict[str, Any]],
    budgets: Mapping[str, Budget],
) -> Hedge | None:
    """Of a route: its `own`, or those of the services that are `asked` there. Latencies are the route's; budgets belong
    to who has them in the file, so that the routes of a service share its."""
    if own is not None:
        return Hedge(Budget(**own["budget"]), **without_budget(own))
    by_service = {
        name: Hedge(budgets[name], **without_budget(given)) for name, given in hedges.items() if name in asked
    }
    return Hedge(by_service=by_service) if by_service else None


def without_budget(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != "budget"}


def worker_count(config: Config) -> int:
    """`auto` is one per core this process may use; 0 is one process for everything."""
    count = config.server.workers
    return max(1, len(os.sched_getaffinity(0)) if count is None else count)


def concurrency_of(config: Config, given: ConcurrencyRoom | None) -> dict[str, Any] | None:
    """The keyword arguments of _core.concurrency.Concurrency for one worker, and `gradient`: those of its Gradient."""
    if given is None:
        return None
    queue = given.queue
    found: dict[str, Any] = {
        "room": queue.max,
        "patience": ns(queue.timeout),
        "retry_after": math.ceil(given.retry_after),
        "shares": tuple(given.shares.items()),
    }
    if config.priorities is not None:
        found["classes"] = config.priorities.classes
    if queue.fair is not None:
        found["tenants"] = tenants_of(queue.fair)
    if queue.codel is not None:
        found |= {"target": ns(queue.codel.target), "interval": ns(queue.codel.interval)}
    if given.max is not None:
        return found | {"most": -(-given.max // worker_count(config))}
    assert given.adaptive is not None
    adaptive = given.adaptive
    return found | {
        "gradient": {
            "least": adaptive.min,
            "most": adaptive.max,
            "window": ns(adaptive.window),
            "percentile": adaptive.percentile,
            "buffer": adaptive.buffer,
            "interval": ns(adaptive.min_rtt_interval),
            "probes": adaptive.min_rtt_requests,
            "jitter": adaptive.jitter,
        }
    }


def tenants_of(fair: Fair) -> tuple[Any, ...]:
    """The arguments of _core.priorities.Tenants. What a client sends may be a secret: it is not shown."""
    kinds = {variable.kind for variable in fair.by.variables}
    secret = not kinds.isdisjoint(("request.header", "request.cookie", "request.query", "claims"))
    parts = None if fair.by == Template(TENANTS["client_ip"]) else parts_of(fair.by)
    return (parts, tuple(fair.weights.items()), secret)


def priorities_of(config: Config) -> dict[str, Any] | None:
    """The keyword arguments of _core.priorities.Priorities."""
    given = config.priorities
    if given is None:
        return None
    return {
        "names": given.classes,
        "default": given.default,
        "rules": tuple(rule_of(rule, given.classes) for rule in given.rules),
        "routes": tuple((str(route.name), route.priority) for route in config.routes if route.priority is not None),
    }


def rule_of(rule: PriorityRule, classes: tuple[str, ...]) -> dict[str, Any]:
    """The keyword arguments of _core.priorities.Rule."""
    constant = rule.priority.constant
    return {
        "level": -1 if constant is None else classes.index(constant),
        "words": parts_of(rule.priority) if constant is None else None,
        "routes": rule.routes,
        "plans": rule.plans,
        "consumers": rule.consumers,
        "groups": rule.groups,
        "callers": tuple(map(str, rule.callers)) or None,
        "headers": tuple(
            (name.lower().encode(), None if value == "*" else value.encode("latin-1", "replace"))
            for name, value in rule.headers.items()
        ),
    }


KeptLimits = MutableMapping[tuple[Any, ...], "Concurrency"]
"""Those in use, by scope (service or route), name and numbers."""


def concurrency_by(
    engine: Engine, kept: KeptLimits, scope: str, name: str, given: dict[str, Any] | None
) -> tuple[Concurrency, ...]:
    """The same object over plans as long as its numbers stay: what is under way goes on counting."""
    if given is None:
        return ()
    from fastgw._core.concurrency import Concurrency, Gradient
    from fastgw._core.priorities import Tenants

    gradient, tenants = given.get("gradient"), given.get("tenants")
    numbers = given if gradient is None else {**given, **gradient}
    key = (scope, name, *sorted((word, value) for word, value in numbers.items() if word != "gradient"))
    found = kept.get(key)
    if found is None:
        rest = {word: value for word, value in given.items() if word not in ("gradient", "tenants")}
        found = Concurrency(
            engine.reactor,
            gradient=Gradient(**gradient) if gradient else None,
            tenants=Tenants(*tenants) if tenants else None,
            **rest,
        )
        kept[key] = found
    return (found,)


def pressure_view(shared: Shared) -> list[dict[str, Any]]:
    """How late the worker is; nothing where no policy `overload` looks."""
    known: list[Pressure] = shared.get_or_create("overload", list)
    return [one.view() for one in known]


def limits_view(kept: KeptLimits) -> list[dict[str, Any]]:
    """For a worker's snapshot; the limits of a plan that goes and of one that comes are both there for a while."""
    found = []
    for key, one in list(kept.items()):
        classes, tenants = one.view(SHOWN_TENANTS)
        found.append(
            {
                "scope": key[0],
                "name": key[1],
                "limit": one.limit,
                "in_flight": one.in_flight,
                "queued": one.queued,
                "refused": one.refused,
                "classes": classes,
                "tenants": tenants,
            }
        )
    return found
