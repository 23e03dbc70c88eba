"""`fastgw mirrors [ROUTE]`"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from fastgw.cli.admin_client import add_arguments, ask, show


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "mirrors",
        help="show what became of copied requests, and how their answers differ",
        description="Without ROUTE: all routes that are mirrored. Exit code 0: no difference was found; 4: there are "
        "differences; 1: the route is not mirrored; 3: the gateway does not answer.",
    )
    parser.add_argument("route", nargs="?", metavar="ROUTE")
    parser.add_argument("--reset", action="store_true", help="forget what was found for ROUTE")
    parser.add_argument("--json", action="store_true")
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.reset:
        if args.route is None:
            print("fastgw mirrors: --reset wants a ROUTE")
            return 2
        answer = ask(args, "POST", f"/mirrors/{quote(args.route, safe='')}/reset")
    elif args.route is None:
        answer = ask(args, "GET", "/mirrors")
    else:
        answer = ask(args, "GET", f"/mirrors/{quote(args.route, safe='')}/report")
    if answer is None:
        return 3
    if answer[0] != 200:
        show(answer[1])
        return 1
    if args.json or args.reset:
        show(answer[1])
    else:
        for row in answer[1]:
            tell(row)
    return 0 if args.reset or not any(row.get("kinds") for row in answer[1]) else 4


def tell(row: Mapping[str, Any]) -> None:
    copies = ", ".join(f"{count} {name}" for name, count in row["copies"].items() if count) or "none yet"
    print(f"{row['route']} → {row['service']}  {row['share']:.2%} of its requests; copies: {copies}")
    if "compared" not in row:
        return
    compared = ", ".join(f"{count} {name}" for name, count in row["compared"].items() if count) or "none yet"
    print(f"  compared: {compared}; {row['kinds']} kinds of differences")
    for one in row.get("differences", ()):
        name = f" {one['name']}" if one["name"] else ""
        print(f"  {one['count']:>8} times {one['statuses']}  {one['part']}{name}: {one['what']}")
        for example in one["examples"]:
            print(
                f"             {example['method']} {example['path']} ({example['request_id']}): "
                f"{example['live']!r} → {example['shadow']!r}"
            )
