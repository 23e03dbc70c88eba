"""What `fastgw check` says of policies by the number of workers: what follows from what was chosen, and what does not
fit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from fastgw.config import Config, Problem
from fastgw.config.errors import dotted
from fastgw.config.schema.routes import PolicyUse
from fastgw.policies.base import Policy


def notices(config: Config, workers: int) -> list[Problem]:
    """Those of policies, in the order of the file. `workers`: of one host."""
    found = []
    for use in chain(config.policies, *(route.policies for route in config.routes)):
        handler = use.spec.handler
        if not isinstance(handler, type) or not issubclass(handler, Policy):
            continue
        for text in handler.notices(use.options, workers):
            found.append(Problem("notice", "notice", config.file or "", use.line, use.col, dotted(use.path), text))
        if workers > 1:
            found += in_memory(config, use, handler, workers)
    return found


def in_memory(config: Config, use: PolicyUse, handler: type[Policy], workers: int) -> Iterator[Problem]:
    """Of a policy that keeps in one worker what requests find, or do not find, in another."""
    for kind, name, path in handler.references(use.options):
        if (kind, name) == ("store", "memory"):
            yield Problem(
                "warning", "memory_of_each_worker", config.file or "", use.line, use.col,
                dotted((*use.path, use.name, *path)),
                f"`memory` is each worker's own and there are {workers}: what {use.name} keeps in one of them is "
                "not there for a request that another one serves",
                "`store: redis`, or `server.workers: 1`",
            )  # fmt: skip
