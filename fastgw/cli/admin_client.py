"""What `reload`, `status` and `drain` share: one request to the admin listener."""

from __future__ import annotations

import argparse
import http.client
import os
import sys
from typing import Any

import orjson


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--admin", default="127.0.0.1:9901", metavar="HOST:PORT", help="the admin listener (%(default)s)"
    )
    parser.add_argument(
        "--token", default=os.environ.get("ADMIN_TOKEN", ""), help="its token (default: $ADMIN_TOKEN)"
    )


def ask(args: argparse.Namespace, method: str, path: str, seconds: float = 60) -> tuple[int, Any] | None:
    """Status and body; None, with a word on stderr, when nobody answers."""
    host, _, port = args.admin.rpartition(":")
    headers = {"Authorization": f"Bearer {args.token}"} if args.token else {}
    try:
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=seconds)
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"fastgw: the admin listener at {args.admin} does not answer: {error}", file=sys.stderr)
        return None
    return response.status, orjson.loads(body) if body else None


def show(value: Any) -> None:
    print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
