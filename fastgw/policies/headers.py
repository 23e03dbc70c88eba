"""`headers`: sets, adds and removes headers of the request and of the response."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from fastgw._core.edits import HeaderEdits
from fastgw._core.exchange import Hook
from fastgw.config.schema.base import Room, key
from fastgw.config.templating import Template
from fastgw.policies._parts import EditableName, checked_value, listed, parts_of
from fastgw.policies.base import Policy

Value = Annotated[Template, checked_value]
Values = Annotated[tuple[Value, ...], BeforeValidator(listed)]


class Edits(Room):
    """What is done to one head, in this order: remove, set, add."""

    remove: tuple[EditableName, ...] = key(
        (), "Every header of these names goes.", max_length=100, example=["X-Debug"]
    )
    set: dict[EditableName, Value] = key(
        {},
        "The header has this value and no other. A value may hold `${…}` of the request.",
        max_length=100,
        example={"X-Client": "${client.ip}"},
    )
    add: dict[EditableName, Values] = key(
        {}, "One more header of that name, or several.", max_length=100, example={"Link": ["</a>", "</b>"]}
    )


class HeadersOptions(Room):
    """Edits of both heads."""

    request: Edits = key(Edits(), "What the upstream gets to see.")
    response: Edits = key(Edits(), "What the client gets to see; also on answers of the gateway itself.")


class Headers(Policy):
    """Edits headers. Values without `${…}` are made ready once; the others are filled in for each request.

    Order: after authentication when a value names the consumer or a claim. Failure: cannot fail; a `${…}`
    that has no value in a request is empty, and bytes no header can hold stay percent-encoded.
    """

    name = "headers"
    Options = HeadersOptions
    options: HeadersOptions

    @classmethod
    def needs_identity(cls, options: HeadersOptions) -> bool:
        templates: list[Template] = []
        for edits in (options.request, options.response):
            templates += edits.set.values()
            templates += (value for values in edits.add.values() for value in values)
        return any(
            variable.kind.partition(".")[0] in ("consumer", "claims")
            for template in templates
            for variable in template.variables
        )

    def hook(self) -> Hook:
        return HeaderEdits(_operations(self.options.request), _operations(self.options.response))


def _operations(edits: Edits) -> list[tuple[str, bytes, object]]:
    """("remove" | "set" | "add", name, parts) in the order they are done."""
    operations: list[tuple[str, bytes, object]] = [("remove", name.encode(), None) for name in edits.remove]
    operations += [("set", name.encode(), parts_of(value)) for name, value in edits.set.items()]
    operations += [
        ("add", name.encode(), parts_of(value)) for name, values in edits.add.items() for value in values
    ]
    return operations
