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
        description="Works on a gateway that runs and whose configuration has `api_keys: {file: …}`; `list` on any. A "
        "new key is shown once. Exit code 0: done; 1: refused; 3: the admin listener does not answer.",
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
    for one in (create, listing, consumers, rotate, revoke):
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
                      (revoke, revoked), (digest, hashed)):  # fmt: skip
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
    answer = ask(args, "DELETE", f"/keys/{quote(args.id, safe='')}")
    code = tell(answer, 200)
    if code == 0 and answer is not None:
        show(answer[1])
    return code


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
    answer = ask(args, "GET", "/consumers")
    code = tell(answer, 200)
    if code == 0 and answer is not None:
        show(answer[1])
    return code


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
