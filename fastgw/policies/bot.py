"""`bot`: programs by what they call themselves, and by headers that no browser leaves out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, model_validator

from fastgw._core.exchange import Problem
from fastgw.config.fields import HeaderName, Regex, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies._agents import CLASSES, EMPTY, OTHER
from fastgw.policies._parts import EditableName, listed
from fastgw.policies._patterns import PatternSet
from fastgw.policies._report import Report
from fastgw.policies.base import BuildContext, Policy

if TYPE_CHECKING:
    from fastgw._core.exchange import Exchange

Class = Literal["scanners", "ai", "crawlers", "search", "scripts", "headless", "empty"]
Classes = Annotated[tuple[Class, ...], BeforeValidator(listed)]
REMEMBERED = 4096
"""Texts of User-Agent whose class a worker keeps."""
MAX_AGENT = 1024
"""Characters of one that are looked at."""


class BotOptions(Room):
    """Who is not served."""

    deny: Classes = key(
        ("scanners",),
        "Classes that are refused: scanners, ai, crawlers, search, scripts, headless; empty is no User-Agent at all.",
        example=["scanners", "ai", "empty"],
    )
    deny_agents: tuple[Regex, ...] = key(
        (), "Regular expressions (RE2, any case of letters) of User-Agents that are refused.", max_length=200
    )
    allow_agents: tuple[Regex, ...] = key(
        (), "The same of those that are served, whatever class they are of.", max_length=200, example=["^monitoring/"]
    )
    require_headers: tuple[HeaderName, ...] = key(
        (), "Headers without which nobody is served.", max_length=20, example=["Accept", "Accept-Language"]
    )
    header: EditableName | None = key(
        None, "A header that tells the service the class; `other` is everybody else.", example="X-Bot-Class"
    )
    mode: Literal["enforce", "log"] = key("enforce", "`log`: say who would be refused, and let them in.")

    @model_validator(mode="after")
    def _something(self) -> BotOptions:
        if not (self.deny or self.deny_agents or self.require_headers or self.header):
            raise wrong("missing_key", "nobody is refused", "`deny:`, `deny_agents:` or `require_headers:`")
        return self


class Bot(Policy):
    """Refuses programs with 403 `bot_refused` by their User-Agent, and requests that lack headers.

    A User-Agent proves nothing: this keeps out those that do not hide. Order: early. Failure: closed.
    """

    name = "bot"
    Options = BotOptions
    options: BotOptions

    def __init__(self, options: BotOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.rules = Rules(options)
        self.known: dict[str, tuple[str, bool]] = {}
        self.report = Report("bot", "would be refused") if options.mode == "log" else None

    def request(self, exchange: Exchange) -> Problem | None:
        head = exchange.request
        agent = (head.get("user-agent") or "")[:MAX_AGENT]
        found = self.known.get(agent)
        if found is None:
            if len(self.known) >= REMEMBERED:
                self.known.clear()
            found = self.known[agent] = self.rules.judge(agent)
        kind, refused = found
        why = kind
        if not refused:
            for name in self.options.require_headers:
                if name not in head:
                    refused, why = True, f"without {name}"
                    break
        if refused:
            if self.report is None:
                return Problem(403, "bot_refused")
            self.report(exchange, why)
        if self.options.header is not None:
            head.set(self.options.header, kind)
        return None


class Rules:
    """The classes and expressions of a policy, searched in one pass."""

    def __init__(self, options: BotOptions) -> None:
        self.denied = frozenset(options.deny)
        classes = ["|".join(map(re.escape, words)) for words in CLASSES.values()]
        self.patterns = PatternSet([*classes, *options.allow_agents, *options.deny_agents])
        self.meanings = [*CLASSES, *("allow" for _ in options.allow_agents), *("deny" for _ in options.deny_agents)]

    def judge(self, agent: str) -> tuple[str, bool]:
        """The class of a User-Agent, and whether it is refused."""
        found = {self.meanings[number] for number in self.patterns.match(agent)} if agent else set()
        kinds = [EMPTY] if not agent.strip() else [kind for kind in CLASSES if kind in found]
        refused = "deny" in found or not self.denied.isdisjoint(kinds)
        return (kinds[0] if kinds else OTHER), refused and "allow" not in found
