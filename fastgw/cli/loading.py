"""What verbs that read a configuration share."""

from __future__ import annotations

import sys

from fastgw.config import Config


def load_or_print(file: str) -> Config | None:
    """The checked configuration; None, with every problem on stderr, when it has errors."""
    from fastgw.config import check
    from fastgw.policies import RESOLVER
    from fastgw.server.secret_sources import SOURCES

    config, problems = check(file, resolver=RESOLVER, secrets=SOURCES.reader())
    if config is None:
        for problem in problems:
            print(problem, file=sys.stderr)
    return config
