"""`fastgw status`"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from fastgw.cli.admin_client import add_arguments, ask, show


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "status",
        help="show whether the gateway is ready, and its services",
        description="Exit code 0: ready; 1: it answers and is not ready; 3: it does not answer.",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def words(service: Mapping[str, Any]) -> Iterator[str]:
    """A line for each service of which endpoints are watched, and one for each endpoint that is not asked."""
    watched = [endpoint for endpoint in service["endpoints"] if "state" in endpoint]
    if not watched:
        return
    out = [endpoint for endpoint in watched if endpoint["state"] in ("down", "ejected")]
    yield f"{service['name']}: {len(watched) - len(out)} of {len(watched)} endpoints are asked"
    for endpoint in out:
        since = "" if endpoint["since"] is None else f" for {endpoint['since']:.0f} s"
        left = f", {endpoint['ejected_for']:.0f} s more" if "ejected_for" in endpoint else ""
        yield f"{service['name']}: {endpoint['url']} is {endpoint['state']}{since}{left} ({endpoint['reason']})"


def run(args: argparse.Namespace) -> int:
    ready = ask(args, "GET", "/ready")
    if ready is None:
        return 3
    services = ask(args, "GET", "/services")
    told = services[1] if services and services[0] == 200 else None
    show({**ready[1], "health": [word for service in told or () for word in words(service)], "services": told})
    return 0 if ready[0] == 200 else 1
