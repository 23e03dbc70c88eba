"""YAML text → plain Python data, with positions.

libyaml reads, this module builds: events become dicts, lists and scalars in one pass. Positions of mappings
and of the items of `policies:` are kept (`Map`, `Seq`); any other position is found by a second reading of
the text (`Document.locate`), which only happens when there is something to report.

Plain scalars become `null`, `true`/`false`, integers and floats only when they are written in the one
canonical way (`2`, `0.5`); anything else (`1.10`, `0755`, `yes`, `12:30`, `2024-01-01`) stays the text it
is, and the field it lands in decides. So `X-Version: 1.10` matches the header value `1.10`. Keys are always
text.

Bounds: `MAX_BYTES` of text, `MAX_DEPTH` of nesting, and aliases may expand to at most `ALIAS_FACTOR` times
the values that are written out (plus `ALIAS_FREE`).
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from fastgw.config.env import Expanded, expand
from fastgw.config.errors import Finding, Path

MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 40
ALIAS_FACTOR = 10
ALIAS_FREE = 10_000
MAX_FINDINGS = 1000

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\Z")
SENSITIVE = re.compile(r"secret|token|passw|credential|private|api_?key|^keys?$|authorization|cookie$", re.I)
"""Names of keys whose values are not shown in an excerpt, whatever the schema says about them."""

STANDARD_TAGS = {"tag:yaml.org,2002:" + name for name in ("str", "int", "float", "bool", "null", "map", "seq")}


class Map(dict[str, Any]):
    """A mapping that knows where it begins (both from 1)."""

    __slots__ = ("col", "line")
    line: int
    col: int


class Seq(list[Any]):
    """The list under a key `policies`: `marks[i]` is (line, col) of item i."""

    __slots__ = ("marks",)
    marks: list[tuple[int, int]]


class Span(NamedTuple):
    """Where a key and its value stand, all from 1; for list items and the root the key is the value's
    start."""

    key_line: int
    key_col: int
    line: int
    col: int
    end_line: int
    end_col: int


class Document:
    """A parsed text: `data` (None when it could not be parsed), `findings` so far, and positions on
    demand."""

    def __init__(self, text: str, file: str, base: str | None) -> None:
        self.text = text
        self.file = file
        self.base = base
        self.data: Any = None
        self.findings: list[Finding] = []
        self.templates: list[tuple[Expanded, Path]] = []

    def locate(self, paths: Iterable[Path]) -> tuple[dict[Path, Span], list[Span]]:
        """Positions of the paths and their ancestors, and the places of values that must not be shown."""
        if not self.text:
            return {}, []
        return find_spans(self.text, set(paths))


def read(path: str | os.PathLike[str], env: Mapping[str, str]) -> Document:
    """Reads and parses a file. Never raises for what the file holds: see `Document.findings`."""
    name = os.fspath(path)
    document = Document("", name, str(FilePath(name).parent))
    try:
        with open(name, "rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        document.findings.append(Finding("unreadable", (), f"can not be read: {error.strerror}"))
        return document
    except ValueError:
        document.findings.append(Finding("unreadable", (), "can not be read: the name holds a NUL"))
        return document
    if len(raw) > MAX_BYTES:
        document.findings.append(
            Finding("unreadable", (), "is too large", f"at most {MAX_BYTES >> 20} MiB of configuration")
        )
        return document
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        mark = (before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1)
        document.findings.append(Finding("syntax", (), "a byte that is not UTF-8", "UTF-8 text", mark=mark))
        return document
    return parse(text, name, env, document.base)


def parse(text: str, file: str, env: Mapping[str, str], base: str | None = None) -> Document:
    """Parses text. `base` is the folder that `file:` references start from."""
    document = Document(text, file, base)
    try:
        with collector_off():
            document.data = build(text, env, document)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.context, error.problem) if part)
        mark = (at.line + 1, at.column + 1) if at else None
        document.findings.append(Finding("syntax", (), message or "not YAML", "valid YAML", mark=mark))
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark = (before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
        document.findings.append(Finding("syntax", (), error.reason, "text without control characters", mark=mark))
    except Stop:
        pass
    return document


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Building a large tree makes no cycles, and the collector would walk the growing tree again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class Stop(Exception):
    """The text can not be read to its end; the finding has been made."""


def plain(value: str) -> Any:
    """The type of an unquoted scalar."""
    if value in ("", "~", "null"):
        return None
    if value == "true":
        return True
    if value == "false":
        return False
    if INTEGER.match(value):
        return int(value)
    try:
        number = float(value)
    except ValueError:
        return value
    return number if repr(number) == value and value not in ("nan", "inf", "-inf") else value


PLAIN_STARTS = frozenset("0123456789-.~ntf")
OPEN = object()


def build(text: str, env: Mapping[str, str], document: Document) -> Any:
    """The one pass over the events. Long, because it is the loop that a file of 100,000 routes goes
    through."""
    loader = LOADER(text)
    next_event = loader.get_event
    root: list[Any] = []
    container: Any = root
    is_map = False
    key: str | None = None
    stack: list[tuple[Any, bool, str | None, Any, int, bool]] = []
    anchors: dict[str, tuple[Any, int]] = {}
    words: dict[str, str] = {}
    intern = words.setdefault
    nodes = expanded = documents = 0
    anchor: str | None = None
    merges = False
    try:
        while True:
            event = next_event()
            kind = event.__class__
            if kind is ScalarEvent:
                nodes += 1
                value: Any = event.value
                if is_map and key is None:
                    key = intern(value, value)
                    if key in container:
                        duplicate(document, stack, container, key, event)
                    elif key == "<<" and event.implicit[0]:
                        merges = True
                    continue
                if event.implicit[0]:
                    value = plain(value) if not value or value[0] in PLAIN_STARTS else intern(value, value)
                elif event.tag is not None and event.tag not in STANDARD_TAGS and event.tag != "!":
                    refuse(document, event, f"the tag {event.tag[:60]} is not allowed", "plain YAML without tags")
                if value.__class__ is str and "${" in value:
                    value = substitute(value, env, document, path_of(stack, container, key), event)
                if event.anchor is not None:
                    anchors[event.anchor] = (value, 1)
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                if merges:
                    merge(document, container, event)
                closed = container
                container, is_map, key, anchor, before, merges = stack.pop()
                if anchor is not None:
                    anchors[anchor] = (closed, nodes + expanded - before)
                key = None
                continue
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                nodes += 1
                if is_map and key is None:
                    refuse(document, event, "a key must be a word, not a list or mapping", "a key")
                if len(stack) >= MAX_DEPTH:
                    refuse(document, event, f"nested deeper than {MAX_DEPTH} levels", "a flatter document")
                if event.tag is not None and event.tag not in STANDARD_TAGS and event.tag != "!":
                    refuse(document, event, f"the tag {event.tag[:60]} is not allowed", "plain YAML without tags")
                start = event.start_mark
                new: Any
                if kind is MappingStartEvent:
                    new = Map()
                    new.line = start.line + 1
                    new.col = start.column + 1
                elif key == "policies":
                    new = Seq()
                    new.marks = []
                else:
                    new = []
                if is_map:
                    container[key] = new
                else:
                    if container.__class__ is Seq:
                        container.marks.append((start.line + 1, start.column + 1))
                    container.append(new)
                stack.append((container, is_map, key, event.anchor, nodes + expanded, merges))
                if event.anchor is not None:
                    anchors[event.anchor] = (OPEN, 0)
                container = new
                is_map = kind is MappingStartEvent
                key = None
                merges = False
                continue
            elif kind is AliasEvent:
                if is_map and key is None:
                    refuse(document, event, "an alias can not be a key", "a key")
                value, size = anchors.get(event.anchor, (None, 0))
                if not size:
                    what = "is inside itself" if value is OPEN else "is not defined above"
                    refuse(
                        document,
                        event,
                        f"the anchor of *{event.anchor[:40]} {what}",
                        "an anchor (&name) before it",
                    )
                expanded += size
                if expanded > ALIAS_FREE + ALIAS_FACTOR * nodes:
                    refuse(
                        document,
                        event,
                        "aliases expand to too many values",
                        f"at most {ALIAS_FACTOR} times what is written out",
                        "alias_bomb",
                    )
            elif kind is DocumentStartEvent:
                documents += 1
                if documents > 1:
                    refuse(document, event, "a second document begins here", "one YAML document")
                continue
            elif kind is StreamEndEvent:
                break
            else:
                continue
            if is_map:
                container[key] = value
                key = None
            else:
                if container.__class__ is Seq:
                    container.marks.append((event.start_mark.line + 1, event.start_mark.column + 1))
                container.append(value)
    finally:
        loader.dispose()
    return root[0] if root else None


def refuse(document: Document, event: Any, message: str, expected: str, code: str = "syntax") -> None:
    mark = (event.start_mark.line + 1, event.start_mark.column + 1)
    document.findings.append(Finding(code, (), message, expected, mark=mark))
    raise Stop


def path_of(stack: list[tuple[Any, bool, str | None, Any, int, bool]], container: Any, key: str | None) -> Path:
    """The path of the value that is being read."""
    path: list[str | int] = []
    for outer, is_map, outer_key, *_ in stack[1:]:
        path.append(outer_key if is_map and outer_key is not None else len(outer) - 1)
    if stack:
        path.append(key if key is not None else len(container))
    return tuple(path)


def duplicate(document: Document, stack: Any, container: Any, key: str, event: Any) -> None:
    if len(document.findings) < MAX_FINDINGS:
        shown = key if len(key) <= 60 else key[:59] + "…"
        document.findings.append(
            Finding(
                "duplicate_key",
                path_of(stack, container, key),
                f"the key {shown!r} stands here a second time",
                "each key once",
                mark=(event.start_mark.line + 1, event.start_mark.column + 1),
            )
        )


def substitute(value: str, env: Mapping[str, str], document: Document, path: Path, event: Any) -> str:
    text, wrong = expand(value, env)
    assert isinstance(text, Expanded)
    for code, message, expected in wrong:
        if len(document.findings) < MAX_FINDINGS:
            mark = (event.start_mark.line + 1, event.start_mark.column + 1)
            document.findings.append(Finding(code, path, message, expected, mark=mark))
    if text.templated:
        document.templates.append((text, path))
    return text


def merge(document: Document, container: Map, event: Any) -> None:
    """`<<: *base` or `<<: [*a, *b]`: keys that are not there yet (https://yaml.org/type/merge.html)."""
    sources = container.pop("<<")
    for source in sources if isinstance(sources, list) else [sources]:
        if not isinstance(source, dict):
            refuse(document, event, "'<<' merges something that is not a mapping", "<<: *name of a mapping")
        for key, value in source.items():
            container.setdefault(key, value)


class Frame(NamedTuple):
    path: Path | None
    is_map: bool
    start: Any
    key_mark: Any
    hidden: bool


def find_spans(
    text: str, paths: set[Path], secrets: frozenset[str] = frozenset()
) -> tuple[dict[Path, Span], list[Span]]:
    """Reads the text again for the places of some paths, and of what must not be shown: the values of keys that
    are called like a secret, or are named in `secrets`.

    A path that is not there as such (a missing key, something behind an alias) is left out: the caller takes
    its nearest ancestor.
    """
    wanted = {path[:n] for path in paths for n in range(len(path) + 1)}
    spans: dict[Path, Span] = {}
    hidden: list[Span] = []
    stack: list[Frame] = []
    path: Path | None = None
    is_map = False
    hide = False
    key: Any = None
    index: list[int] = [0]

    def child() -> Path | None:
        if not stack:
            return ()
        if path is None:
            return None
        step: str | int = key.value if is_map else index[-1]
        full = (*path, step)
        return full if full in wanted else None

    def note(where: Path | None, start: Any, end: Any, key_mark: Any, secret: bool) -> None:
        at = key_mark or start
        span = Span(at.line + 1, at.column + 1, start.line + 1, start.column + 1, end.line + 1, end.column + 1)
        if where is not None:
            spans.setdefault(where, span)
        if secret:
            hidden.append(span)

    loader = LOADER(text)
    try:
        while True:
            event = loader.get_event()
            kind = event.__class__
            if kind is StreamEndEvent:
                break
            if kind is ScalarEvent or kind is AliasEvent:
                if is_map and key is None:
                    key = (
                        event if kind is ScalarEvent else ScalarEvent(None, None, (True, False), "*", event.start_mark)
                    )
                    continue
                secret = hide or bool(is_map and (key.value in secrets or SENSITIVE.search(key.value)))
                note(child(), event.start_mark, event.end_mark, key.start_mark if is_map else None, secret)
                key = None
                index[-1] += 1
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                if is_map and key is None:
                    break
                key_mark = key.start_mark if is_map else None
                stack.append(Frame(path, is_map, event.start_mark, key_mark, hide))
                below = () if len(stack) == 1 else child_of(path, is_map, key, index[-1], wanted)
                hide = hide or bool(is_map and (key.value in secrets or SENSITIVE.search(key.value)))
                path = below
                is_map = kind is MappingStartEvent
                key = None
                index.append(0)
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                frame = stack.pop()
                note(path, frame.start, event.end_mark, frame.key_mark, False)
                path, is_map, hide = frame.path, frame.is_map, frame.hidden
                key = None
                index.pop()
                index[-1] += 1
    except yaml.YAMLError:
        pass
    finally:
        loader.dispose()
    return spans, hidden


def child_of(path: Path | None, is_map: bool, key: Any, index: int, wanted: set[Path]) -> Path | None:
    if path is None:
        return None
    full = (*path, key.value if is_map else index)
    return full if full in wanted else None
