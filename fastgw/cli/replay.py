"""`fastgw replay LOG NEW`: which recorded requests another configuration would route or refuse differently."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from typing import IO, Any

import orjson

from fastgw.cli.loading import load_or_print

DIFFERENT = 4
MAX_LINE = 1024 * 1024


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "replay",
        help="tell which requests of an access log another configuration would treat differently",
        description="Asks the router of NEW for each request of a JSON access log ('-': standard input) and compares "
        "route, service and refusal with what was recorded. What policies would do is not asked. A request whose route "
        "depends on something that was not recorded is undecidable: `access_log: {record_headers: …, record_cookies: "
        "…, fields: […, query]}` record it. Exit code 0: nothing is different; 4: something is; 1: NEW has problems.",
    )
    parser.add_argument("log", metavar="LOG")
    parser.add_argument("new", metavar="NEW")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--top", type=int, default=50, metavar="N", help="kinds that are listed (%(default)s)")
    parser.add_argument("--strict", action="store_true", help="exit code 4 for undecidable requests too")
    parser.set_defaults(run=run)


def records(stream: IO[bytes]) -> Iterator[Any]:
    """The lines; None for one that is no JSON or too long."""
    while line := stream.readline(MAX_LINE):
        if not line.endswith(b"\n") and len(line) == MAX_LINE:
            while (rest := stream.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            yield None
        elif line.strip():
            try:
                yield orjson.loads(line)
            except ValueError:
                yield None


def run(args: argparse.Namespace) -> int:
    from fastgw.plan.replay import Replay

    config = load_or_print(args.new)
    if config is None:
        return 1
    replay = Replay(config)
    try:
        with nullcontext(sys.stdin.buffer) if args.log == "-" else open(args.log, "rb") as stream:
            for record in records(stream):
                replay.take(record)
    except OSError as error:
        print(f"fastgw: {args.log} can not be read: {error.strerror}", file=sys.stderr)
        return 3
    report = replay.report
    undecidable = report.count("undecidable")
    facts = {
        "requests": report.lines - report.unreadable, "same": report.same, "different": report.different,
        "undecidable": undecidable, "unreadable": report.unreadable,
    }  # fmt: skip
    ranked = report.ranked()
    if args.json:
        groups = [asdict(group) for group in ranked[: args.top]]
        print(orjson.dumps({**facts, "groups": groups}, option=orjson.OPT_INDENT_2).decode())
    else:
        width = max((len(str(group.count)) for group in ranked), default=1)
        for group in ranked[: args.top]:
            example = f"e.g. {args.log}:{group.line} {group.example}"
            print(f"{group.count:>{width}}  {group.kind:<11}  {group.words}   {example}")
        if len(ranked) > args.top:
            print(f"and {len(ranked) - args.top} more kinds")
        print(", ".join(f"{count} {name}" for name, count in facts.items()))
    return DIFFERENT if report.different or (args.strict and undecidable) else 0
