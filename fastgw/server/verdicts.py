"""What the policies that ask who calls, and what he may, say to one request: for `fastgw explain`.

They are built as a worker builds them and given the request's head, in this process: nobody outside is asked, nothing
is counted, and no socket is opened.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from types import SimpleNamespace
from typing import Any

import orjson

from fastgw._core.client_certificate import ClientCertificate
from fastgw._core.exchange import Problem, Verdict
from fastgw._core.key_auth import KeyTable
from fastgw._core.policy import PythonHook
from fastgw._core.probe import Probe
from fastgw.config import Config
from fastgw.config.schema.routes import PolicyUse, Route
from fastgw.plan.explain import Asked
from fastgw.plan.waiting import waits
from fastgw.policies.base import BuildContext, Policy, Shared
from fastgw.server.keys import read, usable

TRIED = frozenset(
    ["jwt", "key_auth", "hmac", "any_of", "all_of", "authorize", "acl", "abac", "identity", "ip", "basic_auth", "mtls"]
)
"""Policies that decide by themselves, by what stands in a head, or by a certificate."""
OUTSIDE = frozenset(["forward_auth", "opa", "oauth2_introspection", "oidc", "session"])
"""Those for which somebody outside decides, where a head alone does not."""
ALONE = frozenset(["basic_auth", "mtls"])
"""Of the first those that need something of a gateway: one a thread, the other a certificate of the connection."""
ASKED = "would_ask"
"""The code of a stand-in's refusal: somebody outside decides."""


def named(use: PolicyUse) -> set[str]:
    """The policies of a use: its own name, and those within it."""
    found = {use.name}
    pending = list(getattr(use.options, "policies", ()))
    while pending:
        member = pending.pop()
        found.add(member.name)
        pending += getattr(member.options, "policies", ())
    return found


def key_table(config: Config) -> KeyTable:
    """With the managed keys as their file has them now; broken when it cannot be read, or they are in a store, which is
    outside."""
    table = KeyTable()
    table.broken = config.api_keys.store is not None
    if config.api_keys.file is not None:
        try:
            records, _ = read(config.api_keys.file)
            table.replace(usable(records))
        except (OSError, ValueError):
            table.broken = True
    return table


def head(asked: Asked) -> bytes:
    target = asked.path if asked.query is None else f"{asked.path}?{asked.query}"
    lines = [f"{asked.method} {target} HTTP/1.1", f"Host: {asked.host or 'localhost'}"]
    lines += [f"{name}: {value}" for name, value in asked.headers if name.lower() != "host"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


class Here(Policy):
    """Stands in for a policy that needs a thread, or a certificate."""

    name = "here"

    def __init__(self, policy: Any, certificate: ClientCertificate | None) -> None:
        self.policy = policy
        self.certificate = certificate

    def request(self, exchange: Any) -> Any:
        shown = SimpleNamespace(
            path=exchange.path, request=exchange.request, client_cert=self.certificate, consumer=exchange.consumer
        )
        answer = self.policy.request(shown)
        if inspect.isawaitable(answer):
            answer = asyncio.run(awaited(answer))
        if answer is None:
            exchange.consumer = shown.consumer
        return answer


class Elsewhere(Policy):
    """Stands in for a policy that would ask somebody outside."""

    name = "elsewhere"

    def __init__(self, words: str) -> None:
        self.words = words

    def request(self, exchange: Any) -> Problem:
        return Problem(503, ASKED, self.words)


async def awaited(answer: Any) -> Any:
    return await answer


def stand_in(policy: Any, asked: Asked, certificate: ClientCertificate | None) -> Policy:
    """What is tried in the place of a policy: itself, where a head is enough."""
    if policy.name in OUTSIDE and (words := question(policy.name, policy.options, asked)):
        return Elsewhere(words)
    found: Policy = Here(policy, certificate) if policy.name in ALONE else policy
    return found


def question(name: str, options: Any, asked: Asked) -> str:
    """What would be asked of whom; nothing where the head alone is enough to refuse."""
    if name == "oidc":
        return f"without a session it sends browsers to log in at {options.issuer}"
    if name == "session":
        return "whether the session of the cookie holds is in its store"
    if name == "forward_auth":
        told = f"{options.service} whether it may pass (GET {options.path}): 2xx passes, 3xx and 4xx are the answer"
    elif name == "opa":
        told = f"{options.service} for a decision (POST {options.path}): anything but true is 403 authorizer_refused"
    else:
        given = [value for name, value in asked.headers if name.lower() == "authorization"]
        if len(given) != 1 or not given[0].lower().startswith("bearer "):
            return ""
        return f"{options.service} what the token is worth (POST {options.path}): 401 unless it is active"
    unanswered = "it passes" if options.on_failure == "open" else "503 authorizer_unavailable"
    return f"{told}; unanswered, {unanswered}"


def verdicts(
    config: Config, route: Route, asked: Asked, captures: tuple[str, ...], certificate: ClientCertificate | None = None
) -> list[dict[str, Any]]:
    """One row for each policy of the route that decides, up to the first that refuses. ValueError for a head that the
    gateway would not take."""
    names = route.pattern.captures if route.pattern else ()

    def new_probe() -> Probe:
        given = dict(zip(names, captures, strict=False))
        return Probe(head(asked), asked.address, route=str(route.name), captures=given)

    probe = new_probe()
    exchange, shared, of_plan, keys = probe.exchange, Shared(), Shared(), key_table(config)
    rows: list[dict[str, Any]] = []
    for use in config.chain(route):
        inside = named(use)
        if not inside & (TRIED | OUTSIDE):
            continue
        row: dict[str, Any] = {"policy": use.name, "line": use.line}
        rows.append(row)
        context = BuildContext(
            consumers=config.consumers, plans=config.plans, keys=keys, shared=shared, of_plan=of_plan,
            route_name=str(route.name), policy_key=use.name, stores=config.stores,
            stand_in=lambda policy: stand_in(policy, asked, certificate),
        )  # fmt: skip
        quiet = logging.getLogger("fastgw.policy")
        was, quiet.disabled = quiet.disabled, True
        try:
            policy = stand_in(use.spec.handler(use.options, context), asked, certificate)
            verdict = probe.request(policy.hook() or PythonHook(policy, Policy))
        except Exception as error:
            row["verdict"], row["detail"] = "cannot be built", type(error).__name__
            break
        finally:
            quiet.disabled = was
        if verdict == Verdict.REPLIED and exchange.code == ASKED:
            row["verdict"] = "would ask"
            row["detail"] = f"{detail(exchange.response_body)}; what follows is as if it passed"
            known, probe = exchange, new_probe()
            exchange = probe.exchange
            exchange.consumer, exchange.claims = known.consumer, known.claims
            continue
        if verdict == Verdict.REPLIED:
            row |= {"verdict": "refuses", "status": exchange.status, "code": exchange.code}
            row["detail"] = detail(exchange.response_body)
            break
        row["verdict"] = "passes" if verdict == Verdict.CONTINUE else "waits for the body"
        found = exchange.consumer
        if found is not None:
            row["consumer"] = found.name
            row |= {"credential": found.credential, "groups": list(found.groups), "plan": found.plan}
            row["scopes"] = None if found.scopes is None else sorted(found.scopes)
        if verdict != Verdict.CONTINUE:
            break
    if not rows or rows[-1]["verdict"] in ("passes", "would ask"):
        rows += waits(config, route, exchange)
    return rows


def detail(body: bytes | None) -> str:
    try:
        told = orjson.loads(body or b"{}")
        return str(told.get("detail") or told.get("title") or "")
    except ValueError:
        return ""


def as_text(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        words = f"verdict   {row['policy']}: {row['verdict']}"
        if "status" in row:
            words += f" with {row['status']} {row['code']}"
        if row.get("detail"):
            words += f" ({row['detail']})"
        if "consumer" in row:
            scopes = "" if row["scopes"] is None else f", scopes {' '.join(row['scopes']) or 'none'}"
            plan = f", plan {row['plan']}" if row["plan"] else ""
            groups = f", groups {' '.join(row['groups'])}" if row["groups"] else ""
            words += f" as {row['consumer']} ({row['credential']}{groups}{plan}{scopes})"
        lines.append(words)
    return lines
