"""`fastgw upgrade`"""

from __future__ import annotations

import argparse

from fastgw.cli.admin_client import add_arguments, ask, show
from fastgw.server.upgrade import SECONDS


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "upgrade",
        help="replace the running gateway by what is installed now, without a request lost",
        description="Executes the command line of the running gateway again: new code, new Python, the file read "
        "anew. The new one takes the sockets over; when all its workers serve, the old one drains. If it cannot serve, "
        "the old one goes on, and the answer says why (exit code 1).",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    answer = ask(args, "POST", "/upgrade", SECONDS + 60)
    if answer is None:
        return 3
    show(answer[1])
    return 0 if answer[0] == 200 else 1
