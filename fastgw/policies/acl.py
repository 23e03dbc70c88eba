"""`acl`: which consumers, groups and plans may come in."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, model_validator

from fastgw._core.authorize import Acl as NativeAcl
from fastgw._core.exchange import Hook
from fastgw.config.fields import Name, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies._parts import listed
from fastgw.policies.base import Policy

Names = Annotated[tuple[Name, ...], BeforeValidator(listed)]


class AclNames(Room):
    """Whom a list is about: anyone of these."""

    consumers: Names = key((), "Consumers by name.", max_length=10_000, example=["mobile-app"])
    groups: Names = key((), "Everybody in one of these groups.", max_length=1000, example=["partners"])
    plans: Names = key((), "Everybody with one of these plans.", max_length=1000, example=["gold"])

    @property
    def names(self) -> tuple[Names, Names, Names]:
        return self.consumers, self.groups, self.plans


class AclOptions(Room):
    """Who may, and who may not. `deny` counts first; with nothing in `allow` everybody who is known may."""

    rule: Name = key("acl", "What a refusal calls it (`rule` of the body).", example="partners-only")
    allow: AclNames = key(AclNames(), "Who may; nobody else.")
    deny: AclNames = key(AclNames(), "Who may not.")

    @model_validator(mode="after")
    def _something(self) -> AclOptions:
        if not any((*self.allow.names, *self.deny.names)):
            raise wrong("missing_key", "the list names nobody", "`allow:` or `deny:` with consumers, groups or plans")
        return self


class Acl(Policy):
    """Lets consumers pass by name, group and plan.

    403 `acl_refused`, with the `rule`; 401 when nobody was recognised. Order: after authentication. Failure: closed.
    """

    name = "acl"
    Options = AclOptions
    options: AclOptions

    @classmethod
    def needs_identity(cls, options: AclOptions) -> bool:
        return True

    def hook(self) -> Hook:
        return NativeAcl(self.options.allow.names, self.options.deny.names, self.options.rule)
