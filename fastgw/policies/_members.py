"""Policies within a policy: what `any_of` and `all_of` are made of, and options that several authenticators share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, GetJsonSchemaHandler, ValidationInfo, model_validator
from pydantic_core import CoreSchema

from fastgw._core.exchange import Consumer, Hook
from fastgw._core.policy import PythonHook
from fastgw.config.errors import did_you_mean
from fastgw.config.fields import wrong
from fastgw.config.registry import Reference
from fastgw.config.schema.base import Room, key
from fastgw.policies._parts import listed
from fastgw.policies.base import BuildContext, Policy, PolicyError

ANONYMOUS = "anonymous"
"""The consumer as whom those pass who show nothing, where that is allowed and the file has it."""


def _paths(paths: tuple[str, ...]) -> tuple[str, ...]:
    for path in paths:
        if not path.startswith("/") or "*" in path.removesuffix("/*"):
            raise wrong("bad_value", f"{path!r} is not a path to exclude", "/exact or /prefix/*")
    return paths


Paths = Annotated[tuple[str, ...], BeforeValidator(listed), AfterValidator(_paths)]
"""Paths, exact or `/prefix/*`."""


def policy_class(name: str) -> type[Policy]:
    from fastgw.policies import BUILTIN, resolve

    try:
        return resolve(name)
    except PolicyError as error:
        hint = did_you_mean(name, BUILTIN)
        raise wrong("unknown_policy", str(error), hint or "a policy that finds out who calls") from None


class Member(Room):
    """One policy of a composition: a bare name, or `{name: options}`."""

    name: str = key(doc="The policy.")
    options: Any = key(None, "Its options.")

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Member):
            return value
        if isinstance(value, str):
            value = {value: None}
        if not isinstance(value, dict) or len(value) != 1 or not isinstance(next(iter(value)), str):
            raise wrong("wrong_type", "is not a policy", "NAME, or one NAME: {options}")
        (name, options), *_ = value.items()
        kind = policy_class(str(name))
        if not kind.identifies:
            raise wrong("bad_value", f"{name} does not find out who calls", "jwt, key_auth, basic_auth and their like")
        given = kind.Options.model_validate({} if options is None else options, context=info.context)
        return {"name": str(name), "options": given}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, {"type": "object", "minProperties": 1, "maxProperties": 1}]}

    def prepared(self) -> Member:
        return self.model_copy(update={"options": policy_class(self.name).prepare(self.options)})


class Composed(Room):
    """What both compositions have. A list is the short form of `{policies: list}`."""

    policies: tuple[Member, ...] = key(doc="Policies that find out who calls, in the order they are asked.",
                                       min_length=1, max_length=20, example=["key_auth"])  # fmt: skip
    excluded_paths: Paths = key(
        (), "Paths where none of them is asked: exact, or `/prefix/*`.", max_length=1000, example=["/health"]
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        return {"anyOf": [found, handler.resolve_ref_schema(found)["properties"]["policies"]]}

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"policies": value} if isinstance(value, (list, tuple)) else value


def prepared(options: Composed) -> Composed:
    """As the workers get them; see Policy.prepare."""
    return options.model_copy(update={"policies": tuple(member.prepared() for member in options.policies)})


def references(options: Composed) -> Iterator[Reference]:
    for number, member in enumerate(options.policies):
        for kind, name, path in policy_class(member.name).references(member.options):
            yield Reference(kind, name, ("policies", number, member.name, *path))


def sources(options: Composed) -> Iterator[Any]:
    """The issuers whose keys the members want."""
    for member in options.policies:
        yield from policy_class(member.name).sources(member.options)


def hooks(members: Sequence[Member], context: BuildContext) -> list[Hook]:
    """Raises what the building of a member raises: then the composition refuses, it does not go without one."""
    found: list[Hook] = []
    for number, member in enumerate(members, 1):
        place = f"{context.policy_key}/{number}/{member.name}"
        policy = policy_class(member.name)(member.options, replace(context, policy_key=place))
        if policy.inspects:
            raise PolicyError(f"{member.name} looks at WebSocket messages: it stands on a route by itself")
        if context.stand_in is not None:
            policy = context.stand_in(policy)
        found.append(policy.hook() or PythonHook(policy, Policy))
    return found


def consumer_of(given: Any, plans: Any, *, credential: str | None = None, scopes: Any = None) -> Consumer:
    """The native consumer of one of the file. Scopes are those of the credential, else of the consumer, with the
    plan's; None when nobody spoke of scopes."""
    plan = plans.get(given.plan) if given.plan is not None else None
    if scopes is None:
        scopes = given.scopes
        if plan is not None and plan.scopes:
            scopes = (*(scopes or ()), *plan.scopes)
    return Consumer(given.name, given.groups, given.metadata, credential or given.name, given.plan, scopes)


def named(context: BuildContext, name: str) -> Consumer | None:
    """The consumer of that name, when the file has one."""
    return next((consumer_of(one, context.plans) for one in context.consumers if one.name == name), None)



