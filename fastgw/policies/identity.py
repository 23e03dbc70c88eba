"""`identity`: headers that tell the upstream who calls."""

from __future__ import annotations

from typing import Annotated

from fastgw._core.exchange import Hook
from fastgw._core.identity import Identity as NativeIdentity
from fastgw._core.template import Compiled
from fastgw.config.schema.base import Room, key
from fastgw.config.templating import Template
from fastgw.policies._parts import EditableName, checked_value, parts_of
from fastgw.policies.base import Policy

Value = Annotated[Template, checked_value]


class IdentityOptions(Room):
    """What is told."""

    headers: dict[EditableName, Value] = key(
        {"X-User-Id": "${consumer.name}", "X-User-Scopes": "${consumer.scopes}"},
        "Headers for the upstream. What the client sends under these names is removed, whoever calls; a value that "
        "comes to nothing gives no header.",
        max_length=100,
        validate_default=True,
        example={"X-User-Id": "${consumer.name}", "X-Tenant": "${claims.tenant}", "X-Plan": "${consumer.plan}"},
    )
    remove: tuple[EditableName, ...] = key(
        (), "Further names that clients may not send, with or without a credential.", max_length=100,
        example=["X-Internal-User"],
    )  # fmt: skip


class Identity(Policy):
    """Tells the upstream who calls, as the policies before it found out.

    The names it sets are its own: what the client sends under them never arrives, also when nobody was recognised.
    Order: after authentication; among the policies for every route it also guards routes that ask nobody.
    Failure: cannot fail.
    """

    name = "identity"
    Options = IdentityOptions
    options: IdentityOptions

    @classmethod
    def needs_identity(cls, options: IdentityOptions) -> bool:
        return any(
            variable.kind.partition(".")[0] in ("consumer", "claims")
            for template in options.headers.values()
            for variable in template.variables
        )

    def hook(self) -> Hook:
        options = self.options
        headers = [(name.encode(), Compiled(parts_of(value))) for name, value in options.headers.items()]
        return NativeIdentity(headers, [name.encode() for name in options.remove])
