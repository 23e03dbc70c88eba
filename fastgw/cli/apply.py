"""`fastgw apply FILE`: another configuration is put in force, at once or after a canary."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from fastgw.cli.admin_client import add_arguments, ask, show, show_problems

ANSWER_SECONDS = 900.0
"""As long as the admin listener lets it take."""
LOOK_SECONDS = 0.5
NOT_PROMOTED = 4


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "apply",
        help="put another configuration in force, at once or after it has served a share of the clients",
        description="FILE lies in the folder of the file in force; a reload reads it from now on. With --canary it "
        "first serves a share of the clients, in all workers; then it is promoted or returned by itself. Exit code 0: "
        "in force; 1: it has problems, or cannot be tried; 3: nobody answers; 4: it was returned or aborted.",
    )
    parser.add_argument("file", metavar="FILE", nargs="?")
    parser.add_argument("--canary", metavar="SHARE", help="the clients that it serves at first, such as 10%%")
    parser.add_argument("--watch", metavar="TIME", help="how long it is compared with the one in force (60s)")
    parser.add_argument(
        "--max-error-rate",
        metavar="RATE",
        help="1%%: failed requests at most; +1%%: more than of the one in force (+1%%)",
    )
    parser.add_argument(
        "--max-p99", metavar="TIME", help="500ms, or +20%%: more than of the one in force (not looked at)"
    )
    parser.add_argument(
        "--min-requests", metavar="N", type=int, help="fewer than that tell nothing: it is returned (100)"
    )
    parser.add_argument(
        "--by", metavar="WHO", help="who a client is: address, header:NAME or cookie:NAME (address)"
    )
    wish = parser.add_mutually_exclusive_group()
    wish.add_argument("--status", action="store_true", help="tell how it goes, or how it went")
    wish.add_argument("--promote", action="store_true", help="put in force what is tried")
    wish.add_argument("--abort", action="store_true", help="return what is tried")
    parser.add_argument("--json", action="store_true")
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    rules = {
        name: value
        for name in ("watch", "max_error_rate", "max_p99", "min_requests", "by")
        if (value := getattr(args, name)) is not None
    }
    asked = args.status or args.promote or args.abort
    if bool(args.file) == asked or (asked and (args.canary or rules)):
        print("fastgw apply: one of FILE, --status, --promote and --abort is needed", file=sys.stderr)
        return 2
    if rules and not args.canary:
        print("fastgw apply: " + ", ".join(f"--{name.replace('_', '-')}" for name in rules) + " is for --canary",
              file=sys.stderr)  # fmt: skip
        return 2
    if args.status:
        answer = ask(args, "GET", "/config/apply")
    elif asked:
        answer = ask(args, "POST", f"/config/apply/{'promote' if args.promote else 'abort'}", ANSWER_SECONDS)
    else:
        wish: dict[str, Any] = {"file": os.path.abspath(args.file)}
        if args.canary:
            wish["canary"] = {"share": args.canary, **rules}
        answer = ask(args, "POST", "/config/apply", ANSWER_SECONDS, wish)
    if answer is None:
        return 3
    status, facts = answer
    if status >= 400:
        show(facts) if args.json else show_problems(facts)
        return 1
    if asked:
        return told(facts, args)
    if "state" not in facts:
        return at_once(facts, args)
    return follow(facts, args)


def at_once(facts: Mapping[str, Any], args: argparse.Namespace) -> int:
    if args.json:
        show(facts)
        return 0
    print("\n".join(facts["changes"]) or "They mean the same.")
    print(f"Configuration {facts['generation']} is in force.")
    remarks(facts)
    return 0


def remarks(facts: Mapping[str, Any]) -> None:
    if facts.get("restart_needed"):
        print(f"These take effect at the next start: {', '.join(facts['restart_needed'])}.")
    if facts["file"] != facts["start_reads"]:
        print(f"A start reads {facts['start_reads']}: copy {facts['file']} there to keep it.")


def follow(report: dict[str, Any], args: argparse.Namespace) -> int:
    """Until it is decided. Ctrl-C leaves it alone: it goes on."""
    if not args.json:
        print("\n".join(report["changes"]))
        if report["at_promotion"]:
            print(f"Not tried, it comes with the promotion: {', '.join(report['at_promotion'])}.")
        print(f"{report['share']} of the clients are served by it for {report['watch']:g} s.", flush=True)
    begun = report["new"]["generation"], report["file"]
    try:
        while report["state"] == "watching":
            time.sleep(LOOK_SECONDS)
            answer = ask(args, "GET", "/config/apply")
            if answer is None:
                return 3
            report = answer[1]
    except KeyboardInterrupt:
        print("It goes on: see `fastgw apply --status`, end it with --promote or --abort.", file=sys.stderr)
        raise
    if report["state"] == "none" or (report["new"]["generation"], report["file"]) != begun:
        print("fastgw: the agent was replaced meanwhile: what was tried is returned", file=sys.stderr)
        return NOT_PROMOTED
    return told(report, args)


def told(report: dict[str, Any], args: argparse.Namespace) -> int:
    """Shows a report; the exit code that it means."""
    if args.json:
        show(report)
    else:
        from fastgw.server.canary import words

        print(words(report))
        if report["state"] == "promoted":
            remarks(report)
    return NOT_PROMOTED if report["state"] == "returned" or (report["state"] == "aborted" and not args.abort) else 0
