"""`fastgw keys …`: API keys of a gateway that runs, and hashes for the configuration."""

from __future__ import annotations

import argparse
import hashlib
import sys
from typing import Any
from urllib.parse import quote

import orjson

from fastgw.cli.admin_client import add_arguments, ask, show


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "keys",
        help="create, list, rotate and revoke API keys",
        description="Works on a gateway that runs and whose configuration has `api_keys` with a `file` or a `store`; "
        "`list` on any. A new key is shown once. Exit code 0: done; 1: refused; 3: the admin listener does not answer.",
    )
    verbs = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    create = verbs.add_parser("create", help="a new key for a consumer of the configuration")
    create.add_argument("consumer", metavar="CONSUMER")
    create.add_argument("--scope", action="append", metavar="SCOPE", help="what it may do; again for more")
    create.add_argument("--lifetime", metavar="DURATION", help="such as 90d; default: api_keys.lifetime")
    create.add_argument("--note", default="", metavar="TEXT")
    listing = verbs.add_parser("list", help="all keys, with how often they were used")
    listing.add_argument("--json", action="store_true")
    consumers = verbs.add_parser("consumers", help="all consumers")
    rotate = verbs.add_parser("rotate", help="a new key in the place of one, which holds for a while longer")
    rotate.add_argument("id", metavar="ID")
    rotate.add_argument("--overlap", metavar="DURATION", help="default: api_keys.overlap")
    revoke = verbs.add_parser("revoke", help="ends a key at once")
    revoke.add_argument("id", metavar="ID")
    consumer = verbs.add_parser("consumer", help="a consumer for all hosts, where `api_keys` has a store")
    consumer.add_argument("name", metavar="NAME")
    consumer.add_argument("--group", action="append", metavar="GROUP", help="it is in; again for more")
    consumer.add_argument("--plan", metavar="PLAN")
    consumer.add_argument("--scope", action="append", metavar="SCOPE", help="what it may do; again for more")
    plan = verbs.add_parser("plan", help="a plan for all hosts, likewise")
    plan.add_argument("name", metavar="NAME")
    plan.add_argument("--scope", action="append", metavar="SCOPE", help="what its consumers may do; again for more")
    remove = verbs.add_parser("remove", help="removes a consumer, or a plan, of the store")
    remove.add_argument("kind", choices=("consumer", "plan"))
    remove.add_argument("name", metavar="NAME")
    for one in (create, listing, consumers, rotate, revoke, consumer, plan, remove):
        add_arguments(one)
    digest = verbs.add_parser(
        "hash", help="the hash of a key for `consumers`", description="Reads the key from the standard input."
    )
    password = verbs.add_parser(
        "password", help="the hash of a password for `consumers`", description="Reads it from the standard input. "
        "Argon2id with the library's costs."
    )  # fmt: skip
    password.set_defaults(run=hashed_password)
    for one, what in ((create, created), (listing, listed), (consumers, consumers_of), (rotate, rotated),
                      (revoke, revoked), (digest, hashed), (consumer, consumer_put), (plan, plan_put),
                      (remove, removed)):  # fmt: skip
        one.set_defaults(run=what)


def tell(answer: tuple[int, Any] | None, good: int) -> int:
    if answer is None:
        return 3
    status, body = answer
    if status != good:
        detail = body.get("detail") if isinstance(body, dict) else None
        print(f"fastgw: {detail or status}", file=sys.stderr)
        return 1
    return 0


def seconds(text: str | None) -> float | None:
    from fastgw.config.fields import parse_duration

    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        print(f"fastgw: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value not in (None, "")}


def new_key(answer: tuple[int, Any] | None) -> int:
    code = tell(answer, 201)
    if code == 0 and answer is not None:
        # the key alone on the standard output, for scripts; it is not told again
        key = answer[1].pop("key")
        print(orjson.dumps(answer[1], option=orjson.OPT_INDENT_2).decode(), file=sys.stderr)
        print(key)
    return code


def created(args: argparse.Namespace) -> int:
    body = given(consumer=args.consumer, scopes=args.scope, lifetime=seconds(args.lifetime), note=args.note)
    return new_key(ask(args, "POST", "/keys", body=body))


def rotated(args: argparse.Namespace) -> int:
    path = f"/keys/{quote(args.id, safe='')}/rotate"
    return new_key(ask(args, "POST", path, body=given(overlap=seconds(args.overlap))))


def revoked(args: argparse.Namespace) -> int:
    return told_all(ask(args, "DELETE", f"/keys/{quote(args.id, safe='')}"), 200)


def told_all(answer: tuple[int, Any] | None, good: int) -> int:
    code = tell(answer, good)
    if code == 0 and answer is not None:
        show(answer[1])
    return code


def consumer_put(args: argparse.Namespace) -> int:
    body = given(name=args.name, groups=args.group, plan=args.plan, scopes=args.scope)
    return told_all(ask(args, "POST", "/consumers", body=body), 201)


def plan_put(args: argparse.Namespace) -> int:
    return told_all(ask(args, "POST", "/plans", body=given(name=args.name, scopes=args.scope)), 201)


def removed(args: argparse.Namespace) -> int:
    return told_all(ask(args, "DELETE", f"/{args.kind}s/{quote(args.name, safe='')}"), 200)


def listed(args: argparse.Namespace) -> int:
    answer = ask(args, "GET", "/keys")
    code = tell(answer, 200)
    if code or answer is None:
        return code
    if args.json:
        show(answer[1])
        return 0
    form = "{:<24} {:<20} {:<9} {:<20} {:>8}  {}"
    print(form.format("ID", "CONSUMER", "STATE", "EXPIRES", "USES", "SCOPES"))
    for row in answer[1]:
        scopes = "-" if row["scopes"] is None else " ".join(row["scopes"])
        print(form.format(row["id"], row["consumer"], row["state"], row["expires"] or "-", row["uses"], scopes))
    return 0


def consumers_of(args: argparse.Namespace) -> int:
    return told_all(ask(args, "GET", "/consumers"), 200)


def hashed(args: argparse.Namespace) -> int:
    key = sys.stdin.readline().rstrip("\n")
    if not key:
        print("fastgw: no key came by the standard input", file=sys.stderr)
        return 2
    print("sha256:" + hashlib.sha256(key.encode()).hexdigest())
    return 0


def hashed_password(args: argparse.Namespace) -> int:
    from fastgw.policies._passwords import password_hash
    from fastgw.policies.base import PolicyError

    password = sys.stdin.readline().rstrip("\n")
    if not password:
        print("fastgw: no password came by the standard input", file=sys.stderr)
        return 2
    try:
        print(password_hash(password))
    except PolicyError as error:
        print(f"fastgw: {error}", file=sys.stderr)
        return 3
    return 0
