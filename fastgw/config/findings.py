"""What pydantic reports → our `Finding`s: codes, words, ranges in the unit of the key, suggestions."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from fastgw.config.errors import CODES, Finding, Path, did_you_mean
from fastgw.config.fields import format_duration, format_size, shown
from fastgw.config.schema.base import ROOM_TAG, WORD

KINDS = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    **dict.fromkeys(("dict", "mapping", "model", "dataclass"), "a mapping"),
    **dict.fromkeys(("list", "tuple", "set", "frozen_set"), "a list"),
    "none_required": "nothing",
}
BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def from_validation(error: ValidationError, raw: Any, path: Path, model: Any) -> list[Finding]:
    """The findings of one failed validation. `raw` is what was validated, `path` where it stands."""
    found: dict[Path, Finding] = {}
    items = error.errors(include_url=False)
    for item in items:
        item["loc"] = tuple(step for step in item["loc"] if step not in (WORD, ROOM_TAG))
    for item in items:
        # a list is too short for pydantic when one of its items is wrong
        loc = item["loc"]
        if item["type"] == "too_short" and any(len(o["loc"]) > len(loc) and o["loc"][: len(loc)] == loc for o in items):
            continue
        finding = convert(item, raw, path, model)
        found.setdefault(finding.path, finding)
    return list(found.values())


def convert(item: Any, raw: Any, path: Path, model: Any) -> Finding:
    kind: str = item["type"]
    loc: tuple[str | int, ...] = item["loc"]
    context: dict[str, Any] = item.get("ctx") or {}
    if kind in CODES:
        at = existing(loc, raw)
        return Finding(kind, path + at, str(context.get("message", "")), str(context.get("expected", "")))
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return unknown_key(path + loc, field_names(model_at(model, loc[:-1])))
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        at = existing(loc[:-1], raw)
        return Finding("missing_key", path + at, f"the key {loc[-1]!r} is missing", doc_of(model, loc))
    at = existing(loc, raw)
    where = path + at
    if kind in ("literal_error", "enum"):
        expected = str(context.get("expected", ""))
        words = [word for word in expected.replace("' or '", "', '").strip("'").split("', '") if word]
        hint = did_you_mean(str(item["input"]), words)
        return Finding(
            "bad_choice", where, f"{shown(item['input'])} is not one of the choices", expected, hint
        )
    if kind in BOUNDS:
        info = field_at(model, loc)
        given = (
            in_unit(item["input"], unit_of(info))
            if isinstance(item["input"], (int, float))
            else shown(item["input"])
        )
        return Finding("out_of_range", where, f"{given} is out of range", range_of(info, item))
    if kind in ("too_long", "too_short", "string_too_long", "string_too_short"):
        limit = context.get("max_length", context.get("min_length"))
        unit = "characters" if kind.startswith("string") else "items"
        side = "at most" if "max_length" in context else "at least"
        return Finding(
            "out_of_range",
            where,
            "is too long" if side == "at most" else "is too short",
            f"{side} {limit} {unit}",
        )
    if kind == "string_pattern_mismatch":
        return Finding(
            "bad_value",
            where,
            "does not have the form it needs",
            f"text that matches {context.get('pattern')}",
        )
    finding = wrong_type(kind, item, where, context)
    if finding.expected == KINDS["dict"] and item["input"] is True and of_defaults(model_at(model, loc)):
        return replace(finding, expected="a mapping; {} for all its defaults")
    return finding


def of_defaults(model: Any) -> bool:
    """Has each of its keys a default?"""
    return not any(info.is_required() for info in fields_of(model).values())


def wrong_type(kind: str, item: Any, where: Path, context: dict[str, Any]) -> Finding:
    if kind in ("value_error", "assertion_error"):
        return Finding("bad_value", where, str(context.get("error", item["msg"])))
    stem = kind
    for suffix in ("_type", "_parsing", "_from_float", "_parsing_size", "_attributes", "_exact"):
        stem = stem.removesuffix(suffix)
    if stem in KINDS:
        value = (
            "a list"
            if isinstance(item["input"], (list, tuple))
            else "text"
            if stem == "dict"
            else "of another type"
        )
        given = (
            shown(item["input"]) if stem in ("int", "float", "bool") else value_kind(item["input"]) or value
        )
        return Finding("wrong_type", where, f"is {given}", KINDS[stem])
    return Finding("bad_value", where, str(item["msg"]))


def value_kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    for types_, word in (
        ((int, float), "a number"),
        (str, "text"),
        (dict, "a mapping"),
        ((list, tuple), "a list"),
    ):
        if isinstance(value, types_):
            return word
    return "of another type"


def unknown_key(path: Path, known: Sequence[str]) -> Finding:
    name = str(path[-1])
    words = name if len(name) <= 60 else name[:59] + "…"
    hint = did_you_mean(name, known)
    expected = "one of " + ", ".join(known) if known and not hint else ""
    return Finding("unknown_key", path, f"the key {words!r} is not known here", expected, hint, at_key=True)


def existing(loc: tuple[str | int, ...], raw: Any) -> Path:
    """The part of a location that the raw data has; pydantic adds steps for unions, keys and shorthands."""
    at: list[str | int] = []
    for step in loc:
        inside = isinstance(raw, dict) and step in raw
        if isinstance(raw, (list, tuple)) and isinstance(step, int):
            inside = 0 <= step < len(raw)
        if not inside:
            break
        raw = raw[step]
        at.append(step)
    return tuple(at)


# --------------------------------------------------------------------------------------- walking the schema


def models_in(annotation: Any) -> list[Any]:
    """The models an annotation can hold: `tuple[Endpoint, ...]` → [Endpoint]."""
    if isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or hasattr(annotation, "__pydantic_fields__")
    ):
        return [annotation]
    if typing.get_origin(annotation) in (
        types.UnionType,
        typing.Union,
        tuple,
        list,
        dict,
        typing.Annotated,
        set,
        frozenset,
    ):
        return [model for arg in typing.get_args(annotation) for model in models_in(arg)]
    return []


def fields_of(model: Any) -> dict[str, FieldInfo]:
    fields: dict[str, FieldInfo] = getattr(model, "__pydantic_fields__", {}) or {}
    return fields


def field_names(model: Any) -> list[str]:
    return [info.alias or name for name, info in fields_of(model).items() if info.init is not False]


def field_at(model: Any, loc: Sequence[str | int]) -> FieldInfo | None:
    """The field a location ends in, through lists, mappings and unions."""
    models = [model] if model is not None else []
    info: FieldInfo | None = None
    for step in loc:
        for candidate in models:
            if isinstance(step, str) and step in fields_of(candidate):
                info = fields_of(candidate)[step]
                models = models_in(info.annotation)
                break
    return info


def model_at(model: Any, loc: Sequence[str | int]) -> Any:
    """The model whose keys stand at a location."""
    info = field_at(model, loc)
    if info is None:
        return model
    models = models_in(info.annotation)
    return models[0] if models else None


def doc_of(model: Any, loc: Sequence[str | int]) -> str:
    info = field_at(model, loc)
    text = (info.description or "") if info else ""
    return text.split(". ")[0].rstrip(".").replace("`", "'")


def unit_of(info: FieldInfo | None) -> str:
    """`duration`, `size`, `ratio` or '': the `format` of the type in the JSON Schema."""
    if info is None:
        return ""
    found = search_format(info.metadata)
    return found or search_format([info.annotation])


def search_format(items: Sequence[Any]) -> str:
    for item in items:
        schema = getattr(item, "json_schema", None)
        if isinstance(schema, dict) and "format" in schema:
            return str(schema["format"])
        if typing.get_origin(item) is typing.Annotated:
            found = search_format(item.__metadata__)
        else:
            found = search_format([a for a in typing.get_args(item) if a is not Ellipsis])
        if found:
            return found
    return ""


def bounds_of(info: FieldInfo | None) -> dict[str, Any]:
    """`{"ge": 0.1, "le": 60.0}` of a field, wherever they hide."""
    bounds: dict[str, Any] = {}
    if info is None:
        return bounds
    for item in info.metadata:
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length"):
            value = getattr(item, name, None)
            if value is not None:
                bounds[name] = value
    return bounds


def in_unit(value: Any, unit: str) -> str:
    if unit == "duration":
        return format_duration(float(value)) if value else "0s"
    if unit == "size":
        return format_size(int(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def range_of(info: FieldInfo | None, item: Any) -> str:
    """`100ms to 1h`."""
    unit = unit_of(info)
    bounds = bounds_of(info)
    low = bounds.get("ge", bounds.get("gt"))
    high = bounds.get("le", bounds.get("lt"))
    if low is not None and high is not None:
        more = "more than " if "gt" in bounds else ""
        return f"{more}{in_unit(low, unit)} to {in_unit(high, unit)}"
    name, words = BOUNDS[item["type"]]
    return f"{words} {in_unit((item.get('ctx') or {}).get(name), unit)}"
