"""Consumers and API keys in the admin API.

    GET    /consumers             who may ask, and how often they did
    GET    /keys                  all keys, without anything by which they could be used
    POST   /keys                  {"consumer": …, "scopes": […], "lifetime": SECONDS, "note": …}: 201, with the key
    POST   /keys/{id}/rotate      {"overlap": SECONDS}: 201, with a new key; the old one holds so long
    DELETE /keys/{id}             revokes it, at once

Where the configuration has `api_keys: {store: …}`, for all hosts:

    POST   /consumers             {"name": …, "groups": […], "plan": …, "scopes": […], "metadata": {…}}: 201, in the
                                  place of one with this name
    DELETE /consumers/{name}
    GET    /plans                 those of the configuration too
    POST   /plans                 {"name": …, "scopes": […], "metadata": {…}}
    DELETE /plans/{name}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import unquote

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fastgw.config.fields import Name
from fastgw.config.schema.consumers import Scope
from fastgw.server.key_desk import KeyDesk
from fastgw.server.keys import MAX_NOTE, KeyProblem

LONGEST = 10 * 365 * 86400.0


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class NewKey(Asked):
    """Body of `POST /keys`."""

    consumer: str = Field(max_length=200)
    scopes: list[Scope] | None = Field(None, max_length=1000)
    lifetime: float | None = Field(None, gt=0, le=LONGEST)
    note: str = Field("", max_length=MAX_NOTE)


class NewConsumer(Asked):
    """Body of `POST /consumers`."""

    name: Name
    groups: list[Name] = Field([], max_length=1000)
    plan: Name | None = None
    scopes: list[Scope] | None = Field(None, max_length=1000)
    metadata: dict[str, Annotated[str, StringConstraints(max_length=1000)] | int | float | bool] = Field(
        {}, max_length=100
    )


class NewPlan(Asked):
    """Body of `POST /plans`."""

    name: Name
    scopes: list[Scope] = Field([], max_length=1000)
    metadata: dict[str, Annotated[str, StringConstraints(max_length=1000)] | int | float | bool] = Field(
        {}, max_length=100
    )


class Rotation(Asked):
    """Body of `POST /keys/{id}/rotate`."""

    overlap: float | None = Field(None, ge=0, le=LONGEST)


def concerns(path: str) -> bool:
    return path in ("/consumers", "/keys", "/plans") or path.startswith(("/keys/", "/consumers/", "/plans/"))


def body_of(kind: type[Asked], body: bytes) -> dict[str, Any]:
    try:
        return kind.model_validate(orjson.loads(body) if body.strip() else {}).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise KeyProblem(400, "bad_request", f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except ValueError:
        raise KeyProblem(400, "bad_request", "The body is not JSON.") from None


def shared(desk: KeyDesk, kind: str, method: str, name: str, body: bytes) -> tuple[str, int, Callable[[], Any]]:
    """Consumers and plans: the method, the status, and what is to be done."""
    people = kind == "consumers"
    if name:
        return "DELETE", 200, lambda: desk.drop_consumer(name) if people else desk.drop_plan(name)
    if method == "POST":
        asked = body_of(NewConsumer if people else NewPlan, body)
        return "POST", 201, lambda: desk.put_consumer(asked) if people else desk.put_plan(asked)
    return "GET", 200, desk.consumers if people else desk.plans


async def answer(desk: KeyDesk, method: str, path: str, body: bytes) -> tuple[int, Any]:
    """Status and what is to be told. KeyProblem when it cannot be done; `None` as status: the method is wrong."""
    kind, _, rest = path.removeprefix("/").partition("/")
    name, _, verb = rest.partition("/")
    wanted: tuple[str, int, Callable[[], Any]]
    if kind != "keys":
        wanted = shared(desk, kind, method, unquote(rest), body)
    elif path == "/keys" and method == "POST":
        asked = body_of(NewKey, body)
        wanted = ("POST", 201, lambda: desk.create(asked))
    elif path == "/keys":
        wanted = ("GET", 200, lambda: list(desk.rows()))
    elif verb == "rotate":
        overlap = body_of(Rotation, body)["overlap"]
        wanted = ("POST", 201, lambda: desk.rotate(name, overlap))
    elif not verb:
        wanted = ("DELETE", 200, lambda: desk.revoke(name))
    else:
        raise KeyProblem(404, "not_found", "GET / lists what there is.")
    expected, status, do = wanted
    if method != expected:
        raise KeyProblem(405, "method_not_allowed", f"Use {expected}.")
    return status, await desk.run(do)

