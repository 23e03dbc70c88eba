"""How the gateway speaks to an authorization server: forms to endpoints of a service (RFC 6749), answers in JSON.

The service is one of `services:`, with its TLS, pool, timeouts and health; the client behind the request is not part
of it. Errors never quote what was sent or what came back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote_plus, urlencode

from pydantic import model_validator

from fastgw._core.exchange import Exchange, Problem
from fastgw._core.subrequest import FetchError
from fastgw.config.fields import Duration, Name, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies.base import PolicySecret

logger = logging.getLogger("fastgw.oauth")
T = TypeVar("T")

MAX_ANSWER = 64 * 1024
MAX_TOKEN = 16 * 1024
TOKEN_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=")
LONGEST = 365 * 86400.0


class Refused(Exception):
    """The server answered, and said no: `error` is its word (RFC 6749 §5.2), `status` that of its answer."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(f"{status} {error}")
        self.status = status
        self.error = error

    @property
    def ours(self) -> bool:
        """Is it the gateway that is not let in, and not the one on whose behalf it asked?"""
        return self.status in (401, 403) or self.error in ("invalid_client", "unauthorized_client")


class Unreachable(Exception):
    """There was no answer, or none that makes sense."""


class OAuthClient(Room):
    """How the gateway asks an authorization server, and as whom."""

    service: Name = key(doc="The service that is the authorization server.", example="id")
    client_id: str = key(doc="Who the gateway is there.", min_length=1, max_length=500, example="gateway")
    client_secret: PolicySecret = key(doc="Its secret.", example="${CLIENT_SECRET}")
    client_auth: Literal["basic", "post"] = key(
        "basic", "How both are sent: in `Authorization: Basic` (RFC 6749 §2.3.1), or in the form."
    )
    timeout: Duration = key(5.0, "So long may an answer take.", ge=0.05, le=60)

    @model_validator(mode="after")
    def _has_secret(self) -> Any:
        if not self.client_secret:
            raise wrong("bad_value", "the `client_secret` is empty", "${CLIENT_SECRET}")
        return self


def post(exchange: Exchange, client: OAuthClient, path: str, form: Mapping[str, str]) -> Awaitable[dict[str, Any]]:
    """Sends the form now; the answer, or Refused or Unreachable, when it is awaited."""
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    secret = client.client_secret.reveal()
    if client.client_auth == "basic":
        # RFC 6749 §2.3.1: both are form-encoded first
        pair = f"{quote_plus(client.client_id)}:{quote_plus(secret)}".encode()
        headers["Authorization"] = f"Basic {b64encode(pair).decode()}"
    else:
        form = {**form, "client_id": client.client_id, "client_secret": secret}
    try:
        fetched = exchange.fetch(
            client.service, "POST", path, headers, urlencode(form).encode(), client.timeout, MAX_ANSWER
        )
    except FetchError as error:
        raise Unreachable(error.code) from None
    except ValueError:
        raise Unreachable("the endpoint has no path that can be asked for") from None
    return answer_of(fetched)


async def answer_of(fetched: Awaitable[Any]) -> dict[str, Any]:
    try:
        answer = await fetched
    except FetchError as error:
        raise Unreachable(error.code) from None
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        found = None
    if 400 <= answer.status < 500:
        word = found.get("error") if isinstance(found, dict) else None
        raise Refused(answer.status, word if isinstance(word, str) and word.isprintable() else "")
    if answer.status != 200 or not isinstance(found, dict):
        raise Unreachable(f"status {answer.status}")
    return found


def token_of(answer: Mapping[str, Any]) -> tuple[str, float]:
    """(access token, seconds it is good for; 0 when the server does not say). RFC 6749 §5.1"""
    token, seconds = answer.get("access_token"), answer.get("expires_in", 0)
    if not isinstance(token, str) or not 0 < len(token) <= MAX_TOKEN or not TOKEN_CHARACTERS.issuperset(token):
        raise Unreachable("the answer has no token")
    if str(answer.get("token_type", "bearer")).lower() not in ("bearer", "n_a"):
        raise Unreachable("the token is no bearer token")
    if isinstance(seconds, str) and seconds.isdigit():
        seconds = int(seconds[:12])
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < LONGEST:
        seconds = 0
    return token, float(seconds)


def unavailable(what: str) -> Problem:
    """The route cannot do without, and refuses."""
    detail = f"{what} cannot be asked."
    return Problem(503, "authorizer_unavailable", detail, headers={"Retry-After": "1"}, side=2)


class Expiring(Generic[T]):
    """A bounded memory in which each thing has its end. Two generations: see `_core/verified.pyx`. `now`: seconds."""

    def __init__(self, size: int, now: Callable[[], float] = time.monotonic) -> None:
        self.half = (size + 1) // 2
        self.now = now
        self.young: dict[Any, tuple[T, float]] = {}
        self.old: dict[Any, tuple[T, float]] = {}

    def __len__(self) -> int:
        return len(self.young) + len(self.old)

    def __repr__(self) -> str:
        return f"<Expiring {len(self)}>"

    def get(self, name: Any) -> T | None:
        found = self.young.get(name)
        if found is None:
            found = self.old.pop(name, None)
            if found is None:
                return None
            self.keep(name, found)
        if self.now() >= found[1]:
            self.young.pop(name, None)
            return None
        return found[0]

    def put(self, name: Any, thing: T, seconds: float) -> None:
        if seconds > 0:
            self.keep(name, (thing, self.now() + seconds))

    def keep(self, name: Any, found: tuple[T, float]) -> None:
        if self.half == 0:
            return
        if len(self.young) >= self.half:
            self.old, self.young = self.young, {}
        self.young[name] = found


class Flights(Generic[T]):
    """One question at a time for each thing: who asks for the same meanwhile gets the same answer. Whoever leaves
    cancels nothing. `most` questions may be under way."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.tasks: dict[Any, asyncio.Task[T]] = {}

    def under_way(self, name: Any) -> bool:
        return name in self.tasks

    @property
    def full(self) -> bool:
        return len(self.tasks) >= self.most

    def go(self, name: Any, ask: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """Begins, or joins. `ask` is called now, while the exchange is there."""
        task = self.tasks.get(name)
        if task is None:
            awaitable = ask()

            async def fly() -> T:
                return await awaitable

            task = self.tasks[name] = asyncio.get_running_loop().create_task(fly())
            task.add_done_callback(lambda done: self.landed(name, done))
        return task

    def landed(self, name: Any, task: asyncio.Task[T]) -> None:
        self.tasks.pop(name, None)
        if not task.cancelled():
            task.exception()                         # read: everybody who asked may have left
