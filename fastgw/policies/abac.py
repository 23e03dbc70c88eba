"""`abac`: rules over request, route, claims, consumer, address and time, in the Common Expression Language."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pydantic import GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from fastgw._core.exchange import Exchange, Problem
from fastgw.config.fields import Name, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies.base import BuildContext, Policy, PolicyError

MAX_RULE = 4096
MAX_HEADERS = 100

REQUEST: dict[str, Callable[[Exchange], Any]] = {
    "method": lambda exchange: exchange.method,
    "path": lambda exchange: exchange.path,
    "query": lambda exchange: exchange.query,
    "host": lambda exchange: exchange.host,
    "scheme": lambda exchange: exchange.scheme,
    "headers": lambda exchange: {name.lower(): text for name, text in reversed(exchange.request.pairs()[:MAX_HEADERS])},
}
ROUTE: dict[str, Callable[[Exchange], Any]] = {
    "name": lambda exchange: exchange.route.name if exchange.route is not None else "",
    "params": lambda exchange: exchange.params,
}
CONSUMER: dict[str, Callable[[Exchange], Any]] = {
    "name": lambda exchange: exchange.consumer.name if exchange.consumer is not None else "",
    "groups": lambda exchange: list(exchange.consumer.groups) if exchange.consumer is not None else [],
    "plan": lambda exchange: (exchange.consumer.plan or "") if exchange.consumer is not None else "",
    "scopes": lambda exchange: sorted(exchange.consumer.scopes or ()) if exchange.consumer is not None else [],
    "metadata": lambda exchange: dict(exchange.consumer.metadata) if exchange.consumer is not None else {},
}
VALUES: dict[str, dict[str, Callable[[Exchange], Any]]] = {
    "request": REQUEST,
    "route": ROUTE,
    "consumer": CONSUMER,
    "client": {"ip": lambda exchange: exchange.client_ip},
    "claims": {},
    "now": {},
}
"""What a rule may name. Each is made only for rules that name it: to convert values is most of what a rule costs."""


def maker(name: str, text: str) -> Callable[[Exchange], Any]:
    """What gives a rule, `text`, its value of `name`, with no more members than the rule speaks of."""
    if name == "now":
        return lambda exchange: datetime.now(UTC)
    members = re.findall(rf"(?<![\w.]){name}\s*\.\s*([A-Za-z_]\w*)", text)
    # named in another way too, such as by an index: then all of it may be meant
    whole = len(members) != len(re.findall(rf"(?<![\w.]){name}(?!\w)", text))
    wanted = frozenset(members)
    if name == "claims":
        if whole:
            return lambda exchange: dict(exchange.claims or {})
        return lambda exchange: {key: value for key, value in (exchange.claims or {}).items() if key in wanted}
    makers = [(member, make) for member, make in VALUES[name].items() if whole or member in wanted]
    return lambda exchange: {member: make(exchange) for member, make in makers}


def compiled(text: str) -> Any:
    """PolicyError without the extra; ValueError, which says where, for what is no expression."""
    try:
        import cel
    except ImportError:
        raise PolicyError("rules need common-expression-language: pip install 'fastgw[abac]'") from None
    return cel.compile(text)


FUNCTIONS = frozenset(
    ["contains", "startsWith", "endsWith", "matches", "size", "has", "int", "uint", "double", "string", "bool", "bytes",
     "timestamp", "duration", "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear",
     "getHours", "getMinutes", "getSeconds", "getMilliseconds", "min", "max", "type", "dyn"]
)  # fmt: skip
"""Those of the language's definition; all else would fail at each request."""


class AbacRule(Room):
    """One rule: an expression that must be true. Text alone is the short form of `{allow: TEXT}`."""

    rule: Name | None = key(None, "What a refusal calls it; by default `rule-1`, `rule-2`, …", example="own-tenant")
    allow: str = key(
        doc="The expression: `request` (method, path, query, host, scheme, headers), `route` (name, params), `claims`, "
        "`consumer` (name, groups, plan, scopes, metadata), `client.ip`, `now`.",
        min_length=1,
        max_length=MAX_RULE,
        example='claims.tenant == route.params.tenant && request.method in ["GET"]',
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"allow": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _compiles(self) -> AbacRule:
        try:
            program = compiled(self.allow)
        except PolicyError as error:
            raise wrong("unavailable", str(error), "the extra") from None
        except BaseException as error:                # the library's own panics are no Exception
            words = str(error).partition("ERROR: ")[2].partition("\n")[0] or type(error).__name__
            raise wrong("bad_value", f"the rule is no expression: {words[:200]}", "CEL, https://cel.dev") from None
        unknown = [name for name in program.variables() if name not in VALUES]
        if unknown:
            raise wrong("bad_value", f"the rule names {unknown[0]!r}", "one of " + ", ".join(VALUES))
        strange = [name for name in program.functions() if name[:1].isalpha() and name not in FUNCTIONS]
        if strange:
            raise wrong("bad_value", f"there is no function {strange[0]!r}", "a function of CEL's definition")
        return self


class AbacOptions(Room):
    """The rules; all of them must hold. A list is the short form of `{rules: list}`."""

    rules: tuple[AbacRule, ...] = key(doc="The rules.", min_length=1, max_length=100)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        return {"anyOf": [found, handler.resolve_ref_schema(found)["properties"]["rules"]]}

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"rules": value} if isinstance(value, list) else value


class Abac(Policy):
    """Lets requests pass for which every rule is true.

    403 `rule_refused`, with the `rule`; a rule that cannot be evaluated (a claim is not there, two kinds are compared)
    is not true: `has(claims.tenant)` asks first. Rules are compiled with the plan. Needs the extra `fastgw[abac]`.
    Order: after authentication. Failure: closed.
    """

    name = "abac"
    Options = AbacOptions
    options: AbacOptions

    def __init__(self, options: AbacOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.rules = []
        for number, rule in enumerate(options.rules, 1):
            program = compiled(rule.allow)
            wanted = [(name, maker(name, rule.allow)) for name in program.variables()]
            self.rules.append((rule.rule or f"rule-{number}", program, wanted))

    @classmethod
    def needs_identity(cls, options: AbacOptions) -> bool:
        return any({"claims", "consumer"} & set(compiled(rule.allow).variables()) for rule in options.rules)

    def request(self, exchange: Exchange) -> Problem | None:
        for name, program, wanted in self.rules:
            try:
                verdict = program.execute({what: make(exchange) for what, make in wanted})
            except BaseException as error:            # the library's own panics are no Exception
                return Problem(403, "rule_refused", f"The rule {name} cannot be evaluated: {type(error).__name__}.",
                               members={"rule": name})  # fmt: skip
            if verdict is not True:
                return Problem(403, "rule_refused", f"The rule {name} is not met.", members={"rule": name})
        return None
