"""Traffic that a contract does not know, counted for operators: bounded, as it is clients who make it up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MOST = 500
"""Different entries of a worker; what comes beyond them is only counted."""
MAX_PATH = 200


class Ledger:
    """Counts by route, method, path, and what is wrong with it."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, str, str], int] = {}
        self.other = 0

    def add(self, route: str, method: str, path: str, what: str) -> None:
        entry = (route, method, path[:MAX_PATH], what)
        if entry in self.counts:
            self.counts[entry] += 1
        elif len(self.counts) < MOST:
            self.counts[entry] = 1
        else:
            self.other += 1

    def rows(self) -> dict[str, Any]:
        """What goes to other processes."""
        return {"rows": [[*entry, count] for entry, count in self.counts.items()], "other": self.other}


def report(ledgers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Those of all workers together, the most frequent first."""
    total: dict[tuple[str, str, str, str], int] = {}
    other = 0
    for ledger in ledgers:
        other += ledger["other"]
        for *entry, count in ledger["rows"]:
            route, method, path, what = entry
            total[route, method, path, what] = total.get((route, method, path, what), 0) + count
    ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    names = ("route", "method", "path", "what")
    rows = [{**dict(zip(names, entry, strict=True)), "count": count} for entry, count in ordered[:MOST]]
    return {"unknown": rows, "other": other + sum(count for _, count in ordered[MOST:])}
