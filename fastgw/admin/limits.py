"""Rate limits in the admin API.

    GET  /limits            the tables and their fill, what became of requests by limit, the policies and their keys
    POST /limits/state      {"policy": "orders/rate_limit/1", "key": ["ada"]}: how its limits stand for a key, whose
                            parts are in the order of `by`
    POST /limits/reset      the same: what the key has used is forgotten; requests under way stay counted
"""

from __future__ import annotations

from typing import Any

import orjson

from fastgw.server.limits import LimitDesk, LimitProblem

USAGE = 'The body is {"policy": "orders/rate_limit/1", "key": ["ada"]}.'


def concerns(path: str) -> bool:
    return path in ("/limits", "/limits/state", "/limits/reset")


def answer(desk: LimitDesk, method: str, path: str, body: bytes) -> tuple[int, Any]:
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
            return 200, {"policy": policy, "key": values, "reset": desk.reset(policy, values)}
        return 200, {"policy": policy, "key": values, "limits": desk.state(policy, values)}
    except LimitProblem as error:
        return 404 if "no policy" in str(error) else 400, ("bad_request", str(error))
