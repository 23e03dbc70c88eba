"""The format, told from its schema: docs/configuration.md and the JSON Schema for editors.

python -m fastgw.config.describe        writes docs/configuration.md and docs/fastgw.schema.json anew
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from fastgw.config.drawings import draw
from fastgw.config.fields import format_duration, format_size
from fastgw.config.findings import bounds_of, fields_of, in_unit, unit_of
from fastgw.config.registry import Resolver
from fastgw.config.schema.base import Later, is_later
from fastgw.config.schema.cache import Cache
from fastgw.config.schema.consumers import ApiKeys, Consumer, Plan
from fastgw.config.schema.observe import Observability
from fastgw.config.schema.priorities import Priorities
from fastgw.config.schema.routes import Match, Route
from fastgw.config.schema.secrets import Secrets
from fastgw.config.schema.server import Admin, Server, parse_workers
from fastgw.config.schema.services import Service
from fastgw.config.schema.stores import Stores
from fastgw.config.schema.tests import ConfigTest

ROOMS: tuple[tuple[str, Any, str], ...] = (
    ("server", Server, "server"),
    ("admin", Admin, "admin"),
    ("secrets", Secrets, "secrets"),
    ("stores", Stores, "stores"),
    ("cache", Cache, "cache"),
    ("services", Service, "services.NAME"),
    ("consumers", Consumer, "consumers[]"),
    ("plans", Plan, "plans.NAME"),
    ("api_keys", ApiKeys, "api_keys"),
    ("priorities", Priorities, "priorities"),
    ("observability", Observability, "observability"),
    ("routes", Route, "routes[]"),
    ("tests", ConfigTest, "tests[]"),
)
SHORT_FORMS = frozenset(
    {"Tcp", "Listener", "PublicEndpoint", "ErrorPage", "Endpoint", "RedirectHttp", "Sticky", "Balance", "HealthCheck",
     "ConsumerKey", "AbacRule", "Hedge", "Concurrency", "Fair"}
)
"""Rooms for which a bare value is enough."""
ONE_OR_MANY = frozenset({
    "by", "issuer", "audience", "allow", "deny", "allow_files", "deny_files", "allow_countries", "deny_countries",
    "allow_asns", "deny_asns",
})  # fmt: skip
"""Keys of policies that take one text or a list of them."""
HEAD = """# Configuration

This page is made from the schema (`make docs`); a test keeps it fresh. `config.example.yaml` shows every key once.

Durations are written `250ms`, `10s`, `1m`, `1h30m`; sizes `512`, `32KiB`, `10MiB`. `${VAR}` and `${VAR:-default}` are
the environment, put in after the file was parsed; a secret may also be
`file:path`, `credential:name`, `vault:path#field` or `kubernetes:name#key`. `${request.id}` and its like are
templates, filled in for each request where a policy allows them. Unknown keys are errors.

`policies:` lists what runs for every route, in the order of the file, before a route's own; see
[policies](policies.md). The keys of `match:` may stand on the route itself.
"""


def unwrap(annotation: Any) -> Iterator[Any]:
    """The classes an annotation is made of."""
    origin = typing.get_origin(annotation)
    if origin is None:
        yield annotation
    elif origin is typing.Annotated:
        yield from unwrap(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType, tuple, list, dict):
        for inner in typing.get_args(annotation):
            if inner is not Ellipsis:
                yield from unwrap(inner)


def room_in(info: FieldInfo) -> Any | None:
    """The nested room of a key, when its value is one."""
    for found in unwrap(info.annotation):
        if isinstance(found, type) and issubclass(found, BaseModel) and not issubclass(found, Later):
            return found
    return None


def default_of(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.default
    if any(getattr(item, "func", None) is parse_workers for item in info.metadata):
        return "`auto`"
    if value is None or value in ((), {}, ""):
        return "-"
    if isinstance(value, BaseModel) or (isinstance(value, tuple) and isinstance(value[0], BaseModel)):
        return "see below"
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return f"`[{', '.join(map(str, value))}]`"
    name = " ".join(str(item) for item in (info.annotation, *info.metadata))
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float) and "Ratio" not in name and "parse_duration" in name:
        return f"`{format_duration(value)}`"
    if isinstance(value, int) and "parse_size" in name:
        return f"`{format_size(value)}`"
    return f"`{value}`"


def type_of(info: FieldInfo) -> str:
    """What is written as the value: the unit's word, the choices, or the JSON type."""
    unit = unit_of(info)
    if unit:
        return f"list of {unit}" if typing.get_origin(info.annotation) is tuple else unit
    for literal in literals_in(info.annotation):
        words = ", ".join(f"`{word}`" for word in typing.get_args(literal))
        return words + (" or mapping" if room_in(info) is not None else "")
    whole: Any = typing.Annotated[info.annotation, info]
    found = TypeAdapter(whole).json_schema()
    names = list(dict.fromkeys(json_types(found, found.get("$defs", {}))))
    return " or ".join(JSON_WORDS.get(name, name) for name in names if name != "null") or "any"


JSON_WORDS = {
    "object": "mapping",
    "array": "list",
    "string": "text",
    "integer": "whole number",
    "boolean": "true/false",
}


def json_types(found: Any, definitions: dict[str, Any]) -> Iterator[str]:
    if "$ref" in found:
        found = definitions.get(found["$ref"].rpartition("/")[2], {})
    kind = found.get("type", [])
    yield from [kind] if isinstance(kind, str) else kind
    if "const" in found or "enum" in found:
        yield from (f"`{word}`" for word in found.get("enum", [found.get("const")]) if not kind)
    for inner in found.get("anyOf", ()):
        yield from json_types(inner, definitions)


def literals_in(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        yield annotation
    elif origin in (typing.Union, types.UnionType, typing.Annotated):
        for inner in typing.get_args(annotation):
            yield from literals_in(inner)


def range_words(info: FieldInfo) -> str:
    """`100ms to 1h`, or nothing."""
    bounds = bounds_of(info)
    unit = unit_of(info)
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    more = "more than " if "gt" in bounds else ""
    if low is not None and high is not None:
        return f"{more}{in_unit(low, unit)} to {in_unit(high, unit)}"
    if low is not None:
        return f"{more or 'at least '}{in_unit(low, unit)}"
    most = bounds.get("max_length")
    return f"at most {most}" if most is not None and high is None else ""


def rows(model: Any, prefix: str, skip: frozenset[str] = frozenset()) -> Iterator[str]:
    """A line for each key, nested rooms behind their key."""
    for name, info in fields_of(model).items():
        if info.init is False or name in skip or is_later(info) or not info.description:
            continue
        key = f"{prefix}{info.alias or name}"
        text = info.description.replace("|", "\\|").replace("\n", " ")
        yield f"| `{key}` | {type_of(info)} | {default_of(info)} | {range_words(info)} | {text} |"
        inner = room_in(info)
        if inner is not None:
            many = typing.get_origin(info.annotation) is tuple
            yield from rows(inner, f"{key}{'[]' if many else ''}.")


def page() -> str:
    """docs/configuration.md"""
    lines = [HEAD]
    for name, model, title in ROOMS:
        lines += [f"## {name}", "", "| key | type | default | range | what |", "|---|---|---|---|---|"]
        lines += list(rows(model, f"{title}."))
        lines.append("")
    return "\n".join(lines)


def schema(resolver: Resolver) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a whole file, with the options of the policies the resolver knows."""
    definitions: dict[str, Any] = {}

    def part(model: Any) -> dict[str, Any]:
        found = TypeAdapter(model).json_schema(ref_template="#/$defs/{model}", by_alias=True)
        definitions.update(found.pop("$defs", {}))
        return found

    names = sorted(resolver.names())
    options = {}
    for name in names:
        spec = resolver(name)
        if spec is not None:
            found = part(spec.options)
            for key in ONE_OR_MANY & found.get("properties", {}).keys():
                found["properties"][key] = {"anyOf": [{"type": "string"}, found["properties"][key]]}
            options[name] = {"anyOf": [found, {"type": "null"}]}
    dotted = {"type": "string", "pattern": "^[A-Za-z_][\\w.]*:[A-Za-z_][\\w.]*$"}
    definitions["PolicyList"] = {
        "type": "array",
        "items": {
            "anyOf": [
                {"enum": names},
                dotted,
                {"type": "object", "minProperties": 1, "maxProperties": 1, "properties": options},
            ]
        },
    }
    rooms = {"server": part(Server), "admin": part(Admin), "stores": part(Stores), "observability": part(Observability)}
    rooms |= {"api_keys": part(ApiKeys), "secrets": part(Secrets), "cache": part(Cache)}
    rooms["priorities"] = part(Priorities)
    consumer = part(Consumer)
    plan = part(Plan)
    test = part(ConfigTest)
    service = part(Service)
    route = part(Route)
    match = part(Match)
    route["properties"]["match"] = match
    route["properties"]["policies"] = {"$ref": "#/$defs/PolicyList"}
    definitions["Service"] = {"anyOf": [{"type": "string"}, service]}
    for name in SHORT_FORMS & definitions.keys():
        definitions[name] = {"anyOf": [{"type": ["string", "integer"]}, definitions[name]]}
    for definition in definitions.values():
        for name in ONE_OR_MANY & definition.get("properties", {}).keys():
            many = definition["properties"][name]
            definition["properties"][name] = {"anyOf": [{"type": "string"}, many]}
    for found in (*rooms.values(), consumer, plan, test, service, route, *definitions.values()):
        let_references_in(found)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fastgw",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **rooms,
            "services": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Service"}},
            "consumers": {"type": "array", "items": consumer},
            "plans": {"type": "object", "additionalProperties": {"anyOf": [plan, {"type": "null"}]}},
            "policies": {"$ref": "#/$defs/PolicyList"},
            "routes": {"type": "array", "items": route},
            "tests": {"type": "array", "items": test},
        },
        "$defs": definitions,
    }


REFERENCE = {"type": "string", "pattern": r"\$\{[A-Z_]"}
SCALARS = frozenset({"integer", "number", "boolean"})


def let_references_in(found: Any) -> None:
    """`${VAR}` may stand where a number or a choice is wanted."""
    if isinstance(found, list):
        for item in found:
            let_references_in(item)
        return
    if not isinstance(found, dict):
        return
    for item in found.values():
        let_references_in(item)
    for name, item in found.items():
        if name not in ("properties", "$defs") or not isinstance(item, dict):
            continue
        for key, value in item.items():
            if isinstance(value, dict) and (str(value.get("type")) in SCALARS or "enum" in value):
                about = {word: value.pop(word) for word in ("description", "default", "examples") if word in value}
                item[key] = {"anyOf": [value, REFERENCE], **about}


def main(folder: str = "docs") -> None:
    Path(folder, "configuration.md").write_text(page())
    draw(Path(folder))


def schema_text(resolver: Resolver) -> str:
    return json.dumps(schema(resolver), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    main()
