"""`rate_limit` with `shared`: its limits are those of several hosts, kept in Redis."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

from pydantic import model_validator

from fastgw._core.exchange import Exchange
from fastgw._core.limit import Decider, Limits, RateLimit
from fastgw.config.fields import Duration, format_duration, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies.base import BuildContext, PolicyError
from fastgw.store import StoreError
from fastgw.store.leases import Leases
from fastgw.store.limits import Decision, Kind, Rule, SharedLimits, drop, look
from fastgw.store.redis import RedisStore

if TYPE_CHECKING:
    from fastgw.policies._limits import LimitOptions, RateLimitOptions

KINDS: Mapping[str, Kind] = {
    "token_bucket": "bucket", "leaky_bucket": "bucket", "fixed_window": "fixed", "sliding_window": "sliding",
    "sliding_log": "log",
}  # fmt: skip
FASTEST = 1_000_000
"""Requests in a second: the clock of Redis has microseconds."""
TAKEN, EXHAUSTED, UNAVAILABLE, UNDECIDED = 0, 1, 3, 4
"""What a Decider answers, see _core/limit.pyx."""
NS = 1e9

Levels = list[tuple[int, int, int, int]]


class SharedOptions(Room):
    """Limits that several hosts share, in `stores.redis`."""

    store: Literal["redis"] = key("redis", "Where they are kept: `stores.redis`.")
    sharing: Literal["exact", "leased"] = key(
        "exact",
        "`exact`: Redis decides each request, in one round trip. `leased`: workers take slices of the limit ahead and "
        "decide by themselves; as much as lies in slices can be admitted beyond the limit.",
    )
    slice: int | None = key(
        None, "leased: how many requests a worker takes at a time. Left out, a 20th of the smallest limit.",
        ge=1, le=1_000_000, example=10,
    )  # fmt: skip
    slice_time: Duration = key(1.0, "leased: what a worker has not used by then goes back.", ge=0.01, le=60)
    hosts: int = key(
        1, "How many hosts share the limits: `local_share` gives each such a part; `check` says what slices add up to.",
        ge=1, le=10_000, example=3,
    )  # fmt: skip
    on_failure: Literal["open", "closed", "local_share"] = key(
        doc="Without Redis: `closed` refuses with 503, `open` lets requests pass, `local_share` gives this host its "
        "part of the limits, in the memory of its workers."
    )

    @model_validator(mode="after")
    def _sane(self) -> SharedOptions:
        if self.sharing == "exact" and self.model_fields_set & {"slice", "slice_time"}:
            raise wrong("conflict", "slices are of limits that are leased", "`sharing: leased`")
        return self


def all_limits(options: RateLimitOptions) -> Iterator[Sequence[LimitOptions]]:
    """The sets of limits of a policy: the default, where it has one, and the overrides."""
    if options.default:
        yield options.default
    for case in options.overrides:
        yield case.limits


def check_shared(options: RateLimitOptions) -> None:
    """Whether Redis can count them so."""
    shared = options.shared
    if shared is None:
        return
    for limit in (limit for limits in all_limits(options) for limit in limits):
        kind = limit.algorithm
        if kind == "concurrency":
            raise wrong("conflict", "requests under way are counted on one host only", "a policy of its own for them")
        if limit.requests > FASTEST * limit.per:
            raise wrong("out_of_range", f"{limit.label} is too fast for Redis", f"at most {FASTEST} in a second")
        if shared.sharing == "leased" and (kind.startswith("sliding") or limit.queue):
            what = "a queue" if limit.queue else kind
            raise wrong("conflict", f"{what} cannot be leased", "token_bucket, fixed_window, or `sharing: exact`")


def slice_of(shared: SharedOptions, limits: Sequence[LimitOptions]) -> int:
    """How many requests a worker takes at a time: never more than one of the limits holds."""
    least = min(capacity_of(limit.row()) for limit in limits)
    return min(least, shared.slice or max(1, least // 20))


def capacity_of(row: Mapping[str, Any]) -> int:
    if KINDS[row["algorithm"]] != "bucket":
        return int(row["requests"])
    interval = -(-row["per"] // row["requests"])
    return int(row["burst"] + min(row["queue"], row["delay"] // interval))


def overrun(options: RateLimitOptions, workers: int) -> Iterator[str]:
    """What `fastgw check` says of leased limits: the most that can be admitted beyond them."""
    shared = options.shared
    if shared is None or shared.sharing != "leased":
        return
    for limits in all_limits(options):
        size = slice_of(shared, limits)
        for limit in limits:
            if limit.algorithm == "fixed_window":
                yield f"{limit.label} is leased in slices of {size}: never more than the limit in a window"
                continue
            most = size * workers * shared.hosts
            yield (
                f"{limit.label} is leased in slices of {size}: in any {format_duration(limit.per)} as many as {most} "
                f"requests of a key can be admitted beyond it ({size} for each of {workers} workers on each of "
                f"{shared.hosts} hosts)"
            )


def rule_of(row: Mapping[str, Any]) -> Rule:
    kind = KINDS[row["algorithm"]]
    return Rule(kind, row["requests"], row["per"] / NS, capacity_of(row) if kind == "bucket" else 0)


def shares(rows: Iterable[Mapping[str, Any]], hosts: int) -> list[dict[str, Any]]:
    """The part of one host: in the same time a part of the requests, one at least."""
    found = []
    for row in rows:
        part = dict(row)
        for name in ("requests", "burst"):
            part[name] = max(1, row[name] // hosts)
        found.append(part)
    return found


class OneSet:
    """The limits of one set: their rules, and by what is it told when they were exceeded."""

    def __init__(self, limits: Limits, context: BuildContext, shared: SharedOptions, slice: int) -> None:
        store = context.store(shared.store)
        if not isinstance(store, RedisStore):
            raise PolicyError("shared limits are kept in Redis")
        counts, route = context.limit_counts, context.route_name or "*"
        slots = [counts.slot(route, label) for label in limits.labels]

        def over(number: int, requests: int) -> None:
            counts.add_over(slots[number], requests)

        self.identity = f"{context.policy_key}/{limits.number}/".encode()
        self.store = store
        self.labels = limits.labels
        self.rows = limits.rows
        self.rules = tuple(rule_of(row) for row in limits.rows)
        self.free = [row["burst"] * rule.interval * 1e3 for row, rule in zip(limits.rows, self.rules, strict=True)]
        self.exact = SharedLimits(store, over)
        self.leases: Leases | None = None
        if shared.sharing == "leased":
            # slices outlive a reload, as long as they are of the same limits
            kept: WeakValueDictionary[Any, Leases] = context.shared.get_or_create("leases", WeakValueDictionary)
            what = (context.policy_key, limits.number, self.rules, slice, shared.slice_time, store)
            self.leases = kept.get(what)
            if self.leases is None:
                self.leases = kept[what] = Leases(store, self.rules, slice, shared.slice_time, over)
        self.here: Limits | None = None
        if shared.on_failure == "local_share":
            name = b"share\0" + self.identity
            rows = shares(limits.rows, shared.hosts)
            self.here = Limits(context.bucket_table, name, limits.number, rows, counts, route)

    def names(self, key: bytes) -> tuple[str, ...]:
        """One for all rules: they stand on one server of a Cluster. What a client sent is not to be read in Redis."""
        digest = hashlib.blake2b(self.identity + key, digest_size=16).hexdigest()
        return (digest,) * len(self.rules)

    def ask(
        self, names: tuple[str, ...], cost: int, told: Callable[[Decision | None, StoreError | None], None]
    ) -> Decision | None:
        if self.leases is not None:
            return self.leases.decide(names, cost, told)
        self.exact.decide(names, self.rules, cost, told)
        return None

    def unasked(self, names: tuple[str, ...], cost: int) -> None:
        if self.leases is not None:
            self.leases.unasked(names, cost)
        else:
            self.exact.unasked(names, self.rules, cost)

    def charge(self, names: tuple[str, ...], cost: int) -> None:
        if self.leases is not None:
            self.leases.charge(names, cost)
        else:
            self.exact.charge(names, self.rules, cost)

    def keys(self, key: bytes) -> list[str]:
        """Where the levels stand."""
        names = self.names(key)
        if self.leases is not None:
            return self.leases.keys(names)
        return [self.exact.key(name, n, rule) for n, (name, rule) in enumerate(zip(names, self.rules, strict=True))]

    async def state(self, key: bytes) -> list[dict[str, Any]]:
        levels = await look(self.store, self.keys(key), self.rules)
        return [
            {"limit": label, "algorithm": row["algorithm"], "remaining": level.remaining, "of": rule.capacity,
             "full_in": round(level.reset, 3)}
            for label, row, rule, level in zip(self.labels, self.rows, self.rules, levels, strict=True)
        ]  # fmt: skip

    async def reset(self, key: bytes) -> int:
        """Of how many limits something was forgotten."""
        return await drop(self.store, self.keys(key))

    def verdict(self, decision: Decision) -> tuple[int, int, Levels]:
        """As a Decider answers: outcome, which limit refuses, levels in ns."""
        levels: Levels = []
        for level, row, free in zip(decision.levels, self.rows, self.free, strict=True):
            full = math.ceil(level.reset * NS)
            delay = 0
            if decision.admitted and row["algorithm"] == "leaky_bucket":
                delay = max(0, math.floor(full - free))
            levels.append((level.remaining, full, math.ceil(level.retry * NS), delay))
        if decision.admitted:
            return TAKEN, -1, levels
        which = max(range(len(levels)), key=lambda n: levels[n][2])
        return EXHAUSTED, which, levels


class SharedDecider(Decider):
    """Asks Redis, or the slices of this worker; without either `on_failure` decides."""

    def __init__(self, options: RateLimitOptions, context: BuildContext, sets: Iterable[Limits | None]) -> None:
        shared = options.shared
        assert shared is not None
        self.on_failure = shared.on_failure
        self.table, self.holds = context.bucket_table, context.holds
        given: list[Sequence[LimitOptions]] = [options.default, *(case.limits for case in options.overrides)]
        self.sets = [
            None if limits is None else OneSet(limits, context, shared, slice_of(shared, given[limits.number]))
            for limits in sets
        ]
        self.charges = options.response_cost is not None
        self.known: dict[Exchange, tuple[OneSet, tuple[str, ...]]] = {}

    def decide(
        self, exchange: Exchange, hook: RateLimit, limits: Limits, key: bytes, cost: int
    ) -> tuple[int, int, Levels] | None:
        one = self.sets[limits.number]
        assert one is not None
        names = one.names(key)
        generation = exchange.generation
        if self.charges:
            self.known[exchange] = one, names

        def told(decision: Decision | None, error: StoreError | None) -> None:
            found = self.without(one, names, key, cost) if decision is None else one.verdict(decision)
            hook.decided(exchange, generation, *found)

        try:
            decision = one.ask(names, cost, told)
        except StoreError:
            return self.without(one, names, key, cost)
        return None if decision is None else one.verdict(decision)

    def without(self, one: OneSet, names: tuple[str, ...], key: bytes, cost: int) -> tuple[int, int, Levels]:
        """Nobody else decides. What is admitted all the same, Redis is told of when it is asked again."""
        if self.on_failure == "closed":
            return UNAVAILABLE, -1, []
        found: tuple[int, int, Levels] = (UNDECIDED, -1, [])
        if one.here is not None:
            found = one.here.decide(self.table, self.holds, key, cost)
        if found[0] in (TAKEN, UNDECIDED):
            one.unasked(names, cost)
        return found

    def charge_later(self, exchange: Exchange, hook: RateLimit, limits: Limits, cost: int) -> None:
        known = self.known.get(exchange)
        if known is not None:
            known[0].charge(known[1], cost)

    def ended(self, exchange: Exchange, hook: RateLimit) -> None:
        if self.charges:
            self.known.pop(exchange, None)

    # ------------------------------------------------------------------ for the admin API; StoreError

    async def state(self, key: bytes) -> list[dict[str, Any]]:
        """How the limits stand for a key, as LimitKey writes it."""
        return [row for one in self.sets if one is not None for row in await one.state(key)]

    async def reset(self, key: bytes) -> int:
        return sum([await one.reset(key) for one in self.sets if one is not None])
