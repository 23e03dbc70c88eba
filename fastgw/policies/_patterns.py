"""Many regular expressions, searched in one pass by RE2: time is linear in the text, whatever the expressions are."""

from __future__ import annotations

from typing import Any

import re2

from fastgw.policies.base import PolicyError

MAX_MEM = 16 << 20
"""Bytes that one set's automaton may take."""


class PatternSet:
    """`PatternSet(patterns).match(text)`: the numbers of those that are found in it.

    Patterns are in RE2 syntax. With `latin1` they and the texts are bytes.
    """

    def __init__(self, patterns: list[str], *, ignore_case: bool = True, latin1: bool = False) -> None:
        options = re2.Options()
        options.case_sensitive = not ignore_case
        options.log_errors = False
        options.max_mem = MAX_MEM
        if latin1:
            options.encoding = re2.Options.Encoding.LATIN1
        self.set = re2.Set.SearchSet(options)
        self.single: list[Any] = []
        for pattern in patterns:
            try:
                self.set.Add(pattern.encode("latin-1") if latin1 else pattern)
                self.single.append(re2.compile(pattern.encode("latin-1") if latin1 else pattern, options))
            except (re2.error, UnicodeError):
                raise PolicyError(f"the regular expression {pattern[:80]!r} does not compile") from None
        # a search that gives up for want of memory says the same as one that finds nothing: this one is always found
        self.sentinel = self.set.Add("")
        try:
            self.set.Compile()
        except re2.error:
            raise PolicyError("the regular expressions are too large together") from None

    def match(self, text: str | bytes) -> list[int]:
        """In ascending order."""
        found: list[int] | None = self.set.Match(text)
        if found is None or self.sentinel not in found:
            return [number for number, one in enumerate(self.single) if one.search(text) is not None]
        if len(found) == 1:
            return []
        return sorted(number for number in found if number != self.sentinel)
