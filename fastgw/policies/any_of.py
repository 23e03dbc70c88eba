"""`any_of`: several ways to say who calls, of which one is enough."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastgw._core.compose import AnyOf as NativeAnyOf
from fastgw._core.exchange import Hook
from fastgw.config.registry import Reference
from fastgw.config.schema.base import key
from fastgw.policies._members import ANONYMOUS, Composed, hooks, named, prepared, references, sources
from fastgw.policies.base import Policy

ELSEWHERE = ("key_auth", "mtls")
"""Policies that look for a credential elsewhere than in Authorization."""


class AnyOfOptions(Composed):
    """Which ways, and whether one is needed at all."""

    optional: bool = key(
        False,
        "Requests without any credential pass too, as the consumer `anonymous` where the file has one, else as nobody. "
        "A credential that is wrong is refused all the same.",
    )


class AnyOf(Policy):
    """Asks its policies in order; the first that does not refuse is enough.

    When all refuse the answer is the one that tells most: the way to a login, then 503 of one that could not find
    out, then 403, then 401 for a bad credential, then 401; a 401 has the challenges of all. A token that was found
    bad does not reach the service beside a good key. Order: before everything that asks who calls. Failure: closed.
    """

    name = "any_of"
    Options = AnyOfOptions
    identifies = True
    options: AnyOfOptions

    @classmethod
    def references(cls, options: AnyOfOptions) -> Iterable[Reference]:
        return references(options)

    @classmethod
    def sources(cls, options: AnyOfOptions) -> Iterable[Any]:
        return sources(options)

    @classmethod
    def prepare(cls, options: AnyOfOptions) -> Composed:
        return prepared(options)

    def hook(self) -> Hook:
        options = self.options
        return NativeAnyOf(
            self.name,
            hooks(options.policies, self.context),
            [path.encode() for path in options.excluded_paths],
            options.optional,
            named(self.context, ANONYMOUS) if options.optional else None,
            [member.name in ELSEWHERE for member in options.policies],
        )
