"""`forward_auth`: an authorizer outside is asked by HTTP whether a request may pass."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from fastgw._core.exchange import Consumer, Exchange, Problem, Reply
from fastgw._core.subrequest import FetchError
from fastgw.config.fields import Duration, HeaderName, Name, Size, wrong
from fastgw.config.registry import Reference
from fastgw.config.schema.base import Room, key
from fastgw.policies._credentials import Remembered, unavailable
from fastgw.policies._parts import EditableName, listed
from fastgw.policies.base import BuildContext, Policy

Part = Literal["method", "host", "path", "query", "client_ip", "headers"]
PARTS: tuple[Part, ...] = ("method", "host", "path", "query", "client_ip", "headers")
TOLD = ("www-authenticate", "location", "set-cookie", "content-type", "cache-control", "retry-after")
"""What a client gets to see of a refusal's head."""


class AnswerCache(Room):
    """Answers that let requests pass may be remembered."""

    ttl: Duration = key(0.0, "How long; 0 asks each time.", ge=0, le=3600)
    size: int = key(10_000, "How many, per worker.", ge=0, le=1_000_000)
    by: Annotated[tuple[Part, ...], BeforeValidator(listed)] = key(
        PARTS, "What must be the same for an answer to hold. Leave out only what the authorizer does not look at.",
        min_length=1, example=["method", "path", "headers"],
    )  # fmt: skip


class ForwardAuthOptions(Room):
    """Who is asked, what he is told, and what of his answer goes on."""

    service: Name = key(doc="The service that is asked; its pool and its bounds hold.", example="authorizer")
    path: str = key("/", "What is asked for there, by GET.", pattern=r"^/[!-~]*$", max_length=2048, example="/verify")
    timeout: Duration = key(1.0, "For his whole answer.", gt=0, le=60)
    max_body: Size = key(64 * 1024, "Of a refusal's body; more counts as no answer.", ge=0, le=1024 * 1024)
    request_headers: tuple[HeaderName, ...] = key(
        ("Authorization", "Cookie"), "Headers of the request that he is told, beside X-Forwarded-Method, -Uri, -Host, "
        "-Proto and -For.", max_length=100,
    )  # fmt: skip
    copy_headers: tuple[EditableName, ...] = key(
        (), "Headers of his answer that go on to the service. What the client sends under these names is removed.",
        max_length=100, example=["X-User-Id", "X-Tenant"],
    )  # fmt: skip
    user_header: HeaderName | None = key(
        None, "The header of his answer that names the caller: the consumer of the request.", example="X-User-Id"
    )
    groups_header: HeaderName | None = key(None, "Its groups, with commas between.", example="X-Groups")
    scopes_header: HeaderName | None = key(None, "Its scopes, with spaces between.", example="X-Scopes")
    strip: tuple[EditableName, ...] = key(
        (), "Headers of the request that the service does not get.", max_length=100, example=["Authorization"]
    )
    cache: AnswerCache = key(AnswerCache(), "Remembered answers.")
    on_failure: Literal["closed", "open"] = key(
        "closed", "When he does not answer, or with 5xx: `closed` is 503, `open` lets everybody pass."
    )

    @model_validator(mode="after")
    def _named(self) -> ForwardAuthOptions:
        if self.user_header is None and (self.groups_header or self.scopes_header):
            raise wrong("missing_key", "groups or scopes of nobody", "`user_header:` too")
        return self


class Passed:
    """An answer that lets requests pass."""

    __slots__ = ("consumer", "headers")

    def __init__(self, headers: list[tuple[str, str]], consumer: Consumer | None) -> None:
        self.headers = headers
        self.consumer = consumer


class ForwardAuth(Policy):
    """Asks an authorizer whether a request may pass, as Traefik's ForwardAuth and nginx's auth_request do.

    2xx: it passes, with the headers of `copy_headers`. 3xx and 4xx are the client's answer. Else 503
    `authorizer_unavailable`, unless `on_failure` says otherwise. The body of the request is not told. Order: before
    everything that asks who calls. Failure: closed.
    """

    name = "forward_auth"
    Options = ForwardAuthOptions
    identifies = True
    options: ForwardAuthOptions

    @classmethod
    def references(cls, options: ForwardAuthOptions) -> Iterable[Reference]:
        return [Reference("service", options.service, ("service",))]

    def __init__(self, options: ForwardAuthOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.known = Remembered(options.cache.size if options.cache.ttl else 0)
        self.removed = tuple(name.lower() for name in (*options.copy_headers, *options.strip))

    def request(self, exchange: Exchange) -> Awaitable[Reply | Problem | None] | None:
        digest = self.digest(exchange) if self.known.half else b""
        if digest:
            passed = self.known.find(digest)
            if passed is not None:
                self.go_on(exchange, passed)
                return None
        return self.asked(exchange, digest)

    def digest(self, exchange: Exchange) -> bytes:
        """Of what must be the same. Lengths stand before texts: no two requests have one form."""
        parts: list[str] = []
        for part in self.options.cache.by:
            if part == "headers":
                for name in self.options.request_headers:
                    values = exchange.request.get_all(name)
                    parts += [str(len(values)), *values]
            else:
                parts.append(str(getattr(exchange, part)))
        hashed = hashlib.sha256()
        for text in parts:
            raw = text.encode("latin-1", "replace")
            hashed.update(b"%d:" % len(raw) + raw)
        return hashed.digest()

    def told(self, exchange: Exchange) -> dict[str, str]:
        told = {
            "X-Forwarded-Method": exchange.method,
            "X-Forwarded-Uri": exchange.path + (f"?{exchange.query}" if exchange.query else ""),
            "X-Forwarded-Host": exchange.host,
            "X-Forwarded-Proto": exchange.scheme,
            "X-Forwarded-For": exchange.client_ip,
        }
        for name in self.options.request_headers:
            values = exchange.request.get_all(name)
            if values:
                # RFC 9113 §8.2.3: several lines of Cookie are one with "; "; of all else with ", " (RFC 9110 §5.3)
                told[name] = ("; " if name.lower() == "cookie" else ", ").join(values)
        return told

    async def asked(self, exchange: Exchange, digest: bytes) -> Reply | Problem | None:
        options = self.options
        try:
            answer = await exchange.fetch(
                options.service, "GET", options.path, self.told(exchange), None, options.timeout, options.max_body
            )
        except FetchError as error:
            return self.failed(exchange, f"The authorizer did not answer ({error.code}).")
        except ValueError:
            return self.failed(exchange, "The authorizer cannot be asked about this request.")
        status = answer.status
        if 200 <= status < 300:
            passed = Passed(
                [(name, value) for name in options.copy_headers for value in answer.headers.get_all(name)],
                self.consumer(answer.headers),
            )
            if digest:
                self.known.keep(digest, options.cache.ttl, passed)
            self.go_on(exchange, passed)
            return None
        if status >= 500 or status < 300:
            return self.failed(exchange, f"The authorizer answered with {status}.")
        headers = [(name, value) for name, value in answer.headers.pairs() if name.lower() in TOLD]
        if status == 401 and not any(name.lower() == "www-authenticate" for name, _ in headers):
            headers.append(("WWW-Authenticate", "Bearer"))
        if status >= 400 and not answer.body:
            code = "unauthorized" if status == 401 else "authorizer_refused"
            kept = [pair for pair in headers if pair[0].lower() != "content-type"]
            return Problem(status, code, None, headers=kept)
        return Reply(status, answer.body, headers)

    def consumer(self, headers: Any) -> Consumer | None:
        options = self.options
        name = headers.get(options.user_header) if options.user_header else None
        if not name:
            return None
        groups = (headers.get(options.groups_header) or "") if options.groups_header else ""
        scopes = (headers.get(options.scopes_header) or "").split() if options.scopes_header else None
        found = [group.strip() for group in groups.split(",") if group.strip()]
        return Consumer(name, found, {}, name, None, scopes)

    def go_on(self, exchange: Exchange, passed: Passed) -> None:
        self.clean(exchange)
        for name, value in passed.headers:
            exchange.request.add(name, value)
        if passed.consumer is not None:
            exchange.consumer = passed.consumer

    def clean(self, exchange: Exchange) -> None:
        for name in self.removed:
            exchange.request.remove(name)

    def failed(self, exchange: Exchange, detail: str) -> Problem | None:
        if self.options.on_failure == "open":
            self.clean(exchange)
            return None
        return unavailable(detail)
