"""Problems as text: one line each, or with the line of the file they are about and a caret below it.

The excerpt never shows a secret: values of keys that are secrets (by their type, or by a name such as `token`) and
of keys that are not known are masked, and a text that is not YAML is not shown where a secret may be near.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson
from pydantic import BaseModel

from fastgw.config.errors import Problem
from fastgw.config.fields import Secret
from fastgw.config.findings import fields_of, models_in
from fastgw.config.registry import Resolver
from fastgw.config.schema import SINGLE_ROOMS
from fastgw.config.schema.consumers import Consumer
from fastgw.config.schema.services import Service
from fastgw.config.text import SENSITIVE, Span, find_spans

MASK = "***"
WIDTH = 160
NEAR = 50
"""Lines before a syntax error in which a secret may have begun."""
COLORS = {
    "error": "\x1b[1;31m", "warning": "\x1b[1;33m", "notice": "\x1b[1;36m", "dim": "\x1b[2m", "end": "\x1b[0m",
}  # fmt: skip


def as_json(problems: Iterable[Problem]) -> str:
    """A list of objects with the keys of `Problem`."""
    rows = [problem.as_dict() for problem in problems]
    return orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode()


def as_lines(problems: Iterable[Problem]) -> str:
    """`file:line:col: error[code] path: message`, a line for each."""
    return "".join(f"{problem}\n" for problem in problems)


def as_excerpts(problems: Sequence[Problem], text: str, resolver: Resolver, *, color: bool = False) -> str:
    """For people: what is wrong, the line it is about, what would be right. `text` is the file's."""
    lines = text.split("\n")
    _, hidden = find_spans(text, set(), secret_names(resolver))
    paint = COLORS if color else dict.fromkeys(COLORS, "")
    return "\n".join(one(problem, problems, lines, hidden, paint) for problem in problems)


def one(problem: Problem, others: Sequence[Problem], lines: list[str], hidden: list[Span], paint: Any) -> str:
    where = f"{problem.file}:{problem.line}:{problem.col}" if problem.line else problem.file
    head = f"{paint[problem.severity]}{problem.severity}[{problem.code}]{paint['end']}"
    path = f"{problem.path}: " if problem.path else ""
    shown = [f"{head} {path}{problem.message}", f"  {paint['dim']}--> {where}{paint['end']}"]
    excerpt = line_of(problem, others, lines, hidden)
    if excerpt is not None:
        gutter = f"{problem.line:>6} | "
        shown.append(gutter + excerpt)
        shown.append(" " * (len(gutter) + problem.col - 1) + f"{paint[problem.severity]}^{paint['end']}")
    if problem.expected:
        shown.append(f"  expected: {problem.expected}")
    if problem.hint:
        shown.append(f"  hint: {problem.hint}")
    return "\n".join(shown) + "\n"


def line_of(problem: Problem, others: Sequence[Problem], lines: list[str], hidden: list[Span]) -> str | None:
    """The line of a problem without what must not be seen; None when there is none, or the caret would be lost."""
    number = problem.line
    if not 0 < number <= len(lines) or problem.col > WIDTH:
        return None
    if any(other.code == "syntax" for other in others):
        near = lines[max(0, number - NEAR) : number]
        return None if any(SENSITIVE.search(line) for line in near) else printable(lines[number - 1])[:WIDTH]
    # the value of a key that is not known may be a secret whose name is misspelt
    unknown = [other.col for other in others if other.code == "unknown_key" and other.line == number]
    line = printable(lines[number - 1])
    if unknown:
        first = min(unknown)
        colon = line.find(":", first - 1)
        if problem.col > first:
            return None
        line = line[: colon + 1] + " …" if colon >= 0 else line
    for span in sorted(hidden, reverse=True):
        if span.line <= number <= span.end_line:
            begin = span.col - 1 if number == span.line else 0
            end = span.end_col - 1 if number == span.end_line else len(line)
            width = end - begin
            if width > 0 and begin < len(line):
                # as wide as it was, so that carets stay where they belong
                line = line[:begin] + MASK.ljust(width, "*")[:width] + line[end:]
    return line[:WIDTH]


def printable(line: str) -> str:
    return "".join(c if c.isprintable() else " " for c in line)


def secret_names(resolver: Resolver) -> frozenset[str]:
    """The names of all keys whose values are secrets, of the rooms and of the policies."""
    models: list[Any] = [*SINGLE_ROOMS.values(), Service, Consumer]
    for name in resolver.names():
        spec = resolver(name)
        if spec is not None:
            models.append(spec.options)
    return frozenset(name for model in models for name in secrets_in(model, set()))


def secrets_in(model: type[BaseModel], seen: set[Any]) -> Iterator[str]:
    if model in seen:
        return
    seen.add(model)
    for name, info in fields_of(model).items():
        if "Secret" in str(info.annotation) or Secret in getattr(info.annotation, "__args__", (info.annotation,)):
            yield info.alias or name
        for inner in models_in(info.annotation):
            yield from secrets_in(inner, seen)
