"""Path patterns and rewrites, read as far as checking needs it: the literal beginning and the captures.

A path is one of
    /users/me              exactly this path
    /users/*               /users and everything below it; the capture `*` is the rest
    /users/{id}            one segment, not empty
    /users/{id:[0-9]+}     one segment that the regex matches in full
    ~ /v[0-9]+/(?P<x>.*)   the regex matches the whole path; captures are its named groups
and the segment forms may be mixed: /a/{x}/b/{y:[a-z]+}/*.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple
from urllib.parse import quote

from fastgw._core.exchange import MAX_CAPTURES
from fastgw.config.fields import compile_regex, shown, wrong

MAX_PATH = 4096
PLAIN = re.compile(r"(/(?:[!$&'()+,\-./0-9:;=@A-Z_a-z~%]*[!$&'()+,\-.0-9:;=@A-Z_a-z~%])?/?)(\*)?\Z")
LITERAL = re.compile(r"[!$&'()+,\-.0-9:;=@A-Z_a-z~%]*\Z")
CAPTURE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
EXPECTED = "/exact, /prefix/*, /a/{param}, /a/{param:regex} or '~ regex'"


class Segment(NamedTuple):
    """One segment of a template: `literal` text, a `param`, a `regex` (text is the regex) or the `rest`."""

    kind: Literal["literal", "param", "regex", "rest"]
    text: str
    name: str = ""


class PathPattern(NamedTuple):
    """What a path is: its kind, the literal part before the first wildcard (no slash at its end), its
    captures.

    `segments` is there for templates, `regex` (without the `~`) for whole-path regexes.
    """

    kind: Literal["exact", "prefix", "template", "regex"]
    literal: str
    captures: tuple[str, ...] = ()
    segments: tuple[Segment, ...] = ()
    regex: str = ""


def parse_path(text: str) -> PathPattern:
    """Raises `wrong(…)` for what is no path pattern."""
    match = PLAIN.match(text)
    if match and len(text) <= MAX_PATH:
        literal = match[1]
        if "%" in literal and BAD_ESCAPE.search(literal):
            raise wrong("bad_value", f"{shown(text)} has a '%' that is no escape", "%25 for a percent sign")
        if match[2]:
            if literal[-1] == "/":
                return PathPattern("prefix", literal[:-1], ("*",))
        else:
            return PathPattern("exact", literal)
    return parse_special(text)


def parse_special(text: str) -> PathPattern:
    if len(text) > MAX_PATH:
        raise wrong("bad_value", "the path is too long", f"at most {MAX_PATH} characters")
    if text.startswith("~"):
        regex = text[1:].strip()
        if not regex:
            raise wrong("bad_regex", "a '~' without a regular expression", "'~ /v[0-9]+/.*'")
        compiled = compile_regex(regex)
        bound_captures(len(compiled.groupindex))
        names = tuple(sorted(compiled.groupindex, key=lambda name: compiled.groupindex[name]))
        return PathPattern("regex", "", names, (), regex)
    if not text.startswith("/"):
        raise wrong("bad_value", f"the path {shown(text)} does not begin with '/'", EXPECTED)
    return parse_segments(text)


def bound_captures(count: int) -> None:
    if count > MAX_CAPTURES:
        raise wrong("out_of_range", f"the path has {count} captures", f"at most {MAX_CAPTURES}, a '*' among them")


def parse_segments(text: str) -> PathPattern:
    pieces = split_segments(text)
    segments: list[Segment] = []
    captures: list[str] = []
    for number, piece in enumerate(pieces):
        if piece == "*":
            if number != len(pieces) - 1:
                raise wrong("bad_value", f"the '*' in {shown(text)} is not the last segment", EXPECTED)
            segment = Segment("rest", "", "*")
        elif piece.startswith("{"):
            segment = parse_capture(piece, text)
        elif LITERAL.match(piece):
            segment = Segment("literal", piece)
        else:
            raise wrong(
                "bad_value", f"the segment {shown(piece)} of the path {literal_problem(piece)}", EXPECTED
            )
        if segment.name:
            if segment.name in captures:
                raise wrong(
                    "duplicate_name",
                    f"the capture {{{segment.name}}} stands twice in the path",
                    "distinct names",
                )
            captures.append(segment.name)
        segments.append(segment)
    bound_captures(len(captures))
    literal = ""
    for segment in segments:
        if segment.kind != "literal":
            break
        literal += "/" + segment.text
    return PathPattern("template", literal, tuple(captures), tuple(segments))


def literal_problem(piece: str) -> str:
    if "*" in piece:
        return "has a '*' among other characters"
    if "{" in piece or "}" in piece:
        return "has a capture among other characters"
    if "?" in piece or "#" in piece:
        return "has a query or fragment: match these with `query:`"
    if any(ord(c) > 126 for c in piece):
        return f"is not ASCII: write it as {quote(piece, safe='')[:200]}"
    return "has a character that no path has"


def split_segments(text: str) -> list[str]:
    """Splits at slashes that are not inside braces."""
    pieces = [""]
    depth = 0
    escaped = False
    for c in text[1:]:
        if c == "/" and not depth:
            pieces.append("")
            continue
        if depth and escaped:
            escaped = False
        elif depth and c == "\\":
            escaped = True
        elif c == "{":
            depth += 1
        elif c == "}":
            depth -= 1
            if depth < 0:
                break
        pieces[-1] += c
    if depth:
        raise wrong("bad_value", f"the braces of {shown(text)} do not match", EXPECTED)
    return pieces


def parse_capture(piece: str, text: str) -> Segment:
    if not piece.endswith("}"):
        raise wrong(
            "bad_value",
            f"the segment {shown(piece)} of the path has a capture among other characters",
            "a capture that is a whole segment",
        )
    name, colon, regex = piece[1:-1].partition(":")
    if not CAPTURE.match(name):
        raise wrong("bad_value", f"{shown(piece)} has no proper name", "{name} of letters, digits and '_'")
    if not colon:
        return Segment("param", "", name)
    if "/" in regex:
        raise wrong(
            "bad_regex",
            f"the regex of {{{name}}} has a '/', and a capture is one segment",
            "'~ regex' for the whole path",
        )
    compile_regex(regex)
    return Segment("regex", regex, name)


class Capture(NamedTuple):
    """A `{name}` in a rewrite."""

    name: str


class Rewrite(NamedTuple):
    """A rewrite taken apart: literal text and captures, for the path and for the query (empty when none)."""

    source: str
    path: tuple[str | Capture, ...]
    query: tuple[str | Capture, ...]

    @property
    def captures(self) -> tuple[str, ...]:
        return tuple(part.name for part in (*self.path, *self.query) if isinstance(part, Capture))


REWRITE_CAPTURE = re.compile(r"\{([^{}]*)\}")
REWRITE_TEXT = re.compile(r"[!$&'()+,\-./0-9:;=@A-Z_a-z~%]*\Z")
REWRITE_QUERY = re.compile(r"[!$&'()+,\-./0-9:;=@A-Z_a-z~%?]*\Z")
EXPECTED_REWRITE = "/path/{capture}?name={capture}"


def parse_rewrite(value: object) -> Rewrite:
    """`/api/catalog/item?id={id}`; captures are checked against the route's path elsewhere."""
    if isinstance(value, Rewrite):
        return value
    if not isinstance(value, str) or len(value) > MAX_PATH:
        raise wrong("wrong_type", f"{shown(value)} is not a rewrite", EXPECTED_REWRITE)
    if not value.startswith("/"):
        raise wrong("bad_value", f"the rewrite {shown(value)} does not begin with '/'", EXPECTED_REWRITE)
    path, _, query = str(value).partition("?")
    return Rewrite(str(value), rewrite_parts(path, REWRITE_TEXT), rewrite_parts(query, REWRITE_QUERY))


def rewrite_parts(text: str, allowed: re.Pattern[str]) -> tuple[str | Capture, ...]:
    parts: list[str | Capture] = []
    for number, piece in enumerate(REWRITE_CAPTURE.split(text)):
        if number % 2:
            if piece != "*" and not CAPTURE.match(piece):
                raise wrong("bad_value", f"{{{piece[:60]}}} is not the name of a capture", EXPECTED_REWRITE)
            parts.append(Capture(piece))
        elif piece:
            if not allowed.match(piece) or BAD_ESCAPE.search(piece):
                raise wrong(
                    "bad_value",
                    f"{shown(piece)} can not stand in a rewrite as it is",
                    "ASCII, with %XX for what a URL can not hold",
                )
            parts.append(piece)
    return tuple(parts)
