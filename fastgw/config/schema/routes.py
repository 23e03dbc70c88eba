"""The rooms `routes` and `policies`: which requests, what is done with them, who answers.

`Route` is a dataclass with slots and not a `Room`: there may be 100,000 of them.
"""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.dataclasses import dataclass

from fastgw.config.errors import Path
from fastgw.config.fields import (
    TOKEN,
    Name,
    Network,
    Size,
    compile_regex,
    parse_cidr,
    parse_header_name,
    shown,
    wrong,
)
from fastgw.config.pattern import PathPattern, Rewrite, parse_path, parse_rewrite
from fastgw.config.registry import PolicySpec
from fastgw.config.schema.address import HOST_NAME
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.breaker import RouteBreaker
from fastgw.config.schema.concurrency import Concurrency
from fastgw.config.schema.hedge import Hedge
from fastgw.config.schema.retry import Retry
from fastgw.config.schema.services import HostHeader
from fastgw.config.schema.timeouts import RouteTimeouts
from fastgw.config.schema.websocket import WebSocket, WebSocketBroadcast
from fastgw.config.templating import Template

METHODS = frozenset((
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "ACL", "BIND", "CHECKOUT", "COPY",
    "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "NOTIFY", "PROPFIND", "PROPPATCH",
    "PURGE", "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE",
))  # fmt: skip
USER_AGENTS = ("bot", "mobile", "desktop", "tool")
MAX_LIST = 1000

ValueOp = Literal["exact", "regex", "present", "absent"]


class ValueMatch(NamedTuple):
    """One predicate on a header, query parameter or cookie. Header names are lower case."""

    name: str
    op: ValueOp
    value: str = ""


def value_match(name: str, value: object) -> ValueMatch:
    if isinstance(value, bool):
        return ValueMatch(name, "exact", str(value).lower())
    if isinstance(value, (int, float)):
        return ValueMatch(name, "exact", str(value))
    if not isinstance(value, str):
        raise wrong(
            "wrong_type", f"the value for {shown(name)} is {shown(value)}", 'text, "~ regex", "*" or "!"'
        )
    if value == "*":
        return ValueMatch(name, "present")
    if value == "!":
        return ValueMatch(name, "absent")
    if value.startswith("~"):
        regex = value[1:].strip()
        compile_regex(regex)
        return ValueMatch(name, "regex", regex)
    return ValueMatch(name, "exact", str(value))


def as_matches(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(
            "wrong_type", f"{what} is {shown(value)}, not a mapping", 'NAME: text, "~ regex", "*" or "!"'
        )
    if len(value) > 64:
        raise wrong("out_of_range", f"{what} has {len(value)} entries", "at most 64")
    return value


def parse_header_matches(value: object) -> tuple[ValueMatch, ...]:
    found: dict[str, ValueMatch] = {}
    for name, wanted in as_matches(value, "`headers`").items():
        lower = parse_header_name(name).lower()
        if lower in found:
            raise wrong("duplicate_key", f"the header {shown(name)} stands there twice", "each header once")
        found[lower] = value_match(lower, wanted)
    return tuple(found.values())


def parse_query_matches(value: object) -> tuple[ValueMatch, ...]:
    return tuple(value_match(name, wanted) for name, wanted in as_matches(value, "`query`").items())


def parse_cookie_matches(value: object) -> tuple[ValueMatch, ...]:
    found = as_matches(value, "`cookies`")
    for name in found:
        if not TOKEN.match(name):
            raise wrong(
                "bad_value", f"{shown(name)} is not the name of a cookie", "letters, digits, '-' and '_'"
            )
    return tuple(value_match(name, wanted) for name, wanted in found.items())


METHOD_LISTS: dict[tuple[str, ...], tuple[str, ...]] = {}


def parse_methods(value: object) -> tuple[str, ...]:
    """A method or a list of them → upper case, sorted; lists that are the same are one object."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not items or len(items) > 40:
        raise wrong("wrong_type", f"{shown(value)} is not a list of methods", "a list such as [GET, POST]")
    try:
        known = METHOD_LISTS.get(tuple(items))
    except TypeError:
        known = None
    if known is not None:
        return known
    for item in items:
        if not isinstance(item, str) or item.upper() not in METHODS:
            raise wrong(
                "bad_choice",
                f"{shown(item)} is not a method",
                "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS or "
                "another that HTTP/1.1 parsers know (not CONNECT)",
            )
    result = tuple(sorted({item.upper() for item in items}))
    if len(METHOD_LISTS) < 1000:
        METHOD_LISTS[tuple(items)] = result
    return result


def parse_hosts(value: object) -> tuple[str, ...]:
    """`example.com`, `*.example.com` or a list of them → lower case."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not items or len(items) > MAX_LIST:
        raise wrong(
            "wrong_type", f"{shown(value)} is not a host", "example.com, '*.example.com' or a list of them"
        )
    hosts = []
    for item in items:
        name = str(item).removeprefix("*.") if isinstance(item, str) else ""
        if name.startswith("[") and name.endswith("]") and ":" in name:
            parse_cidr(name[1:-1])
        elif not HOST_NAME.match(name):
            raise wrong(
                "bad_value",
                f"{shown(item)} is not a host to match",
                "a name without a port, '*.' only as its beginning",
            )
        hosts.append(str(item).lower().removesuffix("."))
    return tuple(dict.fromkeys(hosts))


def parse_user_agent(value: object) -> str:
    if not isinstance(value, str):
        raise wrong(
            "wrong_type", f"{shown(value)} is not text", f'"~ regex" or one of {", ".join(USER_AGENTS)}'
        )
    if value.startswith("~"):
        compile_regex(value[1:].strip())
    elif value not in USER_AGENTS:
        raise wrong(
            "bad_choice",
            f"{shown(value)} is no class of clients",
            f'"~ regex" or one of {", ".join(USER_AGENTS)}',
        )
    return str(value)


def parse_networks(value: object) -> tuple[Network, ...]:
    items = value if isinstance(value, (list, tuple)) else [value]
    if not items or len(items) > MAX_LIST:
        raise wrong("out_of_range", f"{len(items)} address ranges", f"1 to {MAX_LIST}")
    return tuple(parse_cidr(item) for item in items)


def parse_route_path(value: object) -> str:
    if not isinstance(value, str):
        raise wrong(
            "wrong_type", f"the path is {shown(value)}", "text: /exact, /prefix/*, /a/{param} or '~ regex'"
        )
    parse_path(value)
    return str(value)


def parse_strip(value: object) -> str | bool | None:
    if value is None or value is False or value == "false":
        return None
    if value is True or value == "true":
        return True
    return parse_prefix(value)


def parse_prefix(value: object) -> str:
    if not isinstance(value, str):
        raise wrong("wrong_type", f"{shown(value)} is not a prefix", "text that begins with '/'")
    pattern = parse_path(value) if value.startswith("/") else None
    if pattern is None or pattern.kind != "exact":
        raise wrong(
            "bad_value", f"{shown(value)} is not a prefix", "literal text that begins with '/', such as /api"
        )
    return str(value).rstrip("/")


SPLIT_BY = ("header:", "cookie:")


def parse_split_by(value: object) -> str:
    if isinstance(value, str):
        for prefix in SPLIT_BY:
            if value.startswith(prefix) and TOKEN.match(value[len(prefix) :]):
                return str(value)
    raise wrong("bad_value", f"{shown(value)} is nothing to split by", "header:NAME or cookie:NAME")


def values_schema(example: dict[str, str]) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "type": "object",
            "maxProperties": 64,
            "examples": [example],
            "additionalProperties": {"type": ["string", "number", "boolean"]},
        }
    )


def one_or_many(item: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]})


PathText = Annotated[
    str, BeforeValidator(parse_route_path), WithJsonSchema({"type": "string", "pattern": r"^(/|~|\$\{)"})
]
Hosts = Annotated[tuple[str, ...], BeforeValidator(parse_hosts), one_or_many({"type": "string"})]
Methods = Annotated[
    tuple[str, ...],
    BeforeValidator(parse_methods),
    one_or_many({"anyOf": [{"enum": sorted(METHODS)}, {"type": "string", "pattern": r"^[A-Za-z]+$|\$\{"}]}),
]
HeaderMatches = Annotated[
    tuple[ValueMatch, ...], BeforeValidator(parse_header_matches), values_schema({"X-Version": "2"})
]
QueryMatches = Annotated[
    tuple[ValueMatch, ...], BeforeValidator(parse_query_matches), values_schema({"beta": "true"})
]
CookieMatches = Annotated[
    tuple[ValueMatch, ...], BeforeValidator(parse_cookie_matches), values_schema({"session": "*"})
]
UserAgent = Annotated[str, BeforeValidator(parse_user_agent), WithJsonSchema({"type": "string"})]
Networks = Annotated[tuple[Network, ...], BeforeValidator(parse_networks), one_or_many({"type": "string"})]
RewriteText = Annotated[
    Rewrite, BeforeValidator(parse_rewrite), WithJsonSchema({"type": "string", "pattern": r"^(/|\$\{)"})
]
Strip = Annotated[
    str | bool | None, BeforeValidator(parse_strip), WithJsonSchema({"type": ["boolean", "string", "null"]})
]
Prefix = Annotated[
    str, BeforeValidator(parse_prefix), WithJsonSchema({"type": "string", "pattern": r"^(/|\$\{)"})
]
SplitBy = Annotated[
    str,
    BeforeValidator(parse_split_by),
    WithJsonSchema({"type": "string", "pattern": r"^(header|cookie):.+|\$\{"}),
]
PolicyList = Annotated[Any, WithJsonSchema({"type": "array"})]


class RouteLimits(Room):
    """A route's own limits."""

    body_size: Size | None = key(
        None, "Bytes of a request body, in the place of the server's limit.", ge=0, le=2**40, example="100MiB"
    )
    header_size: Size | None = key(
        None,
        "Bytes of the request line and all headers together; more is 431. The server's limit holds too.",
        ge=64,
        le=1024 * 1024,
        example="4KiB",
    )
    header_count: int | None = key(
        None, "Headers of a request; more is 431. The server's limit holds too.", ge=1, le=1000, example=40
    )


class SplitTarget(Room):
    """One share of a split."""

    service: Name = key(doc="The service.", example="orders-v2")
    weight: int = key(doc="Its share, in relation to the others.", ge=0, le=1000000, example=5)


@plain_dataclass(slots=True, eq=False)
class PolicyUse:
    """A policy at one place of the file: its spec, its checked options, and where it stands."""

    name: str
    spec: PolicySpec
    options: BaseModel
    path: Path
    line: int = 0
    col: int = 0
    templates: tuple[Template, ...] = ()


SLOTS = ConfigDict(extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)


@dataclass(slots=True, kw_only=True, config=SLOTS, eq=False)
class Match:
    """Which requests. All that is given must hold; what is left out holds always."""

    host: Hosts = key(
        (),
        "`example.com`, `*.example.com` or a list; exact before the longest wildcard.",
        example="api.example.com",
    )
    path: PathText | None = key(
        None,
        "`/exact`, `/prefix/*`, `/a/{param}`, `/a/{param:regex}` or `~ regex` (full "
        "match). Left out, every path.",
        example="/api/users/*",
    )
    methods: Methods = key(
        (), "A method or a list; left out, all. HEAD goes where GET goes.", example=["GET", "POST"]
    )
    headers: HeaderMatches = key(
        (), 'Name to exact text, `"~ regex"`, `"*"` (present) or `"!"` (absent).', example={"X-Version": "2"}
    )
    query: QueryMatches = key((), "The same for parameters of the query.", example={"beta": "true"})
    cookies: CookieMatches = key((), "The same for cookies.", example={"session": "*"})
    user_agent: UserAgent | None = key(
        None, "`bot`, `mobile`, `desktop`, `tool` or `~ regex`.", example="mobile"
    )
    client_ip: Networks = key((), "Address ranges, one or a list.", example=["10.0.0.0/8"])


MATCH_KEYS = tuple(Match.__dataclass_fields__)


@dataclass(slots=True, kw_only=True, config=SLOTS, eq=False)
class Route(Match):
    """Which requests, what is done with them, who answers.

    The keys of `match:` may stand on the route itself. Once checked, a route always has a unique `name` (its path,
    when the file gives none), `strip_prefix` is text or None, `policies` holds `PolicyUse`, `pattern` is the path
    taken apart, and `index`, `line`, `col` tell where it stands.
    """

    name: Name | None = key(
        None, "Its name in logs, metrics and `fastgw routes`; by default its path.", example="orders"
    )
    openapi: str | dict[str, Any] | None = key(
        None,
        "An OpenAPI document, or the options of the policy `openapi`: a route of each of its paths, with that policy. "
        "`path: /api/*` tells what stands before its paths; left out, the path of its first server.",
        example="orders.openapi.yaml",
    )
    service: Name | None = key(None, "The service that answers.", example="users")
    split: tuple[SplitTarget, ...] = key(
        (),
        "In the place of `service`: several, by weight.",
        max_length=100,
        example=[{"service": "orders", "weight": 95}, {"service": "orders-v2", "weight": 5}],
    )
    split_by: SplitBy | None = key(
        None,
        "Keeps one client at one service of the split: `header:NAME` or `cookie:NAME`. "
        "Left out, or when the request has none, by chance.",
        example="cookie:session",
    )
    strip_prefix: Strip = key(
        None,
        "Taken off the path before it goes to the service: text, or `true` for the literal part of `path`.",
        example="/api",
    )
    add_prefix: Prefix | None = key(None, "Put before the path (after `strip_prefix`).", example="/v2")
    rewrite: RewriteText | None = key(
        None,
        "The path and query for the service, with captures of `path`; the client's query is appended.",
        example="/api/catalog/item?id={id}",
    )
    rewrite_host: HostHeader | None = key(
        None, "`Host` for the service; before the service's own `host`.", example="catalog.internal"
    )
    trailing_slash: Literal["strict", "redirect", "ignore"] = key(
        "strict",
        "Whether `/a/` is another path than `/a`: `strict` yes, `redirect` answers 308 to the one that is "
        "there, `ignore` takes both.",
    )
    timeouts: RouteTimeouts | None = key(None, "Its own timeouts.")
    limits: RouteLimits | None = key(None, "Its own limits.")
    websocket: WebSocket | None = key(
        None, "Whether clients may open WebSockets to the service here. `true` is the short form of `{}`."
    )
    websocket_broadcast: WebSocketBroadcast | None = key(
        None,
        "One stream of the service for all sockets here: clients listen, and what they send goes nowhere. The rules "
        "of `websocket` hold for them.",
    )
    retry: Retry | None = key(
        None, "What is sent again of its requests, in the place of what its service says; with a budget of its own."
    )
    hedge: Hedge | None = key(
        None, "What is asked of another endpoint too, in the place of what its service says.", example="p95"
    )
    concurrency: Concurrency | None = key(
        None, "How many of its requests may be under way at once, beside what its service says.", example=50
    )
    priority: Name | None = key(
        None, "The class of its requests, one of `priorities.classes`, where no rule says another.", example="batch"
    )
    circuit_breaker: RouteBreaker | None = key(
        None,
        "Refuses its requests for a time when they fail, beside the circuit breakers of its service.",
        example={"failure_threshold": 10},
    )
    policies: PolicyList = key((), "Its policies, after those for every route.", example=["request_id"])
    without: tuple[Name, ...] = key(
        (), "Policies for every route that this one does not have.", max_length=100, example=["jwt"]
    )
    pattern: PathPattern | None = Field(default=None, init=False, exclude=True)
    index: int = Field(default=0, init=False, exclude=True)
    line: int = Field(default=0, init=False, exclude=True)
    col: int = Field(default=0, init=False, exclude=True)


ROUTE_KEYS = tuple(name for name, field in Route.__dataclass_fields__.items() if field.init)
