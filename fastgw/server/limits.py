"""What operators see and change of rate limits: the tables that all workers share, and the state of one key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastgw._core.limit import RateLimit
from fastgw.config import Config
from fastgw.config.schema.stores import Stores
from fastgw.plan.spec import PolicySpecUse, uses_of
from fastgw.policies._limits import RateLimitOptions
from fastgw.policies._shared_limits import SharedDecider
from fastgw.policies.base import BuildContext
from fastgw.server.shared import SharedMemory

PATIENCE = 2.0
"""Seconds that an operator waits for Redis."""


class LimitProblem(Exception):
    """What cannot be told, and why."""


class LimitDesk:
    """`config` gives the configuration in force."""

    def __init__(self, memory: SharedMemory, config: Callable[[], Config]) -> None:
        self.memory = memory
        self.config = config

    def policies(self) -> dict[str, PolicySpecUse]:
        """The `rate_limit` policies in force, by route, name and number: `orders/rate_limit/1`, `*/rate_limit/1`."""
        config = self.config()
        found = list(uses_of(config.policies, None))
        for route in config.routes:
            found += uses_of(route.policies, route.name)
        return {use.key: use for use in found if isinstance(use.options, RateLimitOptions)}

    def listing(self) -> dict[str, Any]:
        buckets = self.memory.buckets
        counts = buckets.counts()
        return {
            "table": {"slots": buckets.capacity, **counts, "fill": round(counts["keys"] / buckets.capacity, 4)},
            "under_way": {"keys": len(held := self.memory.holds[0].counts()), "requests": sum(held.values())},
            "limits": [
                {"route": route, "limit": limit, **kinds} for route, limit, kinds in self.memory.limit_counts.rows()
            ],
            "policies": [
                {
                    "policy": key,
                    "by": [str(by) for by in use.options.by],
                    "limits": [one.label for one in use.options.default],
                    "overrides": [[one.label for one in case.limits] for case in use.options.overrides],
                    "mode": use.options.mode,
                }
                for key, use in self.policies().items()
            ],
        }

    def native(self, policy: str) -> RateLimit:
        """The policy as the workers have it, over the same tables. LimitProblem when there is none."""
        use = self.policies().get(policy)
        if use is None:
            raise LimitProblem(f"there is no policy {policy!r}; GET /limits lists them")
        memory = self.memory
        context = BuildContext(
            bucket_table=memory.buckets,
            holds=memory.holds[0],
            limit_counts=memory.limit_counts,
            policy_key=use.key,
            route_name=use.route,
            stores=self.patient(),
        )
        hook = use.handler(use.options, context).hook()
        if not isinstance(hook, RateLimit):
            raise LimitProblem(f"the policy {policy!r} cannot be built")
        return hook

    def patient(self) -> Stores:
        """For somebody who waits longer than a request may."""
        stores = self.config().stores
        if stores.redis is None:
            return stores
        longer = {"deadline": max(stores.redis.deadline, PATIENCE), "timeout": max(stores.redis.timeout, PATIENCE)}
        return stores.model_copy(update={"redis": stores.redis.model_copy(update=longer)})

    async def state(self, policy: str, values: list[str]) -> list[dict[str, Any]]:
        """Of limits that hosts share as Redis has them: without what lies in slices. StoreError."""
        hook = self.native(policy)
        try:
            if isinstance(hook.decider, SharedDecider):
                return await hook.decider.state(hook.key.bytes_of(values))
            return hook.state(values)
        except ValueError as error:
            raise LimitProblem(str(error)) from None

    async def reset(self, policy: str, values: list[str]) -> int:
        hook = self.native(policy)
        try:
            if isinstance(hook.decider, SharedDecider):
                return await hook.decider.reset(hook.key.bytes_of(values))
            return hook.reset(values)
        except ValueError as error:
            raise LimitProblem(str(error)) from None
