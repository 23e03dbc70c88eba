"""Banned addresses in the admin API.

    GET    /bans                  who may not come in, and for how long
    DELETE /bans/{address}        lets an address in again, at once; of an IPv6 address its whole /64
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from fastgw.server.shared import SharedMemory

MOST = 1000
"""Bans of an answer, those that last longest."""


def concerns(path: str) -> bool:
    return path == "/bans" or path.startswith("/bans/")


def answer(memory: SharedMemory, method: str, path: str) -> tuple[int, Any]:
    """Status and what is to be told; a text is a code."""
    if path == "/bans":
        return (200, listing(memory)) if method in ("GET", "HEAD") else (405, "method_not_allowed")
    if method != "DELETE":
        return 405, "method_not_allowed"
    address = unquote(path.removeprefix("/bans/")).removesuffix("/64")
    try:
        lifted = memory.bans.lift(memory.buckets, address)
    except ValueError:
        return 400, "bad_request"
    return (200, {"address": address, "lifted": True}) if lifted else (404, "not_banned")


def listing(memory: SharedMemory) -> dict[str, Any]:
    found = sorted(memory.bans.entries(), key=lambda one: -one[1])
    rows = [{"address": address, "seconds": round(left, 1), "status": status} for address, left, status in found[:MOST]]
    return {"count": len(found), "bans": rows}
