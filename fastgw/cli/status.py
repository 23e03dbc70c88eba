"""`fastgw status`"""

from __future__ import annotations

import argparse

from fastgw.cli.admin_client import add_arguments, ask, show


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "status",
        help="show whether the gateway is ready, and its services",
        description="Exit code 0: ready; 1: it answers and is not ready; 3: it does not answer.",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    ready = ask(args, "GET", "/ready")
    if ready is None:
        return 3
    services = ask(args, "GET", "/services")
    show({**ready[1], "services": services[1] if services and services[0] == 200 else None})
    return 0 if ready[0] == 200 else 1
