"""Tries one policy on one request, without sockets and without a gateway.

    trial = Trial("rate_limit", {"requests": 1, "per": "1m"})
    assert trial.ask("GET /orders").passed
    assert trial.ask("GET /orders").code == "rate_limited"

Native and Python policies alike, as long as they do not wait: what suspends needs a gateway
(`fastgw.testing.process`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastgw._core.exchange import Exchange, Phase, Verdict
from fastgw._core.policy import PythonHook
from fastgw._core.probe import Probe
from fastgw.policies import BuildContext, Policy, resolve

Headers = Mapping[str, str] | list[tuple[str, str]]


@dataclass(slots=True)
class Outcome:
    """What became of the exchange. `sent` is what the upstream would get, `got` what the client would."""

    exchange: Exchange
    passed: bool
    status: int = 0
    code: str | None = None
    body: bytes = b""
    sent: list[tuple[str, str]] = field(default_factory=list)
    got: list[tuple[str, str]] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        """The first response header of that name."""
        return next((value for key, value in self.got if key.lower() == name.lower()), None)

    def upstream_header(self, name: str) -> str | None:
        """The first header of that name that the upstream would get."""
        return next((value for key, value in self.sent if key.lower() == name.lower()), None)

    @property
    def problem(self) -> dict[str, Any]:
        """The problem+json body."""
        found: dict[str, Any] = json.loads(self.body)
        return found


def raw_request(line: str, headers: Headers = (), host: str = "example.com") -> bytes:  # type: ignore[assignment]
    """`GET /path` → the bytes of a request head."""
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    lines = [f"{line} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in pairs)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Trial:
    """One policy, built once, asked as often as you like."""

    def __init__(
        self,
        policy: str | type[Policy],
        options: Mapping[str, Any] | None = None,
        context: BuildContext | None = None,
    ) -> None:
        kind = resolve(policy) if isinstance(policy, str) else policy
        self.context = context or BuildContext(policy_key=kind.name)
        self.policy = kind(kind.Options.model_validate(dict(options or {})), self.context)
        self.hook = self.policy.hook() or PythonHook(self.policy, Policy)

    def ask(
        self,
        line: str = "GET /",
        headers: Headers = (),  # type: ignore[assignment]
        *,
        response: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        host: str = "example.com",
        prepare: Any = None,
        **more: Any,
    ) -> Outcome:
        """Runs its request hook, then (upstream's `response` or the local reply) its response hook.

        `more`: client_ip, secure, route, captures, trusted, settings; `prepare(exchange)` is called first.
        """
        probe = Probe(raw_request(line, headers, host), **more)
        exchange = probe.exchange
        if prepare is not None:
            prepare(exchange)
        passed = not self.hook.phases & Phase.PHASE_REQUEST or probe.request(self.hook) == Verdict.CONTINUE
        sent = exchange.request.pairs()
        if passed:
            probe.respond(response)
        if self.hook.phases & Phase.PHASE_RESPONSE and probe.response(self.hook) == Verdict.REPLIED:
            passed = False
        return Outcome(
            exchange,
            passed,
            exchange.response.status,
            exchange.code,
            exchange.response_body or b"",
            sent,
            exchange.response.pairs(),
        )
