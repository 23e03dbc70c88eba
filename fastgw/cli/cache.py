"""`fastgw cache [purge …]`: the cache of a running gateway."""

from __future__ import annotations

import argparse
import sys
from typing import Any
from urllib.parse import urlencode

from fastgw.cli.admin_client import add_arguments, ask, show


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "cache",
        help="show what the cache holds, or purge it",
        description="Without a command: how full it is. `entries` lists answers by the beginning of their URL.",
    )
    parser.add_argument("command", nargs="?", choices=("entries", "purge"))
    parser.add_argument("--url", help="purge: this one, with its variants")
    parser.add_argument("--prefix", help="purge, entries: those whose URL begins so")
    parser.add_argument("--tag", help="purge: those with this tag")
    parser.add_argument("--all", action="store_true", help="purge: everything")
    parser.add_argument("--soft", action="store_true", help="purge: make stale what would be forgotten")
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    names = ("url", "prefix", "tag", "all")
    which: dict[str, Any] = {name: getattr(args, name) for name in names if getattr(args, name)}
    allowed = {None: 0, "entries": int("prefix" in which), "purge": 1}[args.command]
    if len(which) != allowed or (args.soft and args.command != "purge"):
        print("fastgw cache: purge takes one of --url, --prefix, --tag and --all (and --soft); entries takes --prefix",
              file=sys.stderr)  # fmt: skip
        return 2
    if args.command == "purge":
        answer = ask(args, "POST", "/cache/purge", body={**which, "soft": args.soft})
    elif args.command == "entries":
        answer = ask(args, "GET", "/cache/entries?" + urlencode({"prefix": args.prefix or "", "most": 1000}))
    else:
        answer = ask(args, "GET", "/cache")
    if answer is None:
        return 3
    show(answer[1])
    return 0 if answer[0] == 200 else 1
