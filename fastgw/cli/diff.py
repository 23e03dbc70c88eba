"""`fastgw diff OLD NEW`: what another configuration would change, in words."""

from __future__ import annotations

import argparse
from dataclasses import asdict

import orjson

from fastgw.cli.loading import load_or_print

DIFFERENT = 4


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "diff",
        help="tell in words what another configuration changes",
        description="Compares what two files mean, not how they are written: settings, listeners, services, consumers, "
        "policies, routes. Secrets are masked. Exit code 0: they mean the same; 4: they differ; 1: one of them has "
        "problems.",
    )
    parser.add_argument("old", metavar="OLD")
    parser.add_argument("new", metavar="NEW")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastgw.server.differences import differences

    old, new = load_or_print(args.old), load_or_print(args.new)
    if old is None or new is None:
        return 1
    found = differences(old, new)
    if args.json:
        print(orjson.dumps([asdict(change) for change in found], option=orjson.OPT_INDENT_2).decode())
    else:
        for change in found:
            print(change.text())
        if not found:
            print("They mean the same.")
    return DIFFERENT if found else 0
