"""A gradual rollout: what is wished, what both plans were seen to do, and what follows from that. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from fastgw._core.trial import BOUNDS, TrialCounts
from fastgw.config import Config
from fastgw.config.fields import Duration, Ratio, format_duration, parse_duration, parse_ratio, wrong
from fastgw.server.differences import Change

LONGEST = 3600.0
"""Seconds that a canary may be watched: certificates that change meanwhile wait for its end."""
TRIED = ("service", "consumer", "policies", "route", "order")
"""What a share of the requests can meet; of the kinds of differences.Change."""


class Limit(NamedTuple):
    """How bad the new plan may be: an amount, or how much more than the old one."""

    value: float
    more: bool
    text: str

    def __str__(self) -> str:
        return self.text


def parse_error_rate(value: object) -> Limit:
    """`1%`: of its requests; `+1%`: one point more than of the old plan's."""
    text = str(value).strip()
    return Limit(parse_ratio(text.removeprefix("+")), text.startswith("+"), text)


def parse_latency(value: object) -> Limit:
    """`500ms`; or `+20%`: so much longer than with the old plan."""
    text = str(value).strip()
    if not text.startswith("+"):
        return Limit(parse_duration(text), False, text)
    number = text[1:].removesuffix("%")
    if not text.endswith("%") or not number.replace(".", "", 1).isdigit() or float(number) > 10_000:
        raise wrong("bad_value", f"{text!r} is not a limit", "a duration such as 500ms, or +20%")
    return Limit(float(number) / 100, True, text)


def parse_by(value: str) -> str:
    kind, _, name = value.partition(":")
    if value != "address" and (kind not in ("header", "cookie") or not name or not name.isascii() or len(name) > 200):
        raise wrong("bad_value", f"{value!r} does not tell clients apart", "address, header:NAME or cookie:NAME")
    return value


def open_share(value: float) -> float:
    if not 0 < value < 1:
        raise wrong("out_of_range", "a canary has a share of the requests", "more than 0% and less than 100%")
    return value


class Rules(BaseModel):
    """How a new plan is tried. Durations in seconds, shares 0 to 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: Annotated[Ratio, AfterValidator(open_share)] = Field(description="The clients that the new plan serves.")
    watch: Duration = Field(60.0, ge=0.1, le=LONGEST)
    max_error_rate: Annotated[Limit, BeforeValidator(parse_error_rate)] = Limit(0.01, True, "+1%")
    max_p99: Annotated[Limit, BeforeValidator(parse_latency)] | None = None
    min_requests: int = Field(100, ge=1, le=10_000_000)
    by: Annotated[str, AfterValidator(parse_by)] = "address"


class Wish(BaseModel):
    """The body of POST /config/apply."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(min_length=1, max_length=4096)
    canary: Rules | None = None


# ---------------------------------------------------------------------- what was seen


@dataclass(slots=True)
class Side:
    """What one plan did, over all workers. `buckets` are requests by trial.BOUNDS."""

    requests: int = 0
    errors: int = 0
    refused: int = 0
    left: int = 0
    buckets: Sequence[int] = field(default_factory=lambda: [0] * len(BOUNDS))

    @property
    def error_rate(self) -> float:
        return self.errors / self.requests if self.requests else 0.0

    def quantile(self, q: float) -> float | None:
        """Seconds that `q` of the requests did not exceed, to 3 %; None without one."""
        total = sum(self.buckets)
        if not total:
            return None
        return next(bound for bound, seen in zip(BOUNDS, accumulate(self.buckets), strict=True) if seen >= q * total)

    def view(self) -> dict[str, Any]:
        p50, p99 = self.quantile(0.5), self.quantile(0.99)
        return {
            "requests": self.requests,
            "errors": self.errors,
            "error_rate": round(self.error_rate, 6),
            "refused": self.refused,
            "clients_left": self.left,
            "p50": None if p50 is None else round(p50, 6),
            "p99": None if p99 is None else round(p99, 6),
        }


def both_sides(counts: Iterable[TrialCounts]) -> tuple[Side, Side]:
    """The old plan and the new one, of all workers together."""
    sides = Side(), Side()
    for one in counts:
        for side, (numbers, buckets) in zip(sides, one.read(), strict=True):
            side.requests += numbers[0]
            side.errors += numbers[1]
            side.refused += numbers[2]
            side.left += numbers[3]
            side.buckets = [a + b for a, b in zip(side.buckets, buckets, strict=True)]
    return sides


# ---------------------------------------------------------------------- what follows


class Verdict(NamedTuple):
    result: Literal["promoted", "returned", "aborted"]
    reason: str


def judge(rules: Rules, old: Side, new: Side, over: bool) -> Verdict | None:
    """None: watch on. `over`: its time is, and it is decided one way or the other.

    It is returned as soon as it is plainly bad, with `min_requests` seen: too many errors, or half of its requests
    slower than 99 % of them may be. Its p99 itself is judged at the end: it needs all there is.
    """
    if new.requests < rules.min_requests:
        return Verdict("returned", few("the new plan", new, rules)) if over else None
    compared = rules.max_error_rate.more or (rules.max_p99 is not None and rules.max_p99.more)
    if compared and old.requests < rules.min_requests:
        return Verdict("returned", few("the plan in force", old, rules)) if over else None
    allowed = rules.max_error_rate.value + (old.error_rate if rules.max_error_rate.more else 0)
    if new.error_rate > allowed:
        return Verdict(
            "returned",
            f"{new.error_rate:.2%} of its requests failed (plan in force: {old.error_rate:.2%}), "
            f"more than {rules.max_error_rate}",
        )
    if rules.max_p99 is not None:
        p99 = old.quantile(0.99) or 0.0
        limit = p99 * (1 + rules.max_p99.value) if rules.max_p99.more else rules.max_p99.value
        for q, word in ((0.5, "p50"), (0.99, "p99")):
            found = new.quantile(q) or 0.0
            if found > limit and (over or q == 0.5):
                return Verdict(
                    "returned",
                    f"its {word} is {milliseconds(found)}, and p99 may be {milliseconds(limit)} "
                    f"({rules.max_p99}; plan in force: {milliseconds(p99)})",
                )
    return Verdict("promoted", "nothing spoke against it") if over else None


def few(who: str, side: Side, rules: Rules) -> str:
    return f"{who} was asked {side.requests} times, too little to judge ({rules.min_requests} are needed)"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"


def words(report: dict[str, Any]) -> str:
    """A report, as a person reads it."""
    if report["state"] == "none":
        return "No new configuration has been tried since this agent began."
    watch = format_duration(report["watch"])
    told = {
        "watching": f"It is being watched, {report['seconds']:.0f} s of {watch} so far.",
        "promoted": f"Promoted after {report['seconds']:.0f} s: {report['reason']}.",
        "returned": f"Returned after {report['seconds']:.0f} s: {report['reason']}.",
        "aborted": f"Aborted after {report['seconds']:.0f} s: {report['reason']}.",
    }
    lines = [f"{report['file']} for {report['share']} of the clients", told[report["state"]]]
    header = f"{'':14}{'requests':>10}{'errors':>9}{'rate':>9}{'4xx':>8}{'p50':>12}{'p99':>12}"
    lines.append(header)
    for name, who in (("old", "plan in force"), ("new", "new plan")):
        side = report[name]
        times = ["-" if side[q] is None else milliseconds(side[q]) for q in ("p50", "p99")]
        lines.append(
            f"{who:14}{side['requests']:>10}{side['errors']:>9}{side['error_rate']:>9.2%}{side['refused']:>8}"
            f"{times[0]:>12}{times[1]:>12}"
        )
    return "\n".join(lines)


# ---------------------------------------------------------------------- two configurations at once


def obstacles(old: Config, new: Config, changes: Sequence[Change]) -> list[str]:
    """Why a configuration cannot be given to a share of the requests; none: it can."""
    found = []
    if not any(change.what in TRIED for change in changes):
        what = "listeners and settings" if changes else "nothing"
        found.append(
            f"it changes {what}, and what a share of the requests can meet are services, consumers, policies and "
            "routes: apply it without a canary"
        )
    found += [
        f"service {name}: its discovery differs, and both plans have the same endpoints of a name: "
        "give the new one another name, or apply it without a canary"
        for name in old.services.keys() & new.services.keys()
        if old.services[name].discovery != new.services[name].discovery
    ]
    return found


def at_promotion(changes: Sequence[Change]) -> list[str]:
    """What is not tried, and comes with the promotion."""
    return [f"{change.what} {change.name}".strip() for change in changes if change.what not in TRIED]


def together(old: Config, new: Config) -> Config:
    """What the host looks after while both serve: names, endpoints, health. Of what both have, the old one's way."""
    services = {**new.services, **old.services}
    for name in old.services.keys() & new.services.keys():
        mine, theirs = old.services[name], new.services[name]
        known = {str(endpoint.url) for endpoint in mine.endpoints}
        more = () if mine.discovery else tuple(e for e in theirs.endpoints if str(e.url) not in known)
        services[name] = mine.model_copy(
            update={
                "endpoints": mine.endpoints + more,
                "health_check": mine.health_check or theirs.health_check,
                "outliers": mine.outliers or theirs.outliers,
                "circuit_breaker": mine.circuit_breaker or theirs.circuit_breaker,
            }
        )
    tls = replace(old.tls, services={**new.tls.services, **old.tls.services})
    return replace(old, services=services, tls=tls)
