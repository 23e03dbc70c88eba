"""`fastgw circuits [COMMAND SERVICE]`: circuit breakers of a running gateway."""

from __future__ import annotations

import argparse
import sys
from typing import Any
from urllib.parse import quote

from fastgw.cli.admin_client import add_arguments, ask, show

COLUMNS = ("service", "scope", "name", "state", "since", "next_probe", "refused", "reason")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "circuits",
        help="show, reset or force circuit breakers",
        description="Without a command: all of them. `-` as the service: those that routes have of their own.",
    )
    parser.add_argument("command", nargs="?", choices=("reset", "open", "close", "auto"))
    parser.add_argument("service", nargs="?")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--endpoint", metavar="URL", help="only that of this endpoint")
    which.add_argument("--route", metavar="NAME", help="only that of this route")
    parser.add_argument("--json", action="store_true")
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if (args.command is None) != (args.service is None):
        print("fastgw circuits: a command goes to a service: fastgw circuits reset SERVICE", file=sys.stderr)
        return 2
    if args.command is None:
        answer = ask(args, "GET", "/circuit-breakers")
    else:
        which = {name: getattr(args, name) for name in ("endpoint", "route") if getattr(args, name)}
        answer = ask(args, "POST", f"/circuit-breakers/{quote(args.service, safe='')}/{args.command}", body=which)
    if answer is None:
        return 3
    if answer[0] != 200 or args.json:
        show(answer[1])
        return 0 if answer[0] == 200 else 1
    print(table(answer[1]["circuit_breakers"]))
    return 0


def table(found: list[dict[str, Any]]) -> str:
    rows = [dict(zip(COLUMNS, COLUMNS, strict=True))]
    for one in found:
        name = one.get("endpoint") or one.get("route") or ""
        rows.append({column: cell(one.get(column, "")) for column in COLUMNS} | {"name": name})
    widths = {column: max(len(row[column]) for row in rows) for column in COLUMNS}
    return "\n".join("  ".join(row[column].ljust(widths[column]) for column in COLUMNS).rstrip() for row in rows)


def cell(value: Any) -> str:
    return "" if value is None else str(value)
