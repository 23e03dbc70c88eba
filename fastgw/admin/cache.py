"""The cache in the admin API.

    GET  /cache                        how full it is, hits, evictions, purges; the levels behind the memory
    GET  /cache/entries?prefix=&most=  what is in it, by the beginning of `host/path?query`; 100 answers, 1000 at most
    POST /cache/purge                  {"url": …} one and its variants, {"prefix": …}, {"tag": …} or {"all": true};
                                       with {"soft": true} they become stale and stay
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import orjson
from pydantic import ValidationError

from fastgw._core.cache_access import Access, CacheBusy
from fastgw.server.purges import Purge, PurgeShare, key_of

Snapshots = Callable[[], Awaitable[Sequence[Mapping[str, Any]]]]
LISTED = 100
SECOND = 1_000_000_000


def concerns(path: str) -> bool:
    return path == "/cache" or path.startswith("/cache/")


async def answer(
    share: PurgeShare, snapshots: Snapshots, method: str, path: str, query: str, body: bytes
) -> tuple[int, Any]:
    """Status and what is to be told; a tuple is a code and a detail."""
    access = share.access
    wanted = {"/cache": "GET", "/cache/entries": "GET", "/cache/purge": "POST"}.get(path)
    if wanted is None:
        return 404, ("not_found", "GET / lists what there is.")
    if method != wanted and not (method == "HEAD" and wanted == "GET"):
        return 405, ("method_not_allowed", f"Use {wanted}.")
    try:
        if path == "/cache":
            return 200, {**state(access), **levels(await snapshots())}
        return listing(access, query) if path == "/cache/entries" else await purge(access, share, body)
    except CacheBusy as error:
        return 503, ("cache_busy", str(error))


def state(access: Access) -> dict[str, Any]:
    stats = access.stats()
    asked = stats["hits"] + stats["misses"]
    disk = access.storage.disk
    on_disk = {} if disk is None else {"disk": disk.view()}
    return {**stats, "hit_rate": round(stats["hits"] / asked, 4) if asked else None, **on_disk}


def levels(snapshots: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Those behind the memory, and purges that other hosts are told of; of all workers together."""
    views = [snapshot.get("cache", {}) for snapshot in snapshots]
    found = {}
    for name, by in (("levels", "level"), ("told", None)):
        rows: dict[Any, dict[str, Any]] = {}
        for row in (row for view in views for row in view.get(name, ())):
            rows[row.get(by)] = added(rows[row.get(by)], row) if row.get(by) in rows else dict(row)
        if rows:
            found[name] = list(rows.values())
    return found


def added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers are added; `ready` is what all are, `paused` what any is."""
    return {
        name: value and other[name] if name == "ready" else value or other[name] if isinstance(value, bool)
        else value + other[name] if isinstance(value, int) else value
        for name, value in one.items()
    }  # fmt: skip


def listing(access: Access, query: str) -> tuple[int, Any]:
    try:
        given = parse_qs(query, keep_blank_values=True, strict_parsing=True, max_num_fields=4) if query else {}
        prefix, most = given.pop("prefix", [""])[-1], int(given.pop("most", [str(LISTED)])[-1])
    except ValueError:
        given = {"": []}
    if given:
        return 400, ("bad_request", "The query is prefix=…&most=…, each of which may be left out.")
    now, rows = time.time_ns(), []
    for name, size, stored, expires, keep_until, uses in access.entries(key_of(prefix), max(most, 0)):
        url, _, variant = name.partition(b"\0")
        rows.append({
            "url": url.decode("latin-1"), "variant": bool(variant), "bytes": size, "uses": uses,
            "age": round((now - stored) / SECOND, 1), "fresh": round((expires - now) / SECOND, 1) if expires else 0,
            "kept": round((keep_until - now) / SECOND, 1),
        })  # fmt: skip
    return 200, {"count": len(rows), "entries": rows}


async def purge(access: Access, share: PurgeShare, body: bytes) -> tuple[int, Any]:
    try:
        wish = Purge.model_validate(orjson.loads(body))
    except (orjson.JSONDecodeError, ValidationError):
        return 400, ("bad_request", 'The body is {"url": …}, {"prefix": …}, {"tag": …} or {"all": true}, and "soft".')
    purged, told = wish.do(access), await share.tell(wish)
    if told is False:
        return 503, ("not_shared", f"{purged} answers were purged here; the other hosts could not be told: try again.")
    disk = access.storage.disk
    on_disk = {} if disk is None else {"disk": await disk.settled()}
    return 200, {"purged": purged, "soft": wish.soft, **on_disk}
