"""`rate_limit`: so many requests in so much time, or at once, for each key; exact over all workers of the host."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from typing import Any

from fastgw._core.bucket import BucketTable
from fastgw._core.cidr import CidrTable, Listed
from fastgw._core.exchange import Hook
from fastgw._core.limit import Case, Limits
from fastgw._core.limit import RateLimit as NativeRateLimit
from fastgw._core.limit_key import LimitKey
from fastgw._core.template import Compiled
from fastgw.config.registry import Reference
from fastgw.config.templating import Template
from fastgw.policies._limits import By, LimitOptions, RateLimitOptions
from fastgw.policies._parts import parts_of
from fastgw.policies._report import Report
from fastgw.policies._shared_limits import SharedDecider, overrun
from fastgw.policies.base import Policy

SEED = b"fastgw rate_lim1"


def part(by: By) -> tuple[str, Any]:
    if by.template is not None:
        return "template", Compiled(parts_of(by.template))
    kind, _, name = by.partition(":")
    return kind, name.encode("latin-1")


def same_everywhere() -> BucketTable:
    """A table that hashes as those of other hosts do; nothing is kept in it."""
    memory = mmap.mmap(-1, BucketTable.size(1))
    BucketTable.format(memory, SEED)
    return BucketTable(memory)


class RateLimit(Policy):
    """Limits of requests per key, in memory that all workers of the host share: together they admit what one
    would.

    Order: after authentication when it depends on who calls; before it when it is to protect the
    authentication. Failure: closed (see `when_full`). Levels survive a reload. See docs/limits.md.
    """

    name = "rate_limit"
    Options = RateLimitOptions
    options: RateLimitOptions

    @classmethod
    def needs_identity(cls, options: RateLimitOptions) -> bool:
        return options.identity

    @classmethod
    def references(cls, options: RateLimitOptions) -> Iterable[Reference]:
        if options.shared is not None:
            yield Reference("store", options.shared.store, ("shared", "store"))

    @classmethod
    def notices(cls, options: RateLimitOptions, workers: int) -> Iterable[str]:
        return overrun(options, workers)

    def limits(self, number: int, given: Sequence[LimitOptions]) -> Limits:
        context = self.context
        rows = [limit.row() for limit in given]
        # of the first set under the policy's own name: an override that comes or goes leaves its levels
        name = context.policy_key.encode() + (b"" if number == 0 else b"\0override %d" % number)
        return Limits(context.bucket_table, name, number, rows, context.limit_counts, context.route_name or "*")

    def hook(self) -> Hook:
        options, context = self.options, self.context
        cost, exempt = options.cost, options.exempt
        addresses = None
        if exempt is not None and exempt.addresses:
            addresses = CidrTable([(Listed.ALLOWED, "exempt", "\n".join(map(str, exempt.addresses)).encode())])
        others = [self.limits(number, case.limits) for number, case in enumerate(options.overrides, 1)]
        cases = [
            Case(
                limits,
                plans=case.plans,
                consumers=case.consumers,
                groups=case.groups,
                methods=case.methods,
                routes=case.routes,
            )
            for limits, case in zip(others, options.overrides, strict=True)
        ]
        default = self.limits(0, options.default) if options.default else None
        told = options.response_cost
        decider = None
        table = context.bucket_table
        if options.shared is not None:
            decider = SharedDecider(options, context, [default, *others])
            # long values count by a hash that must be the same on all hosts
            table = context.shared.get_or_create("rate_limit keys", same_everywhere)
        return NativeRateLimit(
            context.bucket_table,
            context.holds,
            context.limit_counts,
            LimitKey(table, [part(by) for by in options.by]),
            default,
            cases,
            decider=decider,
            styles=options.styles,
            open_when_full=options.when_full == "allow",
            report=Report("rate_limit", "would be refused") if options.mode == "log" else None,
            cost=cost if isinstance(cost, int) else 1,
            cost_template=Compiled(parts_of(cost)) if isinstance(cost, Template) else None,
            response_cost=told.header if told is not None else None,
            strip_cost=told is not None and told.remove,
            exempt=addresses,
            exempt_consumers=exempt.consumers if exempt is not None else (),
            exempt_groups=exempt.groups if exempt is not None else (),
            most_waiting=options.max_waiting,
        )
