"""JSON Schema of what comes in: bodies, and parameters, which are texts until a schema says what they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from fastgw.policies.base import PolicyError

MAX_ERRORS = 10
MAX_MESSAGE = 200
MAX_NODES = 200_000
MASK = "…"
INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\Z")
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,20})?(?:[eE][+-]?[0-9]{1,3})?\Z")

Schema = dict[str, Any] | bool


class Fault(NamedTuple):
    """What is wrong, and where: `body.user.age`, `query.page`."""

    where: str
    message: str

    def members(self) -> dict[str, str]:
        return {"where": self.where, "message": self.message}


def plain(value: object) -> Any:
    """Mappings, lists and texts of their basic types. ValueError for what is too large or no JSON."""
    left = [MAX_NODES]

    def copied(one: object, depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0 or depth > 200:
            raise ValueError("the schema is too large")
        if isinstance(one, Mapping):
            return {str(name): copied(item, depth + 1) for name, item in one.items()}
        if isinstance(one, (list, tuple)):
            return [copied(item, depth + 1) for item in one]
        if isinstance(one, str):
            return str(one)
        if one is None or isinstance(one, (bool, int, float)):
            return one
        return str(one)                                # a date, as YAML reads it

    return copied(value, 0)


def _refused(uri: str) -> Any:
    raise ValueError("only references within the document are followed")


class Checker:
    """`Checker(schema).faults("body", value)`. PolicyError for a schema that is none.

    Patterns are searched in linear time; references to other documents are refused; messages do not quote values.
    """

    def __init__(self, schema: Schema) -> None:
        try:
            import jsonschema_rs
        except ImportError:
            raise PolicyError("this policy needs jsonschema-rs: pip install 'fastgw[validate]'") from None
        try:
            self.validator = jsonschema_rs.validator_for(
                schema,
                retriever=_refused,
                validate_formats=True,
                mask=MASK,
                pattern_options=jsonschema_rs.RegexOptions(size_limit=1 << 20, dfa_size_limit=1 << 22),
            )
        except (jsonschema_rs.ValidationError, ValueError, TypeError) as error:
            raise PolicyError(f"the JSON Schema can not be used: {str(error).splitlines()[0][:300]}") from None

    def faults(self, root: str, value: Any) -> list[Fault]:
        if self.validator.is_valid(value):
            return []
        found = []
        for error in self.validator.iter_errors(value):
            where = ".".join([root, *(str(step)[:100] for step in error.instance_path)])
            found.append(Fault(where[:MAX_MESSAGE], error.message[:MAX_MESSAGE]))
            if len(found) == MAX_ERRORS:
                break
        return found


def too_deep(body: bytes, value: Any, depth: int) -> bool:
    """Whether a document has more levels than that. Most have not even so many brackets."""
    if body.count(b"[") + body.count(b"{") <= depth:
        return False
    level = [value]
    for _ in range(depth):
        level = [inner for one in level if isinstance(one, (dict, list)) for inner in
                 (one.values() if isinstance(one, dict) else one)]  # fmt: skip
        if not level:
            return False
    return any(isinstance(one, (dict, list)) for one in level)


def body_faults(checker: Checker, body: bytes, depth: int) -> list[Fault]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return [Fault("body", "is not JSON")]
    if too_deep(body, value, depth):
        return [Fault("body", f"has more than {depth} levels")]
    return checker.faults("body", value)


def is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


class Parameters:
    """Parameters of one kind, by an object's schema. Repeated ones are lists where the schema has an array."""

    def __init__(self, schema: dict[str, Any], *, lower: bool = False) -> None:
        self.properties: Mapping[str, Any] = schema.get("properties") or {}
        if lower:
            schema = {**schema, "properties": {name.lower(): one for name, one in self.properties.items()}}
            if isinstance(schema.get("required"), list):
                schema = {**schema, "required": [str(name).lower() for name in schema["required"]]}
            self.properties = schema["properties"]
        self.root = schema
        self.checker = Checker(schema)

    def faults(self, kind: str, pairs: Iterable[tuple[str, str]]) -> list[Fault]:
        texts: dict[str, list[str]] = {}
        for name, value in pairs:
            texts.setdefault(name, []).append(value)
        found: list[Fault] = []
        values: dict[str, Any] = {}
        for name, several in texts.items():
            schema = self.resolved(self.properties.get(name))
            types = types_of(schema)
            if "array" in types:
                items = types_of(self.resolved(schema.get("items")))
                if schema.get("x-separator"):
                    several = [part for text in several for part in text.split(schema["x-separator"])]
                values[name] = [coerced(text, items) for text in several]
            elif len(several) > 1 and name in self.properties:
                found.append(Fault(f"{kind}.{name[:100]}", "came more than once"))
            else:
                values[name] = coerced(several[-1], types)
        return (found + self.checker.faults(kind, values))[:MAX_ERRORS]

    def resolved(self, schema: Any) -> Mapping[str, Any]:
        """Follows `$ref` within the document."""
        for _ in range(32):
            if not isinstance(schema, Mapping):
                return {}
            if not isinstance(schema.get("$ref"), str):
                return schema
            schema = pointed(self.root, schema["$ref"])
        return {}


def pointed(root: Any, reference: str) -> Any:
    """RFC 6901, in a fragment: `#/components/schemas/Pet`. None when there is nothing."""
    if not reference.startswith("#/"):
        return None
    for step in reference[2:].split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        root = root.get(name) if isinstance(root, Mapping) else None
    return root


def types_of(schema: Mapping[str, Any]) -> frozenset[str]:
    given = schema.get("type")
    if isinstance(given, str):
        return frozenset((given,))
    return frozenset(one for one in given if isinstance(one, str)) if isinstance(given, list) else frozenset()


def coerced(text: str, types: frozenset[str]) -> Any:
    """A text as what the schema has; as it is when it is nothing of that, for the schema to refuse."""
    if types & {"integer", "number"} and INTEGER.match(text):
        return int(text)
    if "number" in types and NUMBER.match(text):
        return float(text)
    if "boolean" in types and text in ("true", "false"):
        return text == "true"
    if "null" in types and text == "":
        return None
    return text
