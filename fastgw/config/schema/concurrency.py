"""`concurrency`: how many requests may be under way at once."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from fastgw.config.fields import Duration, Ratio, wrong
from fastgw.config.schema.base import Room, key


class Queue(Room):
    """Those that may wait until others have ended, first in, first out."""

    max: int = key(0, "How many, of one worker; 0 is none.", ge=0, le=100000)
    timeout: Duration = key(1.0, "How long one may wait; then 503.", ge=0.001, le=600)


class Adaptive(Room):
    """A limit that each worker learns by itself: it grows as long as answers take about as long as they do without
    load, and shrinks when they take longer."""

    min: int = key(3, "The least limit of one worker; also the one with which the time without load is measured.", ge=1)
    max: int = key(1000, "The most.", ge=1, le=1000000)
    window: Duration = key(0.1, "How often the limit is looked at.", ge=0.01, le=60)
    percentile: Ratio = key(0.5, "What of the times to the heads of answers is looked at: `50%` is the median.")
    buffer: Ratio = key(0.25, "How much longer than without load answers may take without meaning anything.")
    min_rtt_interval: Duration = key(60.0, "How often the time without load is measured anew.", ge=1, le=86400)
    min_rtt_requests: int = key(50, "Answers that this takes, with the least limit.", ge=5, le=10000)
    jitter: Ratio = key(0.15, "How much later it may be, drawn each time, so that not all do it together.")

    @model_validator(mode="after")
    def _order(self) -> Any:
        if self.min > self.max:
            raise wrong("out_of_range", f"`min` {self.min} is more than `max` {self.max}", "min up to max")
        if not 0 < self.percentile < 1:
            raise wrong("out_of_range", "`percentile` is a share between 0 and 1", "50%")
        return self


class Concurrency(Room):
    """How many requests may be under way at once. More wait in a queue, or get 503 with `Retry-After`. A bare number is
    the short form of `max`."""

    max: int | None = key(
        None, "That many on this host: each worker has its share of it, rounded up.", ge=1, le=1000000, example=200
    )
    adaptive: Adaptive | None = key(None, "In the place of `max`: each worker learns a limit of its own.", example={})
    queue: Queue = key(Queue(), "Those that may wait.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"max": value} if isinstance(value, (int, str)) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _one(self) -> Any:
        if self.max is None and self.adaptive is None:
            raise wrong("missing_key", "nobody says how many", "max: 200, or adaptive: {}")
        if self.max is not None and self.adaptive is not None:
            raise wrong("conflict", "`max` and `adaptive` are two ways to say how many", "one of them")
        return self
