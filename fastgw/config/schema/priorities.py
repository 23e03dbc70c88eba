"""`priorities`: how important a request is, where something is short."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from fastgw.config.fields import HeaderName, Name, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.routes import Networks
from fastgw.config.templating import Template

RESERVED = ("retry", "mirror")
"""Classes of their own, behind all others: attempts beyond the first, and copies of requests."""


class PriorityRule(Room):
    """Who is of a class. All that a rule says has to hold."""

    priority: Template = key(
        doc="The class; with `${…}` the request says it, and the rule holds only when that is the name of a class.",
        example="critical",
    )
    routes: tuple[Name, ...] | None = key(None, "Names of routes.", max_length=1000, example=["orders"])
    plans: tuple[Name, ...] | None = key(None, "Plans of the consumer.", max_length=100, example=["gold"])
    consumers: tuple[Name, ...] | None = key(None, "Names of consumers.", max_length=1000, example=["checkout"])
    groups: tuple[Name, ...] | None = key(None, "Groups of the consumer.", max_length=100, example=["partners"])
    callers: Networks = key((), "Address ranges of clients, one or a list.", example=["10.0.0.0/8"])
    headers: dict[HeaderName, str] = key(
        {}, "Headers and their values; `*` is any.", max_length=20, example={"X-Priority": "batch"}
    )

    @model_validator(mode="after")
    def _trusted(self) -> Any:
        told = [one for one in self.priority.variables if one.kind.startswith("request.")]
        if told and not (self.plans or self.consumers or self.groups or self.callers):
            raise wrong(
                "bad_value",
                f"with {told[0]} alone every client chooses its own class",
                "who is trusted to: callers, consumers, groups or plans",
            )
        return self


class Priorities(Room):
    """Classes of requests. Where a limit of requests under way is reached the more important ones go on first, and the
    others are shed first; see docs/overload.md."""

    classes: tuple[Name, ...] = key(
        doc="Their names, the most important one first.",
        min_length=1,
        max_length=8,
        example=["critical", "normal", "batch"],
    )
    default: Name = key(doc="The class of requests that nothing is said of.", example="normal")
    rules: tuple[PriorityRule, ...] = key(
        (), "The first that fits says the class; before `priority` of the route.", max_length=100
    )

    @model_validator(mode="after")
    def _names(self) -> Any:
        for number, name in enumerate(self.classes):
            if name in RESERVED:
                raise wrong("bad_value", f"the class {name!r} is there already, behind all others", "another name")
            if name in self.classes[:number]:
                raise wrong("duplicate_name", f"the class {name!r} is there twice", "each once")
        if self.default not in self.classes:
            raise wrong("bad_choice", f"there is no class {self.default!r}", "one of " + ", ".join(self.classes))
        return self
