"""What is done when a service fails or takes long, in words, for `fastgw explain`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from fastgw.config import Config
from fastgw.config.fields import format_duration, format_size
from fastgw.config.schema.concurrency import Concurrency
from fastgw.config.schema.hedge import Hedge
from fastgw.config.schema.retry import Retry
from fastgw.config.schema.routes import Route
from fastgw.plan.resilience import remaining_of, services_of, worker_count


def percent(share: float) -> str:
    return f"{share * 100:g}%"


def retries_keyed(config: Config, route: Route) -> bool:
    """Does the policy `idempotency` stand on it, and let requests with a key be sent again?"""
    return any(
        use.name == "idempotency" and getattr(use.options, "after_failure", None) == "again"
        for use in config.chain(route)
    )


def retry_words(retry: Retry, keyed: bool = False) -> str:
    if retry.attempts == 1:
        return "none"
    words = [f"{retry.attempts} tries for {', '.join(retry.retry_on)} by {', '.join(retry.methods)}"]
    if retry.per_try is not None:
        words.append(f"each of {format_duration(retry.per_try)} at most")
    words.append(f"waits up to {format_duration(retry.backoff)}, doubling to {format_duration(retry.max_backoff)}")
    words.append(f"bodies of {format_size(retry.body)}")
    if retry.trust_idempotency_key:
        words.append("any method with Idempotency-Key")
    elif keyed:
        words.append("any method with a key of the policy `idempotency`")
    words.append(f"at most {percent(retry.budget.ratio)} of the requests and {retry.budget.per_second:g} a second")
    return "; ".join(words)


def hedge_words(hedge: Hedge) -> str:
    if hedge.percentile is None:
        assert hedge.delay is not None
        when = format_duration(hedge.delay)
    elif hedge.delay is None:
        when = f"the {hedge.percentile} of the route, once it is known"
    else:
        when = f"the {hedge.percentile} of the route, {format_duration(hedge.delay)} at least"
    extra = "another endpoint" if hedge.max_extra == 1 else f"up to {hedge.max_extra} other endpoints"
    budget = f"at most {percent(hedge.budget.ratio)} of the requests and {hedge.budget.per_second:g} a second"
    return f"{extra} after {when}, by {', '.join(hedge.methods)}; {budget}"


def concurrency_words(config: Config, given: Concurrency) -> str:
    if given.max is not None:
        workers = worker_count(config)
        words = f"{given.max} at once"
        if workers > 1:
            words += f", {-(-given.max // workers)} in each of {workers} workers"
    else:
        assert given.adaptive is not None
        words = f"as many at once as each worker learns, {given.adaptive.min} to {given.adaptive.max}"
    for name, share in given.shares.items():
        words += f", {percent(share)} of them for {name}"
    queue = given.queue
    if not queue.max:
        return f"{words}; no queue"
    words += f"; {queue.max} may wait for {format_duration(queue.timeout)}"
    if config.priorities is not None:
        words += f", {' before '.join(config.priorities.classes)}"
    if queue.fair is not None:
        words += f", in fair shares by {queue.fair.by}"
    if queue.codel is not None:
        target, interval = format_duration(queue.codel.target), format_duration(queue.codel.interval)
        words += f", shed when waits stay above {target} for {interval}"
    return words


def one_or_services(config: Config, route: Route, key: str, words: Callable[[Any], str]) -> Iterator[str]:
    """A line of the route's own, or one for each of its services that has some."""
    own = getattr(route, key)
    if own is not None:
        yield f"{words(own)} (the route's own)"
        return
    for name in services_of(route):
        if (given := getattr(config.services[name], key)) is not None:
            yield f"{name}: {words(given)}"


def resilience_words(config: Config, route: Route) -> dict[str, list[str]]:
    """By key; those that nothing is said of are left out."""
    retries = partial(retry_words, keyed=retries_keyed(config, route))
    found = {
        "retry": list(one_or_services(config, route, "retry", retries)),
        "hedge": list(one_or_services(config, route, "hedge", hedge_words)),
        "concurrency": [
            f"{what}: {concurrency_words(config, given)}"
            for what, given in (
                ("the route", route.concurrency),
                *((name, config.services[name].concurrency) for name in services_of(route)),
            )
            if given is not None
        ],
        "remaining": [
            f"{'each service' if names is None else ', '.join(names)}: told by {header.decode()}"
            + (", a client's own is an upper bound" if honour else "")
            for header, honour, names in remaining_of(config, route)
        ],
    }
    return {key: lines for key, lines in found.items() if lines}
