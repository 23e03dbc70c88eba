"""What can be wrong with a configuration, as data: a list of `Problem`, all at once, sorted by position.

Every problem has a stable code (the table `CODES`), so that scripts can act on it, and a position whenever
the configuration came from text. No problem ever carries the value of a secret.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "notice"]
Path = tuple[str | int, ...]
"""Where a value is in the tree: ("routes", 3, "match", "path") is written routes[3].match.path."""

CODES = {
    "unreadable": "the file can not be opened or is larger than the bound",
    "syntax": "the text is not valid YAML",
    "duplicate_key": "one mapping has the same key twice",
    "alias_bomb": "aliases (*name) expand to more values than the file may hold",
    "env_unset": "an environment variable is not set and the reference has no default",
    "bad_reference": "a ${…} that is neither an environment variable nor a request template",
    "file_unreadable": "a file: reference can not be read",
    "unknown_key": "the key is not part of the format",
    "missing_key": "a key that must be there is not",
    "wrong_type": "the value has another type than the key wants",
    "out_of_range": "the value is outside the allowed range",
    "bad_choice": "the value is not one of the allowed words",
    "bad_value": "the value has the right type but can not be understood",
    "bad_regex": "the regular expression does not compile (RE2 syntax, linear time)",
    "bad_template": "a request template names something that does not exist",
    "bad_capture": "a rewrite or template uses a capture the path does not have",
    "conflict": "two keys say different things or exclude each other",
    "unknown_service": "the service is not declared",
    "unknown_policy": "no policy has this name",
    "unknown_plan": "no plan has this name",
    "duplicate_name": "two things have the same name",
    "duplicate_route": "two routes match exactly the same requests",
    "duplicate_credential": "two consumers have the same key",
    "no_target": "the route has no service, no split and no policy that answers",
    "not_implemented": "the format names it, this version does not have it",
    "order": "policies stand in an order that can not work as meant",
    "unused": "declared and used by nothing",
    "unreachable": "no request can match it",
    "no_effect": "the key is there and changes nothing",
    "unavailable": "what is needed from elsewhere cannot be had now",
    "exposed": "reachable from where it should not be",
    "bad_certificate": "a certificate, key, revocation list or staple can not be used",
    "key_mismatch": "a key, list or staple does not belong to the certificate beside it",
    "weak_key": "a key, signature or cipher is too weak to protect anything",
    "expired": "a certificate, list or staple is not valid now, or soon will not be",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `line` and `col` count from 1; both 0 when there is no text to point at."""

    severity: Severity
    code: str
    file: str
    line: int
    col: int
    path: str
    message: str
    expected: str = ""
    hint: str = ""

    def __str__(self) -> str:
        """`file:line:col: error[code] path: message (expected …); hint`, on one line."""
        where = f"{self.file}:{self.line}:{self.col}" if self.line else self.file
        text = f"{where}: {self.severity}[{self.code}] {self.path + ': ' if self.path else ''}{self.message}"
        if self.expected:
            text += f" (expected {self.expected})"
        if self.hint:
            text += f"; {self.hint}"
        return text

    def as_dict(self) -> dict[str, str | int]:
        return {name: getattr(self, name) for name in self.__slots__}


class ConfigError(Exception):
    """The configuration can not be used. `problems` has at least one error, and the warnings too."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(slots=True)
class Finding:
    """A problem while it is found: by path, the position is looked up at the end (`None` until then)."""

    code: str
    path: Path
    message: str
    expected: str = ""
    hint: str = ""
    severity: Severity = "error"
    at_key: bool = False
    mark: tuple[int, int] | None = None


def dotted(path: Path) -> str:
    """("routes", 3, "match") → "routes[3].match"; a key that is no plain word is quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part and all(c.isalnum() or c in "_-" for c in part):
            text += f".{part}" if text else part
        else:
            shown = part if len(part) <= 80 else part[:79] + "…"
            text += f"[{shown!r}]"
    return text


OTHER_WORDS = {"http2": "h2", "http/2": "h2", "grpcs": "h2", "grpc": "h2c", "http": "http/1.1", "http1": "http/1.1"}
"""What other gateways call it, where what looks most alike is something else."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'methods'?`, or an empty string when nothing known is near."""
    if len(word) > 100 or not any(map(str.isalpha, word)):
        return ""                                    # of numbers and versions the nearest one is not what was meant
    names = list(known)
    if OTHER_WORDS.get(word.lower()) in names:
        return f"did you mean {OTHER_WORDS[word.lower()]!r}?"
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    if near:
        return f"did you mean {lowered[near[0]]!r}?"
    inside = [name for name in names if len(word) > 3 and (word in name or name in word)]
    return f"did you mean {min(inside, key=len)!r}?" if inside else ""
