"""The engine of `waf`: rules from YAML, searched in one pass, and the score of what they find."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fastgw.policies._agents import CLASSES
from fastgw.policies._patterns import PatternSet
from fastgw.policies._waf_text import PLAIN, Part, unquoted, variants
from fastgw.policies.base import PolicyError

SHIPPED = Path(__file__).with_name("waf_rules.yaml")
MAX_RULES = 1000
MAX_FILE = 1 << 20
Kind = Literal["path", "query", "body", "cookie", "header", "agent", "facts"]
EVERYWHERE: tuple[Kind, ...] = ("path", "query", "body", "cookie", "header")


class RuleText(BaseModel):
    """One rule of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    id: str = Field(pattern=r"^[a-z0-9-]{1,60}$")
    about: str = Field(min_length=1, max_length=300)
    score: int = Field(ge=1, le=100)
    level: int = Field(1, ge=1, le=2)
    places: tuple[Kind, ...] = Field(EVERYWHERE, alias="in", min_length=1)
    unquoted: bool = False
    pattern: str = Field(min_length=1, max_length=20_000)
    examples: tuple[str, ...] = ()
    ordinary: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        return self.id.partition("-")[0]


class Found(NamedTuple):
    """A rule that is about a part of the request."""

    rule: str
    score: int
    place: str


@dataclass(slots=True, frozen=True)
class Exclusion:
    """Rules (or groups of them) that do not hold in some places. None: in none."""

    rules: frozenset[str] | None
    places: frozenset[str] | None

    def covers(self, rule: RuleText, place: str) -> bool:
        if self.rules is not None and rule.id not in self.rules and rule.group not in self.rules:
            return False
        return self.places is None or place in self.places or place.partition(".")[0] in self.places


def read_rules(path: Path) -> tuple[RuleText, ...]:
    """PolicyError with the rule that is wrong."""
    try:
        text = path.read_bytes()[: MAX_FILE + 1]
        data = yaml.safe_load(text) if len(text) <= MAX_FILE else None
    except OSError as error:
        raise PolicyError(f"{path} can not be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise PolicyError(f"{path} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(data, list) or not 0 < len(data) <= MAX_RULES:
        raise PolicyError(f"{path} is not a list of 1 to {MAX_RULES} rules")
    rules: dict[str, RuleText] = {}
    for number, item in enumerate(data, 1):
        try:
            rule = RuleText.model_validate(item)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise PolicyError(f"{path}: rule {number}: {where}: {first['msg']}") from None
        if rule.id in rules:
            raise PolicyError(f"{path}: rule {number}: there is a rule {rule.id} already")
        rules[rule.id] = rule
    return tuple(rules.values())


def pattern_of(rule: RuleText) -> str:
    """In RE2's syntax; `^` and `$` are of lines, as parts are searched joined by line breaks first. `@scanners` stands
    for the words of that class of User-Agents; line breaks are for the reader."""
    words = "|".join(re.escape(word).replace("\\ ", "[ ]") for word in CLASSES["scanners"])
    lines = (line.strip() for line in rule.pattern.replace("@scanners", words).splitlines())
    return f"(?ims:{''.join(lines)})"


class Sets:
    """The patterns of rules as some sets. One set of all would be the fastest on ordinary texts; on others its
    automaton has as many states as those of its patterns multiplied, and to make them takes the time."""

    FEW = 6

    def __init__(self, rules: list[RuleText]) -> None:
        groups: dict[str, list[int]] = {}
        seen: Counter[str] = Counter()
        sizes = Counter(rule.group for rule in rules)
        for number, rule in enumerate(rules):
            name = rule.group if sizes[rule.group] >= self.FEW else "others"
            if name == "rce":                          # those multiply most
                name += str(seen[name] // self.FEW)
                seen["rce"] += 1
            groups.setdefault(name, []).append(number)
        self.sets = [(PatternSet([pattern_of(rules[n]) for n in numbers]), numbers) for numbers in groups.values()]

    def match(self, text: str) -> list[int]:
        return [numbers[found] for patterns, numbers in self.sets for found in patterns.match(text)]


class Engine:
    """The rules of one policy."""

    def __init__(self, rules: Iterable[RuleText], level: int = 1, exclusions: Iterable[Exclusion] = ()) -> None:
        exclusions = tuple(exclusions)
        self.exclusions = tuple(one for one in exclusions if one.places is not None)
        whole = [one for one in exclusions if one.places is None]
        wanted = [rule for rule in rules if rule.level <= level]
        self.rules = [rule for rule in wanted if not any(one.covers(rule, "") for one in whole)]
        self.patterns = Sets(self.rules)
        self.shell = [number for number, rule in enumerate(self.rules) if rule.unquoted]
        self.shell_patterns = PatternSet([pattern_of(self.rules[number]) for number in self.shell])

    def inspect(self, parts: Iterable[Part]) -> list[Found]:
        """What the rules find. One pass over all parts together; only when it finds something, each by itself."""
        looked: list[tuple[str, list[str], str]] = []
        texts: list[str] = []
        shells: list[str] = []
        for place, text in parts:
            if PLAIN.match(text):
                looked.append((place, [text], ""))
                texts.append(text)
                continue
            decoded = variants(text)
            plain = unquoted(decoded[-1])
            shell = plain if plain != decoded[-1] else ""
            looked.append((place, decoded, shell))
            texts += decoded
            if shell:
                shells.append(shell)
        if not looked:
            return []
        if not self.patterns.match("\n".join(texts)) and not (shells and self.shell_patterns.match("\n".join(shells))):
            return []
        return self.confirm(looked)

    def confirm(self, looked: list[tuple[str, list[str], str]]) -> list[Found]:
        found: dict[str, Found] = {}
        for place, decoded, shell in looked:
            numbers = {number for text in decoded for number in self.patterns.match(text)}
            if shell:
                numbers |= {self.shell[number] for number in self.shell_patterns.match(shell)}
            kind = place.partition(".")[0]
            for number in sorted(numbers):
                rule = self.rules[number]
                if kind not in rule.places or rule.id in found:
                    continue
                if not any(one.covers(rule, place) for one in self.exclusions):
                    found[rule.id] = Found(rule.id, rule.score, place)
        return list(found.values())


def score(found: Iterable[Found]) -> int:
    return sum(one.score for one in found)


@lru_cache(maxsize=1)
def shipped() -> tuple[RuleText, ...]:
    return read_rules(SHIPPED)


def names_of(rules: Iterable[RuleText]) -> frozenset[str]:
    """Ids and groups: what exclusions may name."""
    known: set[Any] = set()
    for rule in rules:
        known |= {rule.id, rule.group}
    return frozenset(known)
