"""What `fastgw check` says though nothing is wrong: what follows from what was chosen, in numbers."""

from __future__ import annotations

from itertools import chain

from fastgw.config import Config, Problem
from fastgw.config.errors import dotted
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
    return found
