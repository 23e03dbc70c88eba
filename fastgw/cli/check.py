"""`fastgw check FILE`: every problem at once."""

from __future__ import annotations

import argparse
import sys

import orjson


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("check", help="check a configuration", description="Exit code 1: it has errors.")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--strict-warnings", action="store_true", help="warnings are errors")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastgw.config import check
    from fastgw.plan.lint import lint
    from fastgw.policies import RESOLVER

    config, problems = check(args.file, resolver=RESOLVER)
    if config is not None:
        problems = sorted([*problems, *lint(config)], key=lambda p: (p.line, p.col))
    if args.format == "json":
        rows = [{name: getattr(p, name) for name in p.__slots__} for p in problems]
        print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
    else:
        for problem in problems:
            print(problem)
        if config is not None:
            print(f"{args.file}: ok, {len(config.routes)} routes, {len(config.services)} services", file=sys.stderr)
    return 1 if config is None or (problems and args.strict_warnings) else 0
