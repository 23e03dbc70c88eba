"""`concurrency`: how many requests may be under way at once."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from fastgw.config.fields import Duration, Name, Ratio, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.templating import Template

TENANTS = {
    "consumer": "${consumer.name}",
    "plan": "${consumer.plan}",
    "route": "${route.name}",
    "client_ip": "${client.ip}",
}
"""Short words for whose requests belong together."""


def _by(value: object) -> object:
    if isinstance(value, str) and "${" not in value and value not in TENANTS:
        raise wrong("bad_choice", f"{value[:40]!r} names nobody", f"{', '.join(TENANTS)}, or a template with ${{…}}")
    return TENANTS.get(value, value) if isinstance(value, str) else value


By = Annotated[Template, BeforeValidator(_by), WithJsonSchema({"type": "string"})]


class Fair(Room):
    """Places are shared fairly among tenants: by the time for which their requests take one, not by who sends most. A
    bare word is the short form of `by`."""

    by: By = key(
        Template("${consumer.name}"),
        "Whose requests belong together: consumer, plan, route, client_ip, or a template. A request for which that is "
        "empty counts by its client's address.",
        example="consumer",
    )
    weights: dict[Name, Annotated[int, Field(ge=1, le=1000)]] = key(
        {}, "By plan: how many shares its consumers have; others have one.", max_length=100, example={"gold": 4}
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"by": value} if isinstance(value, str) else value


class CoDel(Room):
    """Controlled delay: when all who went on within `interval` had waited for longer than `target`, those that waited
    for twice the target are shed, so that the others do not wait in vain."""

    target: Duration = key(0.02, "The wait that is well.", ge=0.001, le=60)
    interval: Duration = key(0.1, "How long a queue may stand.", ge=0.01, le=60)

    @model_validator(mode="after")
    def _order(self) -> Any:
        if self.target >= self.interval:
            raise wrong("out_of_range", "`interval` is not longer than `target`", "five times as long, or more")
        return self


class Queue(Room):
    """Those that may wait until others have ended: by their class, within one in turns by tenant, of one tenant first
    in, first out. When it is full, the least important ones, and those of who has most in it, lose their places."""

    max: int = key(0, "How many, of one worker; 0 is none.", ge=0, le=100000)
    timeout: Duration = key(1.0, "How long one may wait; then 503.", ge=0.001, le=600)
    fair: Fair | None = key(None, "Fair shares for tenants; left out, all are one.", example="consumer")
    codel: CoDel | None = key(None, "Sheds what waits too long while the queue stands.", example={})


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
    shares: dict[Name, Ratio] = key(
        {},
        "By class of `priorities`, or `retry` or `mirror`: what part of the limit may be in use for one of it to come "
        "in; the rest is for the more important ones.",
        max_length=10,
        example={"batch": "50%"},
    )
    retry_after: Duration = key(1.0, "What those that are refused are told.", ge=1, le=3600)

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
        if not self.queue.max and (self.queue.fair is not None or self.queue.codel is not None):
            raise wrong("missing_key", "`fair` and `codel` are of a queue, and there is none", "queue: {max: 100}")
        if any(not 0 < share <= 1 for share in self.shares.values()):
            raise wrong("out_of_range", "a share is more than 0% and up to 100%", "50%")
        return self
