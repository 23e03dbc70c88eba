"""Rate limits in the admin API.

    GET  /limits            the tables and their fill, what became of requests by limit, the policies and their keys
    POST /limits/state      {"policy": "orders/rate_limit/1", "key": ["ada"]}: how its limits stand for a key, whose
                            parts are in the order of `by`
    POST /limits/reset      the same: what the key has used is forgotten; requests under way stay counted

Limits that hosts share are looked up, and forgotten, in Redis: 503 `store_unavailable` when it does not answer.
"""

from __future__ import annotations

from typing import Any

import orjson

from fastgw.server.limits import LimitDesk, LimitProblem
from fastgw.store import StoreError

USAGE = 'The body is {"policy": "orders/rate_limit/1", "key": ["ada"]}.'


def concerns(path: str) -> bool:
    return path in ("/limits", "/limits/state", "/limits/reset")


async def answer(desk: LimitDesk, method: str, path: str, body: bytes) -> tuple[int, Any]:
    """Status and what is to be told; a tuple is a code and its detail."""
    if path == "/limits":
        return (200, desk.listing()) if method in ("GET", "HEAD") else (405, ("method_not_allowed", "Use GET."))
    if method != "POST":
        return 405, ("method_not_allowed", "Use POST.")
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError:
        given = None
    if not isinstance(given, dict) or set(given) != {"policy", "key"} or not isinstance(given["policy"], str):
        return 400, ("bad_request", USAGE)
    policy, values = given["policy"], given["key"]
    if not isinstance(values, list) or not all(isinstance(value, str) and len(value) <= 10_000 for value in values):
        return 400, ("bad_request", USAGE)
    try:
        if path == "/limits/reset":
            return 200, {"policy": policy, "key": values, "reset": await desk.reset(policy, values)}
        return 200, {"policy": policy, "key": values, "limits": await desk.state(policy, values)}
    except StoreError as error:
        return 503, ("store_unavailable", f"Redis did not answer ({error.reason}).")
    except LimitProblem as error:
        return 404 if "no policy" in str(error) else 400, ("bad_request", str(error))
