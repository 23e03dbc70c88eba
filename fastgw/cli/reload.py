"""`fastgw reload`"""

from __future__ import annotations

import argparse

from fastgw.cli.admin_client import add_arguments, ask, show, show_problems

RELOAD_SECONDS = 900.0
"""As long as the admin listener lets it take."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "reload",
        help="take the configuration file anew",
        description="All workers adopt the file as it is now, or none does. Exit code 1: it has problems.",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    answer = ask(args, "POST", "/config/reload", RELOAD_SECONDS)
    if answer is None:
        return 3
    status, facts = answer
    if status == 200:
        show(facts)
        return 0
    show_problems(facts)
    return 1
