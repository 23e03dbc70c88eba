"""Vault's KV secrets engine, version 2, over its HTTP API (OpenBao has the same).

https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#read-secret-version
https://developer.hashicorp.com/vault/api-docs/auth/token, …/auth/approle, …/auth/kubernetes

A token has a lease: after two thirds of it it is renewed, and when that fails the gateway logs in anew.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from fastgw.config.schema.address import parse_origin
from fastgw.config.secret_refs import Unreadable
from fastgw.upstreams.cluster import ACCOUNT, trust_of
from fastgw.upstreams.discovery.base import SourceError
from fastgw.upstreams.discovery.http import Call

NEVER = float("inf")
DENIED = (400, 401, 403, 404)


class Denied(Unreadable):
    def __init__(self, status: int, what: str) -> None:
        why = {404: "there is no such thing", 400: "it does not take that"}.get(status, "it does not let us")
        super().__init__(f"Vault says {status} to {what}: {why}")
        self.status = status


class Vault:
    def __init__(self, options: Any) -> None:
        self.options = options
        self.token = ""
        self.renewable = False
        self.renew_at = NEVER
        self.expires = NEVER

    def __repr__(self) -> str:
        return f"<Vault {self.options.address}>"

    # ------------------------------------------------------------------ reading

    async def read(self, path: str, version: int) -> Mapping[str, Any]:
        try:
            await self.authorize()
            return await self.document(path, version)
        except Denied as denied:
            if denied.status != 403 or self.options.auth.method == "token":
                raise
        await self.login()                           # the token may have been revoked before its time
        return await self.document(path, version)

    async def document(self, path: str, version: int) -> Mapping[str, Any]:
        query = f"?version={version}" if version else ""
        answer = await self.ask("GET", f"{self.options.mount}/data/{path}{query}", "the secret")
        data = answer.get("data")
        fields = data.get("data") if isinstance(data, dict) else None
        if not isinstance(fields, dict):
            raise SourceError("Vault's answer has no data: the engine is not KV version 2")
        return fields

    # ------------------------------------------------------------------ who asks

    async def authorize(self) -> None:
        """There is a token, which holds for a while."""
        now = time.monotonic()
        if self.token and now < self.renew_at:
            return
        if self.token and self.renewable and now < self.expires:
            try:
                answer = await self.ask("POST", "auth/token/renew-self", "renewing the token", {})
                self.take(answer.get("auth"), now)
                return
            except Unreadable:
                pass
        await self.login()

    async def login(self) -> None:
        auth = self.options.auth
        now = time.monotonic()
        self.token = ""
        if auth.method == "token":
            self.token = auth.token.reveal()
            self.renewable, self.renew_at, self.expires = False, NEVER, NEVER
            try:
                answer = await self.ask("GET", "auth/token/lookup-self", "looking the token up")
            except Unreadable:
                return                               # its policy does not let it look at itself: it is used as it is
            told = answer.get("data") or {}
            self.lease(told.get("ttl"), told.get("renewable"), now)
            return
        if auth.method == "approle":
            body = {"role_id": auth.role_id, "secret_id": auth.secret_id.reveal()}
        else:
            try:
                jwt = Path(auth.token_file or ACCOUNT / "token").read_text()[:65536].strip()
            except (OSError, ValueError):
                raise SourceError("the token of the service account cannot be read") from None
            body = {"role": auth.role, "jwt": jwt}
        answer = await self.ask("POST", f"auth/{auth.mount or auth.method}/login", "the login", body)
        self.take(answer.get("auth"), now)

    def take(self, auth: Any, now: float) -> None:
        token = auth.get("client_token") if isinstance(auth, dict) else None
        if not isinstance(token, str) or not token:
            raise SourceError("Vault's answer to a login has no token")
        self.token = token
        self.lease(auth.get("lease_duration"), auth.get("renewable"), now)

    def lease(self, seconds: Any, renewable: Any, now: float) -> None:
        """0 seconds: it does not end."""
        ends = isinstance(seconds, (int, float)) and seconds > 0
        self.renew_at = now + seconds * 2 / 3 if ends else NEVER
        self.expires = now + seconds if ends else NEVER
        self.renewable = renewable is True

    # ------------------------------------------------------------------ asking

    async def ask(self, method: str, path: str, what: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        options = self.options
        address = options.address
        origin = parse_origin(address if "://" in address else f"https://{address}")
        # "X-Vault-Request: true" is wanted by agents that guard against request forgery
        headers = {"X-Vault-Request": "true"}
        if self.token:
            headers["X-Vault-Token"] = self.token
        if options.namespace is not None:
            headers["X-Vault-Namespace"] = options.namespace
        text = orjson.dumps(body) if body is not None else b""
        trust = trust_of(options.ca) if origin.scheme == "https" else None
        target, timeout = f"/v1/{path}", options.timeout
        async with Call(origin, method, target, headers=headers, body=text, timeout=timeout, trust=trust) as call:
            if call.status in DENIED:
                raise Denied(call.status, what)
            if call.status != 200:
                sealed = " (it is sealed)" if call.status == 503 else ""
                raise SourceError(f"Vault answered {what} with {call.status}{sealed}")
            answer = await call.text()
        try:
            found = orjson.loads(answer)
        except ValueError:
            raise SourceError("Vault answered with something that is not JSON") from None
        if not isinstance(found, dict):
            raise SourceError("Vault answered with something that is no object")
        return found
