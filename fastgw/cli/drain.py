"""`fastgw drain`"""

from __future__ import annotations

import argparse

from fastgw.cli.admin_client import add_arguments, ask, show


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "drain",
        help="stop the gateway gracefully",
        description="What is in flight comes to its end within server.timeouts.drain; then the gateway ends.",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    answer = ask(args, "POST", "/drain")
    if answer is None:
        return 3
    show(answer[1])
    return 0 if answer[0] == 202 else 1
