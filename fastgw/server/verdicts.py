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
from fastgw._core.exchange import Verdict
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
"""Of the first those that are not tried within a composition: one needs a thread, the other a certificate."""


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


class Decided(Policy):
    """Gives the answer that another policy came to."""

    name = "decided"

    def __init__(self, answer: Any, consumer: Any) -> None:
        self.answer = answer
        self.consumer = consumer

    def request(self, exchange: Any) -> Any:
        if self.answer is None and self.consumer is not None:
            exchange.consumer = self.consumer
        return self.answer


async def awaited(answer: Any) -> Any:
    return await answer


def tried(policy: Any, probe: Probe, certificate: ClientCertificate | None) -> Any:
    """The verdict of its request hook. What it does in a thread is waited for."""
    if policy.name not in ALONE:
        return probe.request(policy.hook() or PythonHook(policy, Policy))
    exchange = probe.exchange
    shown = SimpleNamespace(
        path=exchange.path, request=exchange.request, client_cert=certificate, consumer=exchange.consumer
    )
    answer = policy.request(shown)
    if inspect.isawaitable(answer):
        answer = asyncio.run(awaited(answer))
    return probe.request(PythonHook(Decided(answer, shown.consumer), Policy))


def question(use: PolicyUse, asked: Asked) -> str:
    """What would be asked of whom; nothing where the head alone is enough to refuse."""
    options: Any = use.options
    if use.name == "oidc":
        return f"without a session it sends browsers to log in at {options.issuer}"
    if use.name == "session":
        return "whether the session of the cookie holds is in its store"
    if use.name == "forward_auth":
        told = f"{options.service} whether it may pass (GET {options.path}): 2xx passes, 3xx and 4xx are the answer"
    elif use.name == "opa":
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
    probe = Probe(head(asked), asked.address, route=str(route.name), captures=dict(zip(names, captures, strict=False)))
    exchange, shared, of_plan, keys = probe.exchange, Shared(), Shared(), key_table(config)
    rows: list[dict[str, Any]] = []
    for use in config.chain(route):
        inside = named(use)
        if not inside & (TRIED | OUTSIDE):
            continue
        row: dict[str, Any] = {"policy": use.name, "line": use.line}
        rows.append(row)
        within = inside & (OUTSIDE | ALONE) - {use.name}
        if within:
            who = ", ".join(sorted(within))
            row |= {"verdict": "not tried", "detail": f"{who} cannot be asked here; what follows is as if it passed"}
            continue
        if use.name in OUTSIDE and (words := question(use, asked)):
            row |= {"verdict": "would ask", "detail": f"{words}; what follows is as if it passed"}
            continue
        context = BuildContext(
            consumers=config.consumers, plans=config.plans, keys=keys, shared=shared, of_plan=of_plan,
            route_name=str(route.name), policy_key=use.name, stores=config.stores,
        )  # fmt: skip
        quiet = logging.getLogger("fastgw.policy")
        was, quiet.disabled = quiet.disabled, True
        try:
            policy = use.spec.handler(use.options, context)
            verdict = tried(policy, probe, certificate)
        except Exception as error:
            row["verdict"], row["detail"] = "cannot be built", type(error).__name__
            break
        finally:
            quiet.disabled = was
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
    if not rows or rows[-1]["verdict"] in ("passes", "not tried", "would ask"):
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
