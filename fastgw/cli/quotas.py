"""`fastgw quotas [list | export NAME | grant NAME SUBJECT N | reset NAME SUBJECT]`: what a running gateway counts."""

from __future__ import annotations

import argparse
import csv
import sys
from typing import Any
from urllib.parse import quote

from fastgw.cli.admin_client import add_arguments, ask, show

COLUMNS = ("quota", "period", "subject", "plan", "used", "granted", "limit")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "quotas", help="show, export, grant or reset quotas", description="What a running gateway counts in Redis."
    )
    verbs = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands = {
        "list": verbs.add_parser("list", help="what is counted, and its period now (the default)"),
        "export": verbs.add_parser("export", help="who used how much in a period, for a bill"),
        "grant": verbs.add_parser("grant", help="so many more in this period; below 0 takes back"),
        "reset": verbs.add_parser("reset", help="forgets what somebody used in this period"),
    }
    for verb in ("export", "grant", "reset"):
        commands[verb].add_argument("name", help="of the quota")
    written = "2026-11, 2026-W47, 2026-11-21 or 2026-11-21T14+0100; by default this"
    commands["export"].add_argument("--period", help=written)
    commands["export"].add_argument("--format", choices=("csv", "json"), default="csv")
    for verb in ("grant", "reset"):
        commands[verb].add_argument("subject", help="a consumer, or what else the quota counts by")
    commands["grant"].add_argument("requests", type=int)
    for command in (parser, *commands.values()):
        add_arguments(command)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.command in (None, "list"):
        answer = ask(args, "GET", "/quotas")
    elif args.command == "export":
        period = f"/{quote(args.period, safe='')}" if args.period else ""
        answer = ask(args, "GET", f"/quotas/{quote(args.name, safe='')}/usage{period}")
    else:
        body: dict[str, Any] = {"subject": args.subject}
        if args.command == "grant":
            body["requests"] = args.requests
        answer = ask(args, "POST", f"/quotas/{quote(args.name, safe='')}/{args.command}", body=body)
    if answer is None:
        return 3
    status, value = answer
    if status == 200 and args.command == "export" and args.format == "csv":
        write_csv(value)
    else:
        show(value)
    return 0 if status == 200 else 1


def write_csv(value: dict[str, Any]) -> None:
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in value["usage"]:
        subject = f"'{row['subject']}" if row["subject"][:1] in "=+-@\t\r" else row["subject"]
        writer.writerow({"quota": value["quota"], "period": value["period"], **row, "subject": subject})
