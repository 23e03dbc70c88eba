"""The room `balance` of a service: how one of its endpoints is chosen."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema, model_validator

from fastgw.config.fields import Duration, Ratio, shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.templating import Template

Kind = Literal["round_robin", "random", "least_requests", "ewma", "consistent_hash"]
OTHER_WORDS: dict[str, dict[str, Any]] = {
    "least_connections": {"type": "least_requests"},
    "least_conn": {"type": "least_requests"},
    "leastconn": {"type": "least_requests"},
    "power_of_two": {"type": "least_requests"},
    "ip_hash": {"type": "consistent_hash", "hash_on": "${client.ip}"},
}
"""How others call the same."""


def parse_bound(value: object) -> float | None:
    """`off` → None, else a factor above 1, as a number or `125%`."""
    if value is False or value is None or (isinstance(value, str) and value.strip().lower() in ("off", "false")):
        return None
    number: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    elif isinstance(value, str) and len(value) <= 32:
        text = value.strip()
        try:
            number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            number = None
    if number is None or not 1.01 <= number <= 100:
        raise wrong("bad_value", f"{shown(value)} is no bound", "off, or a factor from 1.01 to 100, as 1.25 or 125%")
    return number


Bound = Annotated[
    float | None,
    BeforeValidator(parse_bound),
    WithJsonSchema({"type": ["number", "string", "boolean"], "pattern": r"^\s*(off|[0-9.]+\s*%?)\s*$|\$\{"}),
]


def check_key(template: Template) -> Template:
    if not template.variables:
        raise wrong("bad_value", "the key is the same for every request", "a variable, as ${request.header.X-User}")
    if any(isinstance(part, str) and not part.isascii() for part in template.parts):
        raise wrong("bad_value", "the key holds characters beyond ASCII", "ASCII text and variables")
    return template


HashKey = Annotated[Template, AfterValidator(check_key)]
COOKIE_NAME = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"
COOKIE_PATH = r"^/[!-:<-~]*$"


class Sticky(Room):
    """A client comes back to the endpoint that answered it first. A bare value is short for `{cookie: NAME}`."""

    cookie: str = key(
        "fastgw_endpoint", "The cookie's name.", pattern=COOKIE_NAME, min_length=1, max_length=100,
        example="fastgw_endpoint",
    )  # fmt: skip
    max_age: Duration | None = key(
        None, "How long a client keeps it; by default until it is closed.", ge=1, le=31536000
    )
    path: str = key("/", "`Path` of the cookie.", pattern=COOKIE_PATH, max_length=200)
    same_site: Literal["lax", "strict", "none"] = key("lax", "`SameSite` of the cookie; `none` makes it `Secure`.")
    secure: bool = key(False, "Always `Secure`; without this it is for clients that came over TLS.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"cookie": value} if isinstance(value, str) else value


class Balance(Room):
    """A bare value is the short form of `{type: TYPE}`."""

    type: Kind = key(
        "round_robin",
        "`round_robin`: by turns, by weight; `random`: by chance, by weight; `least_requests`: of two at random the "
        "one with fewer requests under way; `ewma`: of two at random the one that promises to answer first; "
        "`consistent_hash`: the same one for the same `hash_on`.",
    )
    hash_on: HashKey = key(
        Template("${client.ip}"),
        "Of `consistent_hash`: what of a request chooses; without a value it is by chance.",
        example="${request.header.X-User}",
    )
    algorithm: Literal["maglev", "ring"] = key(
        "maglev",
        "Of `consistent_hash`: `maglev` has the most even shares, `ring` moves the fewest keys when endpoints come and "
        "go.",
    )
    bounded_load: Bound = key(
        None,
        "Of `consistent_hash`: no endpoint has more than so many times its share of the requests under way; `off`.",
    )
    decay: Duration = key(10.0, "Of `ewma`: after this time a latency counts for about a third.", ge=0.1, le=3600)
    sticky: Sticky | None = key(None, "A cookie brings a client back to the same endpoint.", example="fastgw_endpoint")
    slow_start: Duration = key(
        0.0, "How long an endpoint that is new, or came back, takes to get its whole share.", ge=0, le=3600
    )
    labels: dict[str, str] = key(
        {}, "Only endpoints with all of these labels.", max_length=16, example={"version": "v2"}
    )
    subset: int = key(
        0, "Of each priority only so many endpoints, each host of the gateway its own ones; 0: all.", ge=0, le=10000
    )
    min_healthy: Ratio = key(
        0.7,
        "While this share of a group (a priority, and of it a zone) is healthy, it takes all requests; below, the next "
        "group takes what is missing.",
        ge=0.01,
    )
    panic: Literal["any", "fail"] = key(
        "any", "When no endpoint is healthy: `any` asks one all the same, `fail` answers 503."
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return OTHER_WORDS.get(value, {"type": value})
        if isinstance(value, dict) and isinstance(value.get("type"), str):
            return {**value, **OTHER_WORDS.get(value["type"], {})}
        return value

    @model_validator(mode="after")
    def _fitting(self) -> Balance:
        """A key of one type is an error beside another: nothing is accepted and ignored."""
        owners = dict.fromkeys(("hash_on", "algorithm", "bounded_load"), "consistent_hash") | {"decay": "ewma"}
        for name, owner in owners.items():
            if name in self.model_fields_set and self.type != owner and getattr(self, name) is not None:
                raise wrong("conflict", f"`{name}` belongs to `type: {owner}`, and this is {self.type}", f"no `{name}`")
        if self.type == "consistent_hash" and self.slow_start:
            raise wrong("conflict", "`slow_start` has no effect on consistent_hash", "no `slow_start`")
        return self
