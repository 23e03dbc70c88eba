"""The options of `rate_limit`: limits, whose requests they count, and for whom there are others."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, GetJsonSchemaHandler, Strict, model_validator
from pydantic_core import CoreSchema

from fastgw._core.limit import STYLES
from fastgw.config.fields import TOKEN, Cidr, Duration, HeaderName, format_duration, parse_duration, shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.templating import Template
from fastgw.policies._parts import listed
from fastgw.policies._shared_limits import SharedOptions, check_shared

PLAIN = ("consumer", "client_ip", "route", "global")
NAMED = ("header", "claim", "cookie", "query")
EXPECTED = (
    "consumer, client_ip, route, global, header:NAME, claim:NAME, cookie:NAME, query:NAME or a text with ${…} in it"
)
LABEL = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")
SHORT = re.compile(r"\s*([0-9]{1,10})\s*/\s*([0-9a-z.]+)\s*\Z")
UNITS = {"s": "1s", "m": "1m", "h": "1h", "d": "1d"}
MOST = 8
MAX_LOG = 1000
MAX_HELD = 1_000_000

Algorithm = Literal["token_bucket", "leaky_bucket", "fixed_window", "sliding_window", "sliding_log", "concurrency"]
Style = Literal["ietf", "x", "draft03"]
assert STYLES == ("ietf", "x", "draft03")


def _by(value: object) -> str:
    if isinstance(value, str):
        if value in PLAIN:
            return str(value)
        kind, colon, name = value.partition(":")
        if kind in NAMED and colon and TOKEN.match(name):
            return str(value)
    raise wrong("bad_choice", f"{shown(value)} is not a key", EXPECTED)


def _label(value: object) -> object:
    if isinstance(value, str) and not LABEL.match(value):
        raise wrong("bad_value", f"{shown(value)} is not a name for a limit", "64 letters, digits and . _ : - at most")
    return value


def _short(value: Any) -> Any:
    """`50/s`, `1000/1m` → {requests: 50, per: 1s}."""
    if not isinstance(value, str):
        return value
    match = SHORT.match(value)
    if match is None:
        raise wrong("bad_value", f"{shown(value)} is not a limit", "50/s, 1000/1m, or {requests: …, per: …}")
    return {"requests": int(match[1]), "per": parse_duration(UNITS.get(match[2], match[2]))}


class By(str):
    """A word of `by`, or the template that it is."""

    template: Template | None = None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        given: CoreSchema = Template.__get_pydantic_core_schema__(source, handler)
        from pydantic_core import core_schema

        def read(value: object, parse: Any) -> By:
            if isinstance(value, By):
                return value
            if "${" not in getattr(value, "template", str(value)):
                return By(_by(value))
            template = parse(value)
            if template.constant is not None:
                return By(_by(value))
            made = By(str(template))
            made.template = template
            return made

        return core_schema.no_info_wrap_validator_function(
            read, given, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string"}

    @property
    def identity(self) -> bool:
        """It is known only when somebody has found out who calls."""
        if self.template is None:
            return self == "consumer" or self.startswith("claim:")
        return any(one.kind.partition(".")[0] in ("consumer", "claims") for one in self.template.variables)


class LimitOptions(Room):
    """One limit."""

    requests: int = key(doc="So many requests …", ge=1, le=1_000_000_000, example=50)
    per: Duration = key(60.0, "… in so much time.", ge=0.001, le=366 * 86400, example="1m")
    algorithm: Algorithm = key(
        "token_bucket",
        "`token_bucket`: `burst` at once, then evenly. `leaky_bucket`: what comes faster waits. `fixed_window`: the "
        "windows of the clock. `sliding_window`: two windows, weighted. `sliding_log`: exact, each request remembered, "
        "1000 at most. `concurrency`: so many under way at the same time.",
    )
    burst: int | None = key(
        None,
        "How many may come at once. Of a token_bucket its capacity, left out `requests`; of a leaky_bucket those that "
        "need not wait, left out 1.",
        ge=1,
        le=1_000_000_000,
        example=100,
    )
    queue: int | None = key(
        None,
        "leaky_bucket: how many of a key may wait; more are refused.",
        ge=0,
        le=100_000,
        example=20,
    )
    max_delay: Duration | None = key(
        None, "leaky_bucket: how long one may wait at most. Left out, 10s.", ge=0.001, le=300, example="5s"
    )
    name: Annotated[str | None, BeforeValidator(_label)] = key(
        None, "Its name in headers, refusals and metrics. Left out, `50/1m` and its like.", example="burst"
    )

    @model_validator(mode="after")
    def _sane(self) -> Self:
        check_limit(self)
        return self

    @property
    def label(self) -> str:
        if self.name is not None:
            return self.name
        if self.algorithm == "concurrency":
            return f"{self.requests}-at-once"
        return f"{self.requests}/{format_duration(self.per)}"

    def row(self) -> dict[str, Any]:
        """What `_core.limit.Limits` takes."""
        leaky = self.algorithm == "leaky_bucket"
        return {
            "algorithm": self.algorithm,
            "requests": self.requests,
            "per": round(self.per * 1e9),
            "burst": self.burst or (1 if leaky else self.requests),
            "queue": (self.queue or 0) if leaky else 0,
            "delay": round((10.0 if self.max_delay is None else self.max_delay) * 1e9) if leaky else 0,
            "label": self.label,
        }


def check_limit(given: LimitOptions) -> None:
    """Whether it can be counted; the same bounds as in _core.algorithms.set_limit, in words."""
    kind, requests = given.algorithm, given.requests
    per = round(given.per * 1e9)
    if kind != "leaky_bucket" and (given.queue is not None or given.max_delay is not None):
        raise wrong("conflict", f"{kind} has no queue", "`queue:` and `max_delay:` with `algorithm: leaky_bucket`")
    if kind == "leaky_bucket" and given.queue is None:
        raise wrong("missing_key", "a leaky_bucket without `queue:`", "`queue:`, how many may wait; 0 for none")
    if kind not in ("token_bucket", "leaky_bucket") and given.burst is not None:
        raise wrong("conflict", f"{kind} has no burst", "`burst:` with token_bucket or leaky_bucket")
    if kind == "concurrency":
        if "per" in given.model_fields_set:
            raise wrong("conflict", "requests under way are not counted per time", "`requests:` without `per:`")
        if requests > MAX_HELD:
            raise wrong("out_of_range", f"{requests} requests under way", f"at most {MAX_HELD}")
    elif kind == "sliding_log" and requests > MAX_LOG:
        raise wrong("out_of_range", f"a log of {requests} requests", f"at most {MAX_LOG}; more with sliding_window")
    elif kind == "sliding_window" and (requests + 1) ** 2 > per:
        raise wrong(
            "out_of_range",
            f"{requests} requests in a sliding window of {format_duration(given.per)}",
            f"at most {int(per**0.5) - 1}; more with token_bucket or fixed_window",
        )
    elif per < 10 * requests:
        raise wrong("out_of_range", f"{requests} in {given.per:g} s", "at most 100 million per second")
    if kind in ("token_bucket", "leaky_bucket"):
        most = (given.burst or (requests if kind == "token_bucket" else 1)) + (given.queue or 0)
        if -(-per // requests) * most > 2e18:
            raise wrong("out_of_range", "it would take more than half a century to fill again", "a smaller burst")


OneLimit = Annotated[LimitOptions, BeforeValidator(_short)]


def _distinct(limits: tuple[LimitOptions, ...]) -> None:
    labels = [limit.label for limit in limits]
    for label in labels:
        if labels.count(label) > 1:
            raise wrong("duplicate_name", f"two limits are called {label}", "a `name:` of its own for each")


Words = Annotated[tuple[str, ...], BeforeValidator(listed)]


class Override(Room):
    """Other limits for some requests: all that is given must hold, each by one of its words."""

    plans: Words = key((), "Plans of the consumer.", max_length=1000, example=["gold"])
    consumers: Words = key((), "Consumers.", max_length=10_000, example=["batch"])
    groups: Words = key((), "Groups of the consumer.", max_length=1000, example=["partners"])
    methods: Words = key((), "Methods.", max_length=50, example=["POST", "PUT"])
    routes: Words = key((), "Routes, where the policy stands for several.", max_length=10_000, example=["search"])
    limits: tuple[OneLimit, ...] = key(
        doc="Their limits, in the place of the others.", min_length=1, max_length=MOST, example=["500/s"]
    )

    @model_validator(mode="after")
    def _sane(self) -> Override:
        if not (self.plans or self.consumers or self.groups or self.methods or self.routes):
            raise wrong("missing_key", "nothing says for which requests", "plans, consumers, groups, methods or routes")
        _distinct(self.limits)
        return self


class Exempt(Room):
    """Who is not limited: any one of these will do."""

    addresses: Annotated[tuple[Cidr, ...], BeforeValidator(listed)] = key(
        (), "Addresses of clients.", max_length=10_000, example=["10.0.0.0/8"]
    )
    consumers: Words = key((), "Consumers.", max_length=10_000, example=["monitoring"])
    groups: Words = key((), "Groups of consumers.", max_length=1000, example=["staff"])


class ResponseCost(Room):
    """A cost that the service tells with its answer."""

    header: HeaderName = key(doc="The answer's header with a whole number in it.", example="X-Cost")
    remove: bool = key(True, "Take it out of the answer.")


class RateLimitOptions(LimitOptions):
    """One limit, written here, or several under `limits:`."""

    requests: int | None = key(None, "So many requests …", ge=1, le=1_000_000_000, example=60)  # type: ignore[assignment]
    limits: tuple[OneLimit, ...] = key(
        (),
        "Several limits that are decided together, in the place of the one written here: `50/s` or "
        "{requests: 50, per: 1s, …}. A request that one of them refuses is charged to none.",
        max_length=MOST,
        example=["50/s", "1000/m"],
    )
    by: Annotated[tuple[By, ...], BeforeValidator(listed)] = key(
        (By("client_ip"),),
        f"Whose requests are counted together: {EXPECTED}, or a list of them. A request without the key "
        "counts by client_ip.",
        min_length=1,
        max_length=8,
        example="consumer",
    )
    cost: Annotated[int, Strict()] | Template = key(
        1,
        "What a request costs: a whole number, or a text with ${…} of the request in it; when that is no number, 1.",
        example=5,
    )
    response_cost: ResponseCost | None = key(None, "What it costs besides, charged when the answer is there.")
    overrides: tuple[Override, ...] = key(
        (), "Other limits for some requests; the first that fits holds.", max_length=1000
    )
    exempt: Exempt | None = key(None, "Who is not limited.")
    shared: SharedOptions | None = key(
        None, "Share the limits with other hosts, in Redis. Left out, they are this host's."
    )
    mode: Literal["enforce", "log"] = key(
        "enforce", "`log`: count, say what would be refused, and let it pass; nobody waits and there are no headers."
    )
    headers: bool | Annotated[tuple[Style, ...], BeforeValidator(listed)] = key(
        True,
        "What is told with every answer: `ietf` (RateLimit and RateLimit-Policy), `x` (X-RateLimit-*), `draft03` "
        "(RateLimit-Limit, -Remaining, -Reset); `true` is [ietf, x]. Retry-After is sent with every refusal.",
        example=["ietf", "x"],
    )
    max_waiting: int = key(
        10_000, "leaky_bucket: how many may wait in each worker, of all keys; more are refused.", ge=1, le=1_000_000
    )
    when_full: Literal["refuse", "allow"] = key(
        "refuse",
        "When the host's table of buckets has no room for one more key: `refuse` (503 limiter_full) or "
        "`allow`.",
    )

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if self.requests is not None:
            if self.limits:
                raise wrong("conflict", "one limit here and several under `limits:`", "the one or the other")
            check_limit(self)
        elif not self.limits and not self.overrides:
            raise wrong("missing_key", "there is no limit", "`requests:`, `limits:` or `overrides:`")
        elif alone := self.model_fields_set & {"per", "algorithm", "burst", "queue", "max_delay", "name"}:
            raise wrong("conflict", f"`{min(alone)}:` without `requests:`", "`requests:`, or the key within `limits:`")
        _distinct(self.limits)
        fixed = self.cost if isinstance(self.cost, int) else self.cost.constant
        if fixed is not None and not (str(fixed).isdecimal() and int(fixed) <= 1_000_000_000):
            raise wrong("out_of_range", f"a cost of {shown(fixed)}", "0 to 1000000000, or a text with ${…} in it")
        check_shared(self)
        return self

    @property
    def default(self) -> tuple[LimitOptions, ...]:
        """The limits of requests that no override fits; none: they are not limited."""
        return self.limits if self.requests is None else (self,)

    @property
    def styles(self) -> tuple[str, ...]:
        return (("ietf", "x") if self.headers else ()) if isinstance(self.headers, bool) else self.headers

    @property
    def identity(self) -> bool:
        """Something in it depends on who calls."""
        exempt = self.exempt
        cost = self.cost.variables if isinstance(self.cost, Template) else ()
        return (
            any(by.identity for by in self.by)
            or any(one.kind.partition(".")[0] in ("consumer", "claims") for one in cost)
            or any(case.plans or case.consumers or case.groups for case in self.overrides)
            or (exempt is not None and bool(exempt.consumers or exempt.groups))
        )
