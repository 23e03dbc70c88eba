"""What holds when a service fails, from the checked configuration to plain data and from there to native objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fastgw._core.retry import Budget, Retry
from fastgw.config import Config
from fastgw.config.schema.retry import GRPC_STATUSES
from fastgw.config.schema.retry import Retry as RetryRoom
from fastgw.config.schema.routes import Route

if TYPE_CHECKING:
    from fastgw._core.engine import Engine

SECOND = 1_000_000_000

Told = tuple[tuple[bytes, bool, tuple[str, ...] | None], ...]
"""Of a route: the header that tells services their time, whether a client's own is honoured, and which of its services
are told, None for all."""


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
    return Retry(Budget(**given["budget"]), **{name: value for name, value in given.items() if name != "budget"})


def services_of(route: Route) -> tuple[str, ...]:
    """Who may answer on a route."""
    return (route.service,) if route.service else tuple(share.service for share in route.split)


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
