from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastgw._core.bucket import BucketTable
from fastgw._core.cidr import CidrTable
from fastgw._core.exchange import Exchange, Hook
from fastgw._core.holds import HoldTable
from fastgw._core.limit_counts import LimitCounts
from fastgw._core.limit_key import LimitKey
from fastgw._core.template import Compiled

STYLES: tuple[str, ...]

class Limits:
    count: int
    number: int
    labels: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    held: bool
    waits: bool
    def __init__(
        self,
        table: BucketTable,
        name: bytes,
        number: int,
        rows: Sequence[Mapping[str, Any]],
        counts: LimitCounts,
        route: str,
    ) -> None: ...
    def decide(
        self, table: BucketTable, holds: HoldTable, key: bytes, cost: int
    ) -> tuple[int, int, list[tuple[int, int, int, int]]]: ...

class Case:
    def __init__(
        self,
        limits: Limits,
        *,
        plans: Sequence[str] = ...,
        consumers: Sequence[str] = ...,
        groups: Sequence[str] = ...,
        methods: Sequence[str] = ...,
        routes: Sequence[str] = ...,
    ) -> None: ...

class Decider:
    def decide(
        self, exchange: Exchange, hook: RateLimit, limits: Limits, key: bytes, cost: int
    ) -> tuple[int, int, Sequence[tuple[int, int, int, int]]] | None: ...
    def charge_later(self, exchange: Exchange, hook: RateLimit, limits: Limits, cost: int) -> None: ...
    def ended(self, exchange: Exchange, hook: RateLimit) -> None: ...

class RateLimit(Hook):
    key: LimitKey
    sets: tuple[Limits | None, ...]
    decider: Decider | None
    def __init__(
        self,
        table: BucketTable,
        holds: HoldTable,
        counts: LimitCounts,
        key: LimitKey,
        default: Limits | None,
        cases: Sequence[Case] = ...,
        *,
        styles: Sequence[str] = ...,
        open_when_full: bool = ...,
        report: Callable[..., None] | None = ...,
        cost: int = ...,
        cost_template: Compiled | None = ...,
        response_cost: str | None = ...,
        strip_cost: bool = ...,
        exempt: CidrTable | None = ...,
        exempt_consumers: Sequence[str] = ...,
        exempt_groups: Sequence[str] = ...,
        most_waiting: int = ...,
        decider: Decider | None = ...,
    ) -> None: ...
    def decided(
        self,
        exchange: Exchange,
        generation: int,
        outcome: int,
        which: int,
        levels: Sequence[tuple[int, int, int, int]],
    ) -> None: ...
    def over(self, exchange: Exchange) -> None: ...
    def state(self, values: Sequence[str]) -> list[dict[str, Any]]: ...
    def reset(self, values: Sequence[str]) -> int: ...
