"""OpenAPI 3.0 and 3.1: a document → its operations, with everything that is checked compiled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote, urlsplit

import re2
import yaml

from fastgw.policies._schema import Checker, Parameters, plain, pointed
from fastgw.policies.base import PolicyError

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
MAX_OPERATIONS = 5000
ELSEWHERE = ("accept", "content-type", "authorization")
"""OpenAPI 3.1, 4.8.12.2.1: parameters of these names are ignored, other parts describe them."""
WHOLE = re.compile(r"\{([^{}]+)\}\Z")
PIECES = re.compile(r"\{([^{}]+)\}")


@dataclass(slots=True)
class Answer:
    """What an answer may hold, by media type; empty: nothing. `headers`: what checks those that it has to have."""

    bodies: dict[str, Checker | None] = field(default_factory=dict)
    headers: Parameters | None = None


@dataclass(slots=True)
class Operation:
    """One method of one path. `bodies`: media type or range → what checks it, None for one that is not looked at."""

    name: str
    path: Parameters | None = None
    query: Parameters | None = None
    header: Parameters | None = None
    cookie: Parameters | None = None
    bodies: dict[str, Checker | None] = field(default_factory=dict)
    body_required: bool = False
    answers: dict[str, Answer] = field(default_factory=dict)

    def answer(self, status: int) -> Answer | None:
        """What an answer of that status is to be. None when it is not described."""
        for name in (str(status), f"{status // 100}XX", "DEFAULT"):
            if name in self.answers:
                return self.answers[name]
        return None

    def body(self, content_type: str) -> tuple[bool, Checker | None]:
        """Whether a body of that type may come, and what checks it."""
        return of_type(self.bodies, content_type)


def of_type(bodies: Mapping[str, Checker | None], content_type: str) -> tuple[bool, Checker | None]:
    kind = content_type.partition(";")[0].strip().lower()
    for wanted, checker in bodies.items():
        if kind == wanted or ("*" in wanted and fnmatchcase(kind, wanted)):
            return True, checker
    return False, None


@dataclass(slots=True)
class Node:
    """A segment of paths: what can follow it, and what is there."""

    literal: dict[str, Node] = field(default_factory=dict)
    patterns: list[tuple[Any, tuple[str, ...], Node]] = field(default_factory=list)
    named: list[tuple[str, Node]] = field(default_factory=list)
    operations: dict[str, Operation] | None = None


class Contract:
    """`Contract(text)`; `answers`: those are read too. PolicyError, with its place, for what is none."""

    def __init__(self, text: bytes, answers: bool = False) -> None:
        self.with_answers = answers
        try:
            found = plain(yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        except (yaml.YAMLError, ValueError) as error:
            raise PolicyError(f"not YAML or JSON: {str(error).splitlines()[0]}") from None
        if not isinstance(found, dict) or not isinstance(found.get("paths"), dict):
            raise PolicyError("there are no `paths:`")
        version = str(found.get("openapi", ""))
        if not re.match(r"3\.[01](\.|\Z)", version):
            raise PolicyError(f"`openapi: {version[:20]}` is not read; 3.0 and 3.1 are")
        self.document: dict[str, Any] = from_30(found) if version.startswith("3.0") else found
        self.root = Node()
        self.templates: dict[str, list[str]] = {}
        count = 0
        for template, item in self.document["paths"].items():
            count += self.add(template, self.resolved(item, template))
            if count > MAX_OPERATIONS:
                raise PolicyError(f"there are more than {MAX_OPERATIONS} operations")
        servers = self.document.get("servers")
        first = servers[0] if isinstance(servers, list) and servers else None
        url = str(first.get("url", "")) if isinstance(first, dict) else ""
        self.base = "" if "{" in url else urlsplit(url).path.rstrip("/")

    # ------------------------------------------------------------------ making it

    def resolved(self, value: Any, place: str) -> dict[str, Any]:
        """A mapping, or the one within the document that it refers to."""
        for _ in range(32):
            if isinstance(value, dict) and isinstance(value.get("$ref"), str):
                value = pointed(self.document, value["$ref"])
            elif isinstance(value, dict):
                return value
            else:
                break
        raise PolicyError(f"{place}: there is no mapping, or a reference leads nowhere in the document")

    def add(self, template: str, item: dict[str, Any]) -> int:
        if not template.startswith("/"):
            raise PolicyError(f"paths.{template}: a path begins with `/`")
        common = item.get("parameters") or []
        operations = {}
        for method in METHODS:
            if method in item:
                place = f"paths.{template}.{method}"
                operations[method.upper()] = self.operation(place, self.resolved(item[method], place), common)
        node = self.root
        for segment in template[1:].split("/"):
            node = self.step(node, segment)
        if node.operations is not None:
            raise PolicyError(f"paths.{template}: another path is the same")
        node.operations = operations
        self.templates[template] = sorted(operations)
        return len(operations)

    @staticmethod
    def step(node: Node, segment: str) -> Node:
        whole = WHOLE.match(segment)
        if whole:
            for name, child in node.named:
                if name == whole[1]:
                    return child
            child = Node()
            node.named.append((whole[1], child))
            return child
        if "{" not in segment:
            return node.literal.setdefault(unquote(segment), Node())
        names = tuple(PIECES.findall(segment))
        # of RE2: a segment is a client's, and may be long
        pieces = [re2.escape(piece) for piece in PIECES.split(segment)[::2]]
        pattern = re2.compile("^" + "([^/]+)".join(pieces) + "$")
        for known, _, child in node.patterns:
            if known.pattern == pattern.pattern:
                return child
        child = Node()
        node.patterns.append((pattern, names, child))
        return child

    def operation(self, place: str, given: dict[str, Any], common: Any) -> Operation:
        made = Operation(str(given.get("operationId") or place.removeprefix("paths."))[:200])
        parameters: dict[tuple[str, str], dict[str, Any]] = {}
        for number, one in enumerate([*common, *(given.get("parameters") or [])]):
            parameter = self.resolved(one, f"{place}.parameters[{number}]")
            parameters[str(parameter.get("in")), str(parameter.get("name"))] = parameter
        for kind in ("path", "query", "header", "cookie"):
            several = {name: one for (where, name), one in parameters.items() if where == kind}
            if kind == "header":
                several = {name: one for name, one in several.items() if name.lower() not in ELSEWHERE}
            if several:
                setattr(made, kind, self.parameters(f"{place}.{kind}", kind, several))
        if "requestBody" in given:
            body = self.resolved(given["requestBody"], f"{place}.requestBody")
            made.body_required = bool(body.get("required"))
            made.bodies = self.content(f"{place}.requestBody", body.get("content"))
        if self.with_answers:
            answers = given.get("responses")
            for status, one in (answers if isinstance(answers, dict) else {}).items():
                where = f"{place}.responses.{status}"
                made.answers[str(status).upper()] = self.answer(where, self.resolved(one, where))
        return made

    def answer(self, place: str, given: dict[str, Any]) -> Answer:
        made = Answer(self.content(place, given.get("content")))
        headers = given.get("headers")
        several = {
            str(name): self.resolved(one, f"{place}.headers.{name}")
            for name, one in (headers if isinstance(headers, dict) else {}).items()
            if str(name).lower() != "content-type"     # 4.8.17.1: it is ignored, `content` describes it
        }
        if several:
            made.headers = self.parameters(f"{place}.headers", "header", several)
        return made

    def content(self, place: str, given: Any) -> dict[str, Checker | None]:
        """Media type or range → what checks it; None for what is not looked at."""
        found: dict[str, Checker | None] = {}
        for media, value in (given if isinstance(given, dict) else {}).items():
            kind = str(media).partition(";")[0].strip().lower()
            checked = isinstance(value, dict) and "schema" in value and (kind.endswith("json") or kind == "*/*")
            found[kind] = self.checker(place, value["schema"]) if checked else None
        return found

    def parameters(self, place: str, kind: str, several: Mapping[str, dict[str, Any]]) -> Parameters:
        properties: dict[str, Any] = {}
        for name, one in several.items():
            schema = one.get("schema")
            schema = dict(schema) if isinstance(schema, dict) else {}
            explode = one.get("explode", kind in ("query", "cookie"))
            if not explode and "$ref" not in schema:
                schema["x-separator"] = {"spaceDelimited": " ", "pipeDelimited": "|"}.get(str(one.get("style")), ",")
            properties[name] = schema
        required = [name for name, one in several.items() if one.get("required") or kind == "path"]
        whole = {"type": "object", "properties": properties, "required": required}
        try:
            return Parameters(self.closed(whole), lower=kind == "header")
        except PolicyError as error:
            raise PolicyError(f"{place}: {error}") from None

    def checker(self, place: str, schema: Any) -> Checker:
        try:
            return Checker(self.closed(schema) if isinstance(schema, dict) else bool(schema))
        except PolicyError as error:
            raise PolicyError(f"{place}: {error}") from None

    def closed(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema with what it refers to in the document, and what that refers to, and no more."""
        whole: dict[str, Any] = {}
        waiting, seen = [schema], set()
        while waiting:
            for reference in references(waiting.pop()):
                if reference in seen or not reference.startswith("#/"):
                    continue
                seen.add(reference)
                found = pointed(self.document, reference)
                if found is None:
                    raise PolicyError(f"the reference {reference[:100]} leads nowhere")
                waiting.append(found)
                into = whole
                *steps, last = [s.replace("~1", "/").replace("~0", "~") for s in reference[2:].split("/")]
                for step in steps:
                    into = into.setdefault(step, {})
                into.setdefault(last, found)
        return {**whole, **schema} if "$ref" not in schema else {**whole, "allOf": [schema]}

    # ------------------------------------------------------------------ asking it

    def find(self, path: str) -> tuple[dict[str, Operation], list[tuple[str, str]]] | None:
        """The operations of a path, and its parameters. Literal segments come before templates."""
        segments = [unquote(segment) for segment in path[1:].split("/")]
        return self.search(self.root, segments, 0, [])

    def search(
        self, node: Node, segments: list[str], at: int, values: list[tuple[str, str]]
    ) -> tuple[dict[str, Operation], list[tuple[str, str]]] | None:
        if at == len(segments):
            return None if node.operations is None else (node.operations, values)
        segment = segments[at]
        child = node.literal.get(segment)
        found = self.search(child, segments, at + 1, values) if child is not None else None
        if found is None:
            for pattern, names, child in node.patterns:
                match = pattern.search(segment)
                if match:
                    more = list(zip(names, match.groups(), strict=True))
                    found = self.search(child, segments, at + 1, values + more)
                    if found is not None:
                        return found
        if found is None and segment:
            for name, child in node.named:
                found = self.search(child, segments, at + 1, [*values, (name, segment)])
                if found is not None:
                    return found
        return found


def references(value: Any) -> Iterator[str]:
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            if isinstance(one.get("$ref"), str):
                yield one["$ref"]
            stack += one.values()
        elif isinstance(one, list):
            stack += one


def from_30(value: Any) -> Any:
    """Schemas of OpenAPI 3.0 as JSON Schema has them: `nullable`, exclusive bounds that are flags."""
    if isinstance(value, list):
        return [from_30(one) for one in value]
    if not isinstance(value, dict):
        return value
    made = {name: from_30(one) for name, one in value.items()}
    if made.get("nullable") is True and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
        if isinstance(made.get("enum"), list) and None not in made["enum"]:
            made["enum"] = [*made["enum"], None]
    for flag, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(made.get(flag), bool) and made.pop(flag) and bound in made:
            made[flag] = made.pop(bound)
    return made
