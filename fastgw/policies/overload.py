"""`overload`: requests are refused before the worker itself is too late with everything."""

from __future__ import annotations

import math
from typing import Any

from pydantic import model_validator

from fastgw._core.exchange import Hook
from fastgw._core.pressure import OverloadHook, Pressure
from fastgw.config.fields import Duration, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies._report import Report
from fastgw.policies.base import Policy


class OverloadOptions(Room):
    """From when on."""

    lag: Duration | None = key(
        0.1,
        "By so much the worker may be late with what it has to do; null: it does not matter.",
        ge=0.02,
        le=60,
        example="100ms",
    )
    requests: int | None = key(
        None, "So many requests may be under way in one worker.", ge=1, le=10_000_000, example=5000
    )
    retry_after: Duration = key(1.0, "What clients are told.", ge=1, le=3600)

    @model_validator(mode="after")
    def _something(self) -> Any:
        if self.lag is None and self.requests is None:
            raise wrong("missing_key", "neither `lag` nor `requests` is said", "one of them")
        return self


class Overload(Policy):
    """While the worker has more to do than it can, new requests get 503 `worker_overloaded` with `Retry-After`: those
    of the least important class of `priorities` from the bounds on, those of the most important one at twice the
    bounds, the others between; without `priorities` all from the bounds on. Those under way come to their end.

    How late the worker is, is looked at 30 times a second while requests come; the less of the last two looks counts.
    Order: after what finds out who calls, where classes depend on that, else first. Failure: open.
    """

    name = "overload"
    Options = OverloadOptions
    options: OverloadOptions

    def hook(self) -> Hook:
        options = self.options
        known: list[Pressure] = self.context.shared.get_or_create("overload", list)
        if not known:
            known.append(Pressure())                  # one of a worker, however many policies look at it
        return OverloadHook(
            known[0],
            int((options.lag or 0) * 1e9),
            options.requests or 0,
            math.ceil(options.retry_after),
            Report("overload", "refused, the worker has too much to do"),
        )
