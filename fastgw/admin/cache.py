"""The cache in the admin API.

    GET  /cache                        how full it is, hits, evictions, purges
    GET  /cache/entries?prefix=&most=  what is in it, by the beginning of `host/path?query`; 100 answers, 1000 at most
    POST /cache/purge                  {"url": …} one and its variants, {"prefix": …}, {"tag": …} or {"all": true};
                                       with {"soft": true} they become stale and stay
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fastgw._core.cache_access import Access, CacheBusy
from fastgw._core.cache_store import Storage

LISTED = 100
SECOND = 1_000_000_000


class Purge(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    url: str | None = Field(None, min_length=1, max_length=16_384)
    prefix: str | None = Field(None, min_length=1, max_length=16_384)
    tag: str | None = Field(None, min_length=1, max_length=4096)
    all: bool = False
    soft: bool = False

    @model_validator(mode="after")
    def _one(self) -> Purge:
        if sum((self.url is not None, self.prefix is not None, self.tag is not None, self.all)) != 1:
            raise ValueError("one of url, prefix, tag and all")
        return self


def concerns(path: str) -> bool:
    return path == "/cache" or path.startswith("/cache/")


def answer(storage: Storage, method: str, path: str, query: str, body: bytes) -> tuple[int, Any]:
    """Status and what is to be told; a tuple is a code and a detail."""
    wanted = {"/cache": "GET", "/cache/entries": "GET", "/cache/purge": "POST"}.get(path)
    if wanted is None:
        return 404, ("not_found", "GET / lists what there is.")
    if method != wanted and not (method == "HEAD" and wanted == "GET"):
        return 405, ("method_not_allowed", f"Use {wanted}.")
    access = Access(storage)
    try:
        if path == "/cache":
            return 200, state(access)
        return listing(access, query) if path == "/cache/entries" else purge(access, body)
    except CacheBusy as error:
        return 503, ("cache_busy", str(error))


def state(access: Access) -> dict[str, Any]:
    stats = access.stats()
    asked = stats["hits"] + stats["misses"]
    return {**stats, "hit_rate": round(stats["hits"] / asked, 4) if asked else None}


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


def purge(access: Access, body: bytes) -> tuple[int, Any]:
    try:
        wish = Purge.model_validate(orjson.loads(body))
        if wish.url is not None:
            purged = access.purge_name(key_of(wish.url), wish.soft)
        elif wish.prefix is not None:
            purged = access.purge_prefix(key_of(wish.prefix), wish.soft)
        elif wish.tag is not None:
            purged = access.purge_tag(wish.tag.encode("latin-1"), wish.soft)
        else:
            purged = access.purge_all(wish.soft)
    except (orjson.JSONDecodeError, ValidationError, UnicodeEncodeError, ValueError):
        return 400, ("bad_request", 'The body is {"url": …}, {"prefix": …}, {"tag": …} or {"all": true}, and "soft".')
    return 200, {"purged": purged, "soft": wish.soft}


def key_of(url: str) -> bytes:
    """`https://Host/path?query`, or the same without a scheme, as the names of answers begin: `host/path?query`."""
    if "://" in url:
        parts = urlsplit(url)
        host, rest = parts.netloc, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    else:
        host, slash, rest = url.partition("/")
        rest = slash + rest
    return host.lower().encode("latin-1") + rest.encode()
