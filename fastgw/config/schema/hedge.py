"""`hedge`: a second request beside the first, where the first takes long."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from fastgw.config.fields import Duration, Ratio, shown, wrong
from fastgw.config.schema.base import Room, key


def parse_percentile(value: object) -> str:
    text = str(value).strip().lower() if isinstance(value, str) else ""
    whole, point, rest = text.removeprefix("p").partition(".")
    digits = (whole + rest).isascii() and whole.isdigit() and len(whole) == 2
    digits = digits and (not point or (rest.isdigit() and len(rest) < 3))
    if not (text.startswith("p") and digits and int(whole) >= 50):
        raise wrong("bad_value", f"{shown(value)} is no percentile", "p50 to p99.9, such as p95")
    return text


Percentile = Annotated[str, BeforeValidator(parse_percentile), WithJsonSchema({"type": "string"})]


class HedgeBudget(Room):
    """How many of the requests may be sent twice, in one worker: what is slow because it is busy needs no more."""

    ratio: Ratio = key(0.1, "Further requests per request, over time.")
    per_second: float = key(
        1.0, "Further requests a second that are free, for routes that are seldom asked.", ge=0, le=10000
    )


class Hedge(Room):
    """A request that takes long is sent to another endpoint too, beside the first: the first good answer is the answer,
    and the other is cancelled. A bare duration or percentile is the short form of `delay` or `percentile`."""

    delay: Duration | None = key(
        None,
        "How long the first may take to the head of its answer. With `percentile` the least wait, and the wait until "
        "100 answers of the route are known; without it, until then nothing is sent twice.",
        ge=0.001, le=60, example="50ms",
    )  # fmt: skip
    percentile: Percentile | None = key(
        None, "That of the route's own answers, live, in the place of a fixed delay.", example="p95"
    )
    max_extra: int = key(1, "Requests beside the first; each after another wait.", ge=1, le=3)
    methods: tuple[Literal["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "POST", "PATCH"], ...] = key(
        ("GET", "HEAD", "OPTIONS"),
        "Methods that may be sent twice at the same time: whoever lists others says that the service knows how to deal "
        "with that. A body must be here whole, for a policy or as `retry` keeps it.",
        min_length=1,
    )
    budget: HedgeBudget = key(HedgeBudget(), "How many there may be.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str) and value.strip().lower().startswith("p"):
            return {"percentile": value}
        return {"delay": value} if isinstance(value, (str, int, float)) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _when(self) -> Any:
        if self.delay is None and self.percentile is None:
            raise wrong("missing_key", "nobody says how long the first may take", "delay: 50ms, or percentile: p95")
        return self
