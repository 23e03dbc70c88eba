"""The rate limits that would hold for a request, in words, for `fastgw explain`."""

from __future__ import annotations

from collections.abc import Iterable

from fastgw.config.fields import format_duration
from fastgw.policies._limits import LimitOptions, Override, RateLimitOptions
from fastgw.policies.quota import QuotaOptions


def limit(given: LimitOptions) -> str:
    kind = given.algorithm
    if kind == "concurrency":
        return f"{given.requests} under way at once"
    row = given.row()
    words = f"{given.requests} in {format_duration(given.per)} ({kind}"
    if kind in ("token_bucket", "leaky_bucket") and row["burst"] != given.requests:
        words += f", {row['burst']} at once"
    if kind == "leaky_bucket":
        words += f", {row['queue']} may wait for {format_duration(row['delay'] / 1e9)}"
    return words + ")"


def condition(case: Override) -> str:
    given = (
        ("plan", case.plans), ("consumer", case.consumers), ("group", case.groups), ("method", case.methods),
        ("route", case.routes),
    )  # fmt: skip
    return " and ".join(f"{name} {' or '.join(words)}" for name, words in given if words)


def may_fit(case: Override, method: str, route: str) -> bool:
    """As far as method and route say; who calls is not known."""
    return (not case.methods or method in case.methods) and (not case.routes or route in case.routes)


def place(options: RateLimitOptions) -> str:
    """Where limits are kept that are not those of one host."""
    shared = options.shared
    if shared is None:
        return ""
    hosts = f" of {shared.hosts} hosts" if shared.on_failure == "local_share" else ""
    return f"; in {shared.store}, {shared.sharing}; without it {shared.on_failure}{hosts}"


def quota_words(options: QuotaOptions) -> str:
    limits = {"others" if options.plans else "all": options.requests, **options.plans}
    words = ", ".join(f"{name} {'without limit' if limit is None else limit}" for name, limit in limits.items())
    return (
        f"{options.name} by {options.by}: {words} per {options.per} ({options.timezone}); in {options.store}; "
        f"without it {options.on_failure}"
    )


def limit_words(given: Iterable[RateLimitOptions], method: str, route: str) -> list[str]:
    """A line for the limits of each policy, and for each override that may come in their place."""
    found = []
    for options in given:
        by = ", ".join(options.by)
        extra = " (log only)" if options.mode == "log" else ""
        extra += place(options)
        for case in options.overrides:
            if may_fit(case, method, route):
                found.append(f"by {by}: {'; '.join(map(limit, case.limits))}, where {condition(case)}{extra}")
        if options.default:
            found.append(f"by {by}: {'; '.join(map(limit, options.default))}{extra}")
    return found
