"""google.api.http rules: path templates, and the table that finds the rule of a request.

https://github.com/googleapis/googleapis/blob/master/google/api/http.proto:

    Template = "/" Segments [ Verb ] ;
    Segments = Segment { "/" Segment } ;
    Segment  = "*" | "**" | LITERAL | Variable ;
    Variable = "{" FieldPath [ "=" Segments ] "}" ;
    FieldPath = IDENT { "." IDENT } ;
    Verb     = ":" LITERAL ;

`*` is one segment, `**` any number to the end of the path, before the verb.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import unquote

T = TypeVar("T")

IDENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
LITERAL = re.compile(r"[A-Za-z0-9_.~!$&'()+,;@%-]+\Z")
MAX_SEGMENTS = 100
"""Of a request's path; more fit no rule."""
RESERVED = re.compile(r"(%2[Ff])")


class TemplateError(ValueError):
    """A path template that cannot be understood. The message names it."""


@dataclass(frozen=True, slots=True)
class Variable:
    """`path` gets the segments `start` to `end` (exclusive; None: to the end). `multi`: it may hold slashes."""

    path: tuple[str, ...]
    start: int
    end: int | None
    multi: bool


@dataclass(frozen=True, slots=True)
class Template:
    """`segments` are literals (decoded), `*` and `**`; `verb` is without its colon, or empty."""

    text: str
    segments: tuple[str, ...]
    verb: str
    variables: tuple[Variable, ...]


def parse_template(text: str) -> Template:
    """TemplateError with what is wrong."""
    if not text.startswith("/"):
        raise TemplateError(f"the path {text!r} does not begin with `/`")
    body, verb = _split_verb(text)
    segments: list[str] = []
    variables: list[Variable] = []
    for item in _items(text, body[1:]):
        if not item.startswith("{"):
            segments.append(_segment(text, item))
            continue
        name, equals, inner = item[1:-1].partition("=")
        path = tuple(name.split("."))
        if not all(IDENT.match(part) for part in path):
            raise TemplateError(f"the path {text!r} has the variable {item!r}, which names no field")
        parts = [_segment(text, part) for part in (inner.split("/") if equals else ["*"])]
        start = len(segments)
        segments += parts
        rest = parts[-1] == "**"
        variables.append(Variable(path, start, None if rest else len(segments), rest or len(parts) > 1))
    if "**" in segments[:-1]:
        raise TemplateError(f"the path {text!r} has something other than a verb after `**`")
    names = [variable.path for variable in variables]
    if len(set(names)) != len(names):
        raise TemplateError(f"the path {text!r} names a field twice")
    return Template(text, tuple(segments), verb, tuple(variables))


def _split_verb(text: str) -> tuple[str, str]:
    """The verb is after the last colon that is in no variable and in the last segment."""
    at = max(text.rfind("}"), text.rfind("/"))
    colon = text.find(":", at + 1)
    if colon < 0:
        return text, ""
    verb = text[colon + 1 :]
    if not LITERAL.match(verb):
        raise TemplateError(f"the path {text!r} has {verb!r} as its verb")
    return text[:colon], verb


def _items(text: str, body: str) -> Iterator[str]:
    """What stands between slashes; a variable is one item, slashes inside of it or not."""
    at = 0
    while at <= len(body):
        if body.startswith("{", at):
            close = body.find("}", at)
            if close < 0 or "{" in body[at + 1 : close] or body[close + 1 : close + 2] not in ("", "/"):
                raise TemplateError(f"the path {text!r} has a variable that does not end")
            end = close + 1
        else:
            end = body.find("/", at)
            end = len(body) if end < 0 else end
        yield body[at:end]
        at = end + 1


def _segment(text: str, item: str) -> str:
    if item in ("*", "**"):
        return item
    if not LITERAL.match(item):
        raise TemplateError(f"the path {text!r} has {item!r} as a segment")
    return unquote(item)


@dataclass(slots=True)
class _Node(Generic[T]):
    """A place in the tree. `ends` and `rests`: verb → method → what was added with it."""

    literals: dict[str, _Node[T]] = field(default_factory=dict)
    star: _Node[T] | None = None
    ends: dict[str, dict[str, tuple[Template, T]]] = field(default_factory=dict)
    rests: dict[str, dict[str, tuple[Template, T]]] = field(default_factory=dict)


class RuleTable(Generic[T]):
    """Templates with a method each (`*` for all) and what they stand for.

    A literal segment comes before `*`, `*` before `**`, a verb before a segment that only looks like one. A look-up
    visits a place of the tree once at most.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._verbs: set[str] = set()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, method: str, template: Template, value: T) -> T | None:
        """The one that is there already under the same method and shape, which then stays; None: it was added."""
        node = self._root
        rest = template.segments[-1] == "**"
        for segment in template.segments[:-1] if rest else template.segments:
            if segment == "*":
                node.star = node.star or _Node()
                node = node.star
            else:
                node = node.literals.setdefault(segment, _Node())
        here = (node.rests if rest else node.ends).setdefault(template.verb, {})
        if method in here:
            return here[method][1]
        here[method] = (template, value)
        self._verbs.add(template.verb)
        self._count += 1
        return None

    def match(self, method: str, path: str) -> tuple[T, dict[tuple[str, ...], str]] | None:
        """What fits a normalised, percent-encoded path, and its variables, decoded; None when nothing does."""
        for segments, verb in self._readings(path):
            for found in self._find(self._root, segments, 0, verb):
                entry = found.get(method) or found.get("*")
                if entry is not None:
                    template, value = entry
                    return value, {one.path: _captured(one, segments) for one in template.variables}
        return None

    def methods(self, path: str) -> set[str]:
        """The methods that this path has, when `match` found nothing."""
        found: set[str] = set()
        for segments, verb in self._readings(path):
            for methods in self._find(self._root, segments, 0, verb):
                found.update(methods)
        return found

    def _readings(self, path: str) -> Iterator[tuple[list[str], str]]:
        segments = path[1:].split("/", MAX_SEGMENTS)
        if len(segments) > MAX_SEGMENTS:
            return
        head, colon, verb = segments[-1].rpartition(":")
        if colon and verb in self._verbs:
            yield [*segments[:-1], head], verb
        yield segments, ""

    def _find(
        self, node: _Node[T], segments: list[str], at: int, verb: str
    ) -> Iterator[dict[str, tuple[Template, T]]]:
        """Best first."""
        if at == len(segments):
            if verb in node.ends:
                yield node.ends[verb]
        else:
            segment = segments[at]
            below = node.literals.get(unquote(segment) if "%" in segment else segment)
            if below is not None:
                yield from self._find(below, segments, at + 1, verb)
            if node.star is not None and segment:
                yield from self._find(node.star, segments, at + 1, verb)
        if verb in node.rests:
            yield node.rests[verb]


def _captured(variable: Variable, segments: list[str]) -> str:
    """http.proto: one segment is decoded whole; in several an encoded slash stays as it is, for it is no separator."""
    text = "/".join(segments[variable.start : variable.end])
    if "%" not in text:
        return text
    if not variable.multi:
        return unquote(text, errors="strict")
    return "".join(
        part if RESERVED.match(part) else unquote(part, errors="strict") for part in RESERVED.split(text)
    )
