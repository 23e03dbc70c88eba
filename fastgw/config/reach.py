"""Can a request get there? Paths that normalisation never gives, and keys of a route that change nothing.

The question is put to the normaliser that requests go through, so that check and service can not disagree.
"""

from __future__ import annotations

import re
from typing import Any

import re2

from fastgw._core.route import MAX_DEPTH
from fastgw._core.target import normalize_target
from fastgw.config.errors import Finding, Path
from fastgw.config.pattern import PathPattern
from fastgw.config.schema import Config
from fastgw.config.schema.routes import Route

SUSPECT = re.compile(r"%|//|/\.")
"""What normalisation looks at twice. Paths without it, nearly all, are not looked at again."""
CAPTURED = "~{}~"
"""Stands for a capture: unreserved characters, which normalisation leaves alone."""


def sample(pattern: PathPattern) -> str:
    """A path that the pattern matches, as a client could send it; a placeholder for each capture."""
    if pattern.kind == "exact":
        return pattern.literal
    if pattern.kind == "prefix":
        return f"{pattern.literal}/{CAPTURED.format('*')}"
    return "/" + "/".join(CAPTURED.format(s.name) if s.name else s.text for s in pattern.segments)


def as_pattern(path: str, pattern: PathPattern) -> str:
    """The path with captures in the place of their placeholders, for a hint."""
    regexes = {segment.name: segment.text for segment in pattern.segments}
    for name in pattern.captures:
        written = "*" if name == "*" else f"{{{name}:{regexes[name]}}}" if regexes[name] else f"{{{name}}}"
        path = path.replace(CAPTURED.format(name), written)
    return path


def normal_form(text: str, config: Config) -> str | None:
    """What the gateway makes of a path; None when it refuses it."""
    server = config.server
    found = normalize_target(text.encode(), server.path_normalization, server.merge_slashes)
    return None if found is None else found[0].decode()


def never(where: Path, text: str, config: Config, normal: str | None, hint: str) -> Finding:
    mode = f"`path_normalization: {config.server.path_normalization}`"
    if normal is None:
        return Finding("unreachable", where, f"no request has the path {text!r}: {mode} refuses it", "another path")
    return Finding("unreachable", where, f"no request has the path {text!r}: {mode} changes it", hint)


def reachable(route: Route, pattern: PathPattern, config: Config, where: Path) -> Finding | None:
    """What is wrong with a path that nothing can match. `where` is the place of the path in the file."""
    if pattern.kind == "regex":
        if can_begin(pattern.regex, "/"):
            return None
        return Finding(
            "unreachable", where, "matches no path: a regex has to match all of it, the '/' it begins with too",
            "'~ /v[0-9]+/.*'",
        )  # fmt: skip
    text = sample(pattern)
    if text.count("/") > MAX_DEPTH:
        segments = text.count("/") - (pattern.captures[-1:] == ("*",))
        if segments > MAX_DEPTH:
            return Finding(
                "unreachable",
                where,
                f"has {segments} segments, and the router looks at {MAX_DEPTH}",
                f"at most {MAX_DEPTH} segments, and '/*' for the rest",
            )
    if SUSPECT.search(text) is None:
        return None
    normal = normal_form(text, config)
    if normal == text:
        return None
    return never(where, str(route.path), config, normal, as_pattern(normal or "", pattern))


def reachable_endpoint(text: str, config: Config, where: Path) -> Finding | None:
    """The same for the path of a public endpoint, which is compared whole."""
    normal = normal_form(text, config)
    return None if normal == text else never(where, text, config, normal, normal or "")


def slash_effect(route: Route, pattern: PathPattern, where: Path) -> Finding | None:
    """`trailing_slash` is for paths with an end: not for `/x/*`, a regex, or the root, which has no other form."""
    if route.trailing_slash == "strict":
        return None
    if pattern.kind == "regex":
        reason = "the regex says itself which slashes it takes"
    elif pattern.captures[-1:] == ("*",):
        reason = "a path that ends in '/*' takes both forms"
    elif pattern.literal == "/":
        reason = "'/' has no other form"
    else:
        return None
    return Finding("no_effect", where, f"changes nothing: {reason}", "no `trailing_slash`", severity="warning")


def add_effect(route: Route, where: Path) -> Finding | None:
    if route.add_prefix != "":
        return None
    message = "changes nothing: '/' is no prefix"
    return Finding("no_effect", where, message, "text, or no `add_prefix`", severity="warning")


def strip_effect(route: Route, pattern: PathPattern, config: Config, where: Path, given: Any) -> Finding | None:
    """`strip_prefix` that no path of the route begins with. `given` is as the file has it."""
    strip = route.strip_prefix
    if not strip or strip is True:
        reason = "the path has no literal part before its first capture" if given is True else "'/' is no prefix"
        message = f"changes nothing: {reason}"
        return Finding("no_effect", where, message, "text, or no `strip_prefix`", severity="warning")
    if pattern.kind != "regex":
        return None                           # it is a beginning of the path, or there is a finding already
    if SUSPECT.search(strip):
        normal = normal_form(strip, config)
        if normal != strip:
            return never(where, strip, config, normal, normal or "")
    if can_begin(pattern.regex, strip):
        return None
    return Finding(
        "no_effect", where, f"changes nothing: no path that the regex matches begins with {strip!r}",
        "a beginning of the path", severity="warning",
    )  # fmt: skip


def can_begin(regex: str, text: str) -> bool:
    """Could something that the regex matches begin with the text? True when in doubt."""
    wanted = text.encode()
    try:
        low, high = re2.compile(f"^(?:{regex})").possiblematchrange(len(wanted) + 1)
    except re2.error:
        return True
    return bool(low[: len(wanted)] <= wanted <= high)
