"""Sessions in the admin API: those of the policies `session` and `oidc` that are kept in Redis.

    GET    /sessions                   at most 1000, those that end last first
    DELETE /sessions/{name}/{id}       ends one; workers believe it for the policy's `interval` at most
    GET    /users/{user}/sessions      those of a user
    DELETE /users/{user}/sessions      ends them
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from fastgw.config import Config
from fastgw.store import StoreError
from fastgw.store.redis import RedisStore
from fastgw.store.sessions import SessionList

PATIENCE = 5.0


class SessionProblem(Exception):
    """`status` and `code` are for the answer."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code


def concerns(path: str) -> bool:
    return path == "/sessions" or path.startswith(("/sessions/", "/users/"))


async def answer(config: Config, method: str, path: str) -> tuple[int, Any]:
    """Status and what is to be told; a tuple is the code and the words of a problem."""
    try:
        return 200, await told(config, method, path)
    except SessionProblem as problem:
        return problem.status, (problem.code, str(problem))


async def told(config: Config, method: str, path: str) -> Any:
    parts = [unquote(part) for part in path.split("/")[1:]]
    listing = parts == ["sessions"]
    user = parts[1] if len(parts) == 3 and parts[0] == "users" and parts[2] == "sessions" else None
    one = len(parts) == 3 and parts[0] == "sessions"
    if not (listing or one or user is not None):
        raise SessionProblem(404, "not_found", "GET / lists what there is.")
    if method not in (("GET",) if listing else ("DELETE",) if one else ("GET", "DELETE")):
        raise SessionProblem(405, "method_not_allowed", f"{method} is not for this.")
    redis = config.stores.redis
    if redis is None:
        raise SessionProblem(409, "no_session_store", "Sessions are listed where they are kept in `stores.redis`.")
    longer = {"deadline": max(redis.deadline, PATIENCE), "timeout": max(redis.timeout, PATIENCE)}
    store = RedisStore(redis.model_copy(update=longer))
    try:
        return await asked(SessionList(store), method, parts, user)
    except StoreError as error:
        raise SessionProblem(503, "store_unavailable", f"The store does not answer ({error.reason}).") from None
    finally:
        await store.close()


async def asked(sessions: SessionList, method: str, parts: list[str], user: str | None) -> Any:
    if parts[0] == "sessions" and len(parts) == 3:
        if not await sessions.end(parts[1], parts[2]):
            raise SessionProblem(404, "unknown_session", "There is no such session.")
        return {"ended": [f"{parts[1]}/{parts[2]}"]}
    rows = await sessions.rows(user)
    if method == "GET":
        return rows
    ended: list[str] = []
    while rows:
        before = len(ended)
        for row in rows:
            name, _, number = row["id"].partition("/")
            if await sessions.end(name, number):
                ended.append(row["id"])
        if len(ended) == before:
            break
        rows = await sessions.rows(user)
    return {"ended": ended}
