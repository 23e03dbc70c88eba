"""`fastgw routes FILE`: the routes in the order in which the router considers them."""

from __future__ import annotations

import argparse

import orjson

from fastgw.cli.loading import load_or_print


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "routes",
        help="list the routes in matching order",
        description="More exact hosts first, then more exact paths, then more predicates, then the order of the file.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastgw.plan.precedence import Precedence
    from fastgw.plan.routing import predicates_of

    config = load_or_print(args.file)
    if config is None:
        return 1

    rows = []
    for route in sorted(config.routes, key=Precedence(config).listed):
        target = route.service or ", ".join(f"{share.service} {share.weight}" for share in route.split)
        rows.append(
            {
                "name": route.name,
                "host": ", ".join(route.host) or "*",
                "methods": ", ".join(route.methods) or "*",
                "path": route.path or "/*",
                "predicates": len(predicates_of(route)),
                "service": target or "-",
                "policies": ", ".join(use.name for use in config.chain(route)) or "-",
                "line": route.line,
            }
        )
    if args.json:
        print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return 0
    columns = ("name", "host", "methods", "path", "predicates", "service", "policies", "line")
    widths = [max(len(column), *(len(str(row[column])) for row in rows)) for column in columns]
    print("  ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True)).rstrip())
    for row in rows:
        print("  ".join(str(row[c]).ljust(w) for c, w in zip(columns, widths, strict=True)).rstrip())
    return 0
