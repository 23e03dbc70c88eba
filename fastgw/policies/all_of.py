"""`all_of`: several ways to say who calls, all of them needed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastgw._core.compose import AllOf as NativeAllOf
from fastgw._core.exchange import Hook
from fastgw.config.registry import Reference
from fastgw.policies._members import Composed, hooks, prepared, references, sources
from fastgw.policies.base import Policy


class AllOfOptions(Composed):
    """Which."""


class AllOf(Policy):
    """Asks its policies in order; the first refusal is the answer.

    Who calls is what the last one says that names somebody; claims stay those of a token before it. Useful within
    `any_of`; on a route of its own the policies may as well stand one after the other. Failure: closed.
    """

    name = "all_of"
    Options = AllOfOptions
    identifies = True
    options: AllOfOptions

    @classmethod
    def references(cls, options: AllOfOptions) -> Iterable[Reference]:
        return references(options)

    @classmethod
    def sources(cls, options: AllOfOptions) -> Iterable[Any]:
        return sources(options)

    @classmethod
    def prepare(cls, options: AllOfOptions) -> Composed:
        return prepared(options)

    def hook(self) -> Hook:
        paths = [path.encode() for path in self.options.excluded_paths]
        return NativeAllOf(self.name, hooks(self.options.policies, self.context), paths)
