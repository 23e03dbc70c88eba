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


def ask(
    args: argparse.Namespace, method: str, path: str, seconds: float = 60, body: Any = None
) -> tuple[int, Any] | None:
    """Status and body; `body` is sent as JSON. None, with a word on stderr, when nobody answers."""
    host, _, port = args.admin.removeprefix("http://").rstrip("/").rpartition(":")
    headers = {"Authorization": f"Bearer {args.token}"} if args.token else {}
    try:
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=seconds)
        connection.request(method, path, None if body is None else orjson.dumps(body), headers)
        response = connection.getresponse()
        answer = response.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"fastgw: the admin listener at {args.admin} does not answer: {error}", file=sys.stderr)
        return None
    if response.status == 401:
        wrong = "another token" if args.token else "a token"
        print(f"fastgw: the admin listener wants {wrong} (--token, or $ADMIN_TOKEN)", file=sys.stderr)
    return response.status, orjson.loads(answer) if answer else None


def show_problems(facts: dict[str, Any]) -> None:
    """What an answer says is wrong with a configuration."""
    for problem in facts.get("problems") or [facts]:
        place = f"{problem['file']}:{problem['line']}:{problem['col']}: " if problem.get("line") else ""
        where = f" {problem['path']}" if problem.get("path") else ""
        text = problem.get("message") or problem.get("detail", "")
        text += f" (expected {problem['expected']})" if problem.get("expected") else ""
        text += f"; {problem['hint']}" if problem.get("hint") else ""
        print(f"{place}{problem.get('severity', 'error')}[{problem['code']}]{where}: {text}")


def show(value: Any) -> None:
    print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
