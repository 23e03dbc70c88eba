"""`opa`: a policy engine outside is asked for a decision, as the Open Policy Agent answers it."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Iterable
from typing import Any, Literal

import orjson

from fastgw._core.exchange import Exchange, Problem
from fastgw._core.subrequest import FetchError
from fastgw.config.fields import Duration, HeaderName, Name, Size
from fastgw.config.registry import Reference
from fastgw.config.schema.base import Room, key
from fastgw.policies._credentials import Remembered, unavailable
from fastgw.policies.base import BuildContext, Policy

MAX_REASON = 200


class Decisions(Room):
    """Decisions may be remembered; who asks, and for what, is the same then."""

    ttl: Duration = key(0.0, "How long; 0 asks each time.", ge=0, le=3600)
    size: int = key(10_000, "How many, per worker.", ge=0, le=1_000_000)


class OpaOptions(Room):
    """Who is asked, and about what."""

    rule: Name = key("opa", "What a refusal calls it (`rule` of the body).", example="orders")
    service: Name = key(doc="The service that is asked; its pool and its bounds hold.", example="opa")
    path: str = key("/v1/data/fastgw/allow", "The decision, by POST (OPA's Data API).", pattern=r"^/[!-~]*$",
                    max_length=2048)  # fmt: skip
    timeout: Duration = key(0.5, "For the whole answer.", gt=0, le=60)
    max_body: Size = key(64 * 1024, "Of the answer; more counts as none.", ge=2, le=1024 * 1024)
    headers: tuple[HeaderName, ...] = key((), "Headers of the request that are part of the input.", max_length=100)
    cache: Decisions = key(Decisions(), "Remembered decisions.")
    on_failure: Literal["closed", "open"] = key(
        "closed", "Without a decision: `closed` is 503, `open` lets the request pass."
    )


class Opa(Policy):
    """Asks for a decision with `{"input": {method, path, query, host, headers, client_ip, route, params, consumer,
    claims}}`; `{"result": true}` or `{"result": {"allow": true}}` lets the request pass.

    All else that is an answer refuses: 403 `authorizer_refused`, with the `rule` and `result.reason`. No answer is 503
    `authorizer_unavailable`, unless `on_failure` says otherwise. Order: after authentication. Failure: closed.
    """

    name = "opa"
    Options = OpaOptions
    options: OpaOptions

    @classmethod
    def references(cls, options: OpaOptions) -> Iterable[Reference]:
        return [Reference("service", options.service, ("service",))]

    def __init__(self, options: OpaOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.known = Remembered(options.cache.size if options.cache.ttl else 0)

    def request(self, exchange: Exchange) -> Problem | Awaitable[Problem | None] | None:
        question = orjson.dumps({"input": self.input(exchange)}, default=str, option=orjson.OPT_SORT_KEYS)
        digest = hashlib.sha256(question).digest() if self.known.half else b""
        if digest:
            decision = self.known.find(digest)
            if decision is not None:
                return self.verdict(decision)
        return self.asked(exchange, question, digest)

    def input(self, exchange: Exchange) -> dict[str, Any]:
        found = exchange.consumer
        consumer = None
        if found is not None:
            consumer = {
                "name": found.name,
                "groups": list(found.groups),
                "plan": found.plan,
                "scopes": None if found.scopes is None else sorted(found.scopes),
            }
        return {
            "method": exchange.method,
            "path": exchange.path,
            "query": exchange.query,
            "host": exchange.host,
            "headers": {name.lower(): exchange.request.get_all(name) for name in self.options.headers},
            "client_ip": exchange.client_ip,
            "route": exchange.route.name if exchange.route is not None else None,
            "params": exchange.params,
            "consumer": consumer,
            "claims": dict(exchange.claims) if exchange.claims is not None else None,
        }

    async def asked(self, exchange: Exchange, question: bytes, digest: bytes) -> Problem | None:
        options = self.options
        try:
            answer = await exchange.fetch(
                options.service, "POST", options.path, {"Content-Type": "application/json"}, question,
                options.timeout, options.max_body,
            )  # fmt: skip
            if answer.status != 200:
                return self.failed(f"The policy engine answered with {answer.status}.")
            told = orjson.loads(answer.body)
        except FetchError as error:
            return self.failed(f"The policy engine did not answer ({error.code}).")
        except ValueError:
            return self.failed("The policy engine's answer is not JSON.")
        # without a result the rule is undefined: that is no failure, and no permission
        result = told.get("result") if isinstance(told, dict) else None
        allow = result.get("allow") if isinstance(result, dict) else result
        reason = result.get("reason") if isinstance(result, dict) else None
        decision = (allow is True, reason[:MAX_REASON] if isinstance(reason, str) else None)
        if digest:
            self.known.keep(digest, options.cache.ttl, decision)
        return self.verdict(decision)

    def verdict(self, decision: tuple[bool, str | None]) -> Problem | None:
        allow, reason = decision
        if allow:
            return None
        return Problem(403, "authorizer_refused", reason, members={"rule": self.options.rule})

    def failed(self, detail: str) -> Problem | None:
        return None if self.options.on_failure == "open" else unavailable(detail)
