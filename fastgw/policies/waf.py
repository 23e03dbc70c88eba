"""`waf`: requests that look like attacks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from weakref import WeakValueDictionary

from pydantic import BeforeValidator, model_validator

from fastgw._core.exchange import Problem, WholeBody
from fastgw.config.fields import Size, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.tls import FilePath
from fastgw.policies._files import stamp
from fastgw.policies._parts import listed
from fastgw.policies._report import Report
from fastgw.policies._waf import EVERYWHERE, Engine, Exclusion, Found, RuleText, names_of, read_rules, score, shipped
from fastgw.policies._waf_text import (
    HEADERS_SKIPPED,
    MAX_PARTS,
    Part,
    Unreadable,
    arguments,
    body_parts,
    decoded,
    inflated,
    is_text,
)
from fastgw.policies.base import BuildContext, Policy, PolicyError

if TYPE_CHECKING:
    from fastgw._core.exchange import Exchange

LARGE = 8192
"""Bytes of a body from which it is looked at in a thread, so that other exchanges go on meanwhile."""
REMEMBERED = 4096
MAX_RANGES = 20

Words = Annotated[tuple[str, ...], BeforeValidator(listed)]


class WafExclude(Room):
    """Rules that do not hold, and where."""

    rules: Words = key(
        (), "Ids of rules, or of groups such as `sqli`. Left out, all.", max_length=200, example=["sqli"]
    )
    places: Words = key(
        (),
        "Where they do not hold: path, query, body, cookie, header, or one of them by name, as `body.comment` or "
        "`body.post.text`. Left out, nowhere.",
        max_length=200,
        example=["body.html"],
    )

    @model_validator(mode="after")
    def _something(self) -> WafExclude:
        for place in self.places:
            if place.partition(".")[0] not in (*EVERYWHERE, "agent", "facts"):
                raise wrong("bad_choice", f"{place!r} is not a place", "path, query.NAME, body.NAME, cookie.NAME, …")
        if not self.rules and not self.places:
            raise wrong("missing_key", "an exclusion of everything", "`rules:` or `places:`")
        return self


class WafOptions(Room):
    """How strict, and what not."""

    mode: Literal["enforce", "log"] = key("enforce", "`log`: say what would be refused, and let it pass.")
    threshold: int = key(5, "The score from which a request is refused; a rule adds 2 to 5.", ge=1, le=1000)
    level: Literal[1, 2] = key(1, "2 has stricter rules too, with more false positives.")
    exclude: tuple[WafExclude, ...] = key((), "Rules that do not hold here.", max_length=200)
    rules: FilePath | None = key(
        None, "A file with further rules, in the form of the shipped ones.", example="rules.yaml"
    )
    bodies: bool = key(True, "Bodies are looked at too: forms, JSON, XML, text; not images, archives, gRPC.")
    messages: bool = key(
        False,
        "Messages of WebSockets that clients send are looked at too; one that is refused closes the socket (1008). "
        "Such sockets are not compressed.",
    )
    message_size: Size = key(
        16 * 1024, "How large such a message may be; more closes the socket (1009).", ge=125, le=64 * 1024
    )
    body_size: Size = key(
        128 * 1024,
        "How large a body may be that is looked at; 413 beyond.",
        ge=1,
        le=16 * 1024 * 1024,
        example="128KiB",
    )


class Waf(Policy):
    """Refuses with 403 `attack_refused` what looks like SQL injection, cross-site scripting, path traversal, commands,
    code, a scanner, or is no proper request.

    Each rule that is about the request adds to a score; from `threshold` on it is refused. Rules are regular
    expressions of RE2, whose time is linear in what they look at. What was found is in the log, not in the answer.
    Order: after what is cheaper, before what asks others. Failure: closed; a body that cannot be read counts as an
    attack.
    """

    name = "waf"
    Options = WafOptions
    options: WafOptions

    @classmethod
    def prepare(cls, options: WafOptions) -> WafOptions:
        engine_of(options)                             # a bad file keeps a new configuration out
        return options

    def __init__(self, options: WafOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        # one engine for all routes with the same rules, for as long as there is one of them
        engines: WeakValueDictionary[Any, Engine] = context.shared.get_or_create("waf", WeakValueDictionary)
        own = stamp(Path(options.rules)) if options.rules is not None else None
        key = (options.level, options.rules, own, options.exclude)
        engine = engines.get(key)
        if engine is None:
            engine = engines[key] = engine_of(options)
        self.engine = engine
        self.report = Report("waf", "refused" if options.mode == "enforce" else "would be refused")
        self.agents: dict[str, list[Found]] = {}
        if options.messages:
            self.inspects = ("client",)
            self.message_size = options.message_size

    def request(self, exchange: Exchange) -> Problem | WholeBody | Awaitable[Problem | None] | None:
        head = exchange.request
        content_type = head.get("content-type") or ""
        body = None
        if self.options.bodies and exchange.announces_body and is_text(content_type):
            body = exchange.request_body
            if body is None:
                return WholeBody(self.options.body_size)
        found = [*self.agent(head.get("user-agent") or ""), *self.engine.inspect(self.head_parts(exchange))]
        if not body:
            return self.verdict(exchange, found)
        encoding = head.get("content-encoding") or ""
        if len(body) <= LARGE and not encoding:
            return self.verdict(exchange, found + self.body(body, content_type, encoding))
        return self.aside(exchange, found, body, content_type, encoding)

    def websocket_message(self, exchange: Exchange, message: bytes, text: bool, side: str) -> Problem | None:
        kind = "application/json" if message.lstrip()[:1] in (b"{", b"[", b'"') else "text/plain"
        try:
            parts = list(body_parts(message, kind))
        except Unreadable:
            parts = list(body_parts(message, "text/plain"))    # it only looked like JSON
        return self.verdict(exchange, self.engine.inspect(parts))

    async def aside(
        self, exchange: Exchange, found: list[Found], body: bytes, content_type: str, encoding: str
    ) -> Problem | None:
        return self.verdict(exchange, found + await asyncio.to_thread(self.body, body, content_type, encoding))

    def agent(self, text: str) -> list[Found]:
        found = self.agents.get(text)
        if found is None:
            if len(self.agents) >= REMEMBERED:
                self.agents.clear()
            part = Part("agent", text[:2048]) if text.strip() else Part("facts", "no-user-agent")
            found = self.agents[text] = self.engine.inspect([part])
        return found

    def head_parts(self, exchange: Exchange) -> Iterator[Part]:
        path = exchange.path
        yield Part("path", decoded(path))
        query = exchange.query
        if query:
            if query.count("&") >= MAX_PARTS:
                yield Part("facts", "too-many-arguments")
            yield from arguments("query", query)
        types = 0
        for name, value in exchange.request.pairs():
            lower = name.lower()
            if lower == "cookie":
                yield from arguments("cookie", value, ";")
            elif lower == "content-type":
                types += 1
            elif lower == "range" and value.count(",") >= MAX_RANGES:
                yield Part("facts", "many-ranges")
            elif lower not in HEADERS_SKIPPED:
                yield Part(f"header.{lower}", value)
        if types > 1:
            yield Part("facts", "two-content-types")

    def body(self, body: bytes, content_type: str, encoding: str) -> list[Found]:
        try:
            if encoding:
                body = inflated(body, encoding, self.options.body_size)
            return self.engine.inspect(body_parts(body, content_type))
        except Unreadable as fact:
            return self.engine.inspect([Part("facts", str(fact))])

    def verdict(self, exchange: Exchange, found: list[Found]) -> Problem | None:
        found = list(dict.fromkeys(found))
        total = score(found)
        if total < self.options.threshold:
            return None
        self.report(exchange, f"score {total}: " + ", ".join(f"{one.rule} in {one.place[:60]!r}" for one in found[:8]))
        return Problem(403, "attack_refused") if self.options.mode == "enforce" else None


def engine_of(options: WafOptions) -> Engine:
    """PolicyError for rules that do not compile, and exclusions of rules that are not there."""
    rules: tuple[RuleText, ...] = shipped()
    if options.rules is not None:
        own = read_rules(Path(options.rules))
        taken = {rule.id for rule in rules}
        for rule in own:
            if rule.id in taken:
                raise PolicyError(f"{options.rules}: there is a shipped rule {rule.id}")
        rules += own
    known = names_of(rules)
    for one in options.exclude:
        for name in one.rules:
            if name not in known:
                raise PolicyError(f"`exclude:` there is no rule and no group {name!r}")
    exclusions = [Exclusion(frozenset(one.rules) or None, frozenset(one.places) or None) for one in options.exclude]
    return Engine(rules, options.level, exclusions)
