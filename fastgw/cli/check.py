"""`fastgw check FILE`: every problem at once."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "check",
        help="check a configuration",
        description="Tells every problem of a configuration at once. Exit code 0: it can be used; 1: it has errors.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="text: for people on a terminal, a line per problem elsewhere",
    )
    parser.add_argument("--strict-warnings", action="store_true", help="warnings are errors")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastgw.config import check
    from fastgw.config.report import as_excerpts, as_json, as_lines
    from fastgw.plan.lint import lint
    from fastgw.plan.notices import notices
    from fastgw.policies import RESOLVER
    from fastgw.server.compiled import worker_count
    from fastgw.server.secret_sources import SOURCES

    config, problems = check(args.file, resolver=RESOLVER, secrets=SOURCES.reader())
    if config is not None:
        found = [*problems, *lint(config), *notices(config, worker_count(config))]
        problems = sorted(found, key=lambda p: (p.line, p.col))
    if args.format == "json":
        print(as_json(problems))
    else:
        if sys.stdout.isatty():
            text = source_text(args.file) if problems else ""
            color = "NO_COLOR" not in os.environ
            print(as_excerpts(problems, text, RESOLVER, color=color), end="")
        else:
            print(as_lines(problems), end="")
        if config is not None:
            print(f"{args.file}: ok, {len(config.routes)} routes, {len(config.services)} services", file=sys.stderr)
    strict = args.strict_warnings and any(problem.severity == "warning" for problem in problems)
    return 1 if config is None or strict else 0


def source_text(file: str) -> str:
    """The text the problems are about, or nothing when it can not be read (which is then the problem)."""
    try:
        return Path(file).read_text("utf-8-sig")
    except (OSError, ValueError):
        return ""
