"""`authorize`: what who calls may do, by scopes and roles."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, model_validator

from fastgw._core.authorize import Authorize as NativeAuthorize
from fastgw._core.exchange import Hook
from fastgw.config.fields import Name, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.consumers import Scope
from fastgw.policies._parts import listed
from fastgw.policies.base import Policy

Scopes = Annotated[tuple[Scope, ...], BeforeValidator(listed)]


class AuthorizeOptions(Room):
    """What is needed. All that is given must hold."""

    rule: Name = key("authorize", "What a refusal calls it (`rule` of the body).", example="orders-for-sales")
    scopes: Scopes = key((), "Scopes that are all needed.", max_length=100, example=["orders:read"])
    any_scope: Scopes = key((), "Scopes of which one is needed.", max_length=100, example=["orders:read", "orders:*"])
    roles: Scopes = key((), "Roles of which one is needed.", max_length=100, example=["sales"])
    permissions: Scopes = key((), "Permissions that are all needed; `role_permissions` says who has them.",
                              max_length=100, example=["orders.delete"])  # fmt: skip
    role_permissions: dict[Scope, Scopes] = key(
        {}, "Role to the permissions it has; `orders.*` stands for all that begin with `orders.`, `*` for all.",
        max_length=1000, example={"admin": ["*"], "sales": ["orders.read", "orders.write"]},
    )  # fmt: skip
    role_claim: str = key("roles", "The claim with the roles, text or list; dots go into objects. The groups of a "
                          "consumer are roles too.", max_length=200, example="realm_access.roles")  # fmt: skip
    scope_claims: tuple[str, ...] = key(
        ("scope", "scopes", "scp"), "Where a token that names nobody has its scopes; the first that is there.",
        max_length=10,
    )  # fmt: skip

    @model_validator(mode="after")
    def _something(self) -> AuthorizeOptions:
        if not (self.scopes or self.any_scope or self.roles or self.permissions):
            raise wrong("missing_key", "nothing is needed", "`scopes`, `any_scope`, `roles` or `permissions`")
        for name in self.permissions:
            if not roles_with(self, name):
                raise wrong("bad_value", f"no role has the permission {name}", "it in `role_permissions`")
        return self


def covers(given: str, wanted: str) -> bool:
    return given in (wanted, "*") or (given.endswith(".*") and wanted.startswith(given[:-1]))


def roles_with(options: AuthorizeOptions, permission: str) -> list[str]:
    table = options.role_permissions.items()
    return [role for role, given in table if any(covers(one, permission) for one in given)]


class Authorize(Policy):
    """Lets those pass who have the scopes, roles or permissions.

    403 `insufficient_scope` or `missing_role`, with the `rule`; 401 when nobody was recognised. Order: after
    authentication. Failure: closed.
    """

    name = "authorize"
    Options = AuthorizeOptions
    options: AuthorizeOptions

    @classmethod
    def needs_identity(cls, options: AuthorizeOptions) -> bool:
        return True

    def hook(self) -> Hook:
        options = self.options
        return NativeAuthorize(
            options.scopes,
            options.any_scope,
            options.roles,
            [(name, roles_with(options, name)) for name in options.permissions],
            options.role_claim,
            options.scope_claims,
            options.rule,
        )
