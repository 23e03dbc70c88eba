"""`hmac`: who calls, by a signature over the request (HTTP Message Signatures, RFC 9421)."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Iterable
from datetime import timedelta
from typing import Any, Literal

from pydantic import model_validator

from fastgw._core.exchange import Consumer, Exchange, Problem, WholeBody
from fastgw.config.fields import Duration, Size, wrong
from fastgw.config.registry import Reference
from fastgw.config.schema.base import Room, key
from fastgw.policies._credentials import refused, unavailable
from fastgw.policies._members import consumer_of
from fastgw.policies.base import BuildContext, Policy, PolicyError
from fastgw.store import Store, StoreError

MAX_INPUT = 4096
MAX_NONCE = 256
LEAST_SECRET = 32
CHALLENGE = "Signature"
NO_NONCE = "The signature has no nonce, or too long a one."
DIGEST = "content-digest"
SECOND = 1_000_000_000


class HmacOptions(Room):
    """What a signature must cover, and how old it may be. The keys stand with the consumers (`signing_keys`)."""

    components: tuple[str, ...] = key(
        ("@method", "@authority", "@path", "@query"),
        "What every signature must cover (RFC 9421 §2); it may cover more.", min_length=1, max_length=20,
    )  # fmt: skip
    max_age: Duration = key(300.0, "How long after `created` a request is taken.", ge=1, le=86400)
    clock_skew: Duration = key(5.0, "How far clocks may differ.", ge=0, le=300)
    tag: str | None = key(None, "The `tag` a signature must have, where a request may have several.", max_length=100)
    body: bool = key(
        True, "A body must come with Content-Digest (RFC 9530), signed, and it is checked; requests wait for it."
    )
    max_body: Size = key(1024 * 1024, "Of a body that is checked; more is 413.", ge=0, le=64 * 1024 * 1024)
    replay: bool = key(
        True, "Every signature must have a `nonce`, and is taken once within `max_age` by all workers of this host."
    )
    replay_store: Literal["host", "redis"] = key(
        "host", "Where nonces are remembered: in the memory of this host, or in `stores.redis`, for several hosts.",
    )
    forward: bool = key(False, "Let the upstream see the signature.")

    @model_validator(mode="after")
    def _known(self) -> HmacOptions:
        try:
            import http_message_signatures  # noqa: F401
        except ImportError:
            raise wrong("unavailable", "signatures need http-message-signatures",
                        "pip install 'fastgw[signatures]'") from None  # fmt: skip
        if "@method" not in self.components or not {"@path", "@target-uri", "@request-target"} & set(self.components):
            raise wrong("bad_value", "a signature that does not cover method and path protects nothing",
                        "@method, and @path or @target-uri")  # fmt: skip
        return self


class Asked:
    """A request as the library wants it."""

    def __init__(self, exchange: Exchange) -> None:
        self.method = exchange.method
        target = exchange.path + (f"?{exchange.query}" if exchange.query else "")
        self.url = f"{exchange.scheme}://{exchange.host}{target}"
        merged: dict[str, str] = {}
        for name, value in exchange.request.pairs():
            name = name.lower()
            merged[name] = f"{merged[name]}, {value}" if name in merged else value
        self.headers = merged


class Hmac(Policy):
    """Finds the consumer by a signature over the request, made with a secret he shares with the gateway.

    HMAC-SHA256 by RFC 9421: `Signature-Input` and `Signature`, with `keyid`, `created` and `nonce`. What is signed is
    the request as the gateway routes it, with the path normalised. A nonce is remembered in the memory that workers
    share (503 `limiter_full` without room) or in Redis (503 `authorizer_unavailable` without an answer). 401
    `unauthorized`, `invalid_signature`, `request_replayed`. Needs the extra `fastgw[signatures]`. Order: before
    everything that asks who calls. Failure: closed.
    """

    name = "hmac"
    Options = HmacOptions
    identifies = True
    options: HmacOptions

    def __init__(self, options: HmacOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver, algorithms

        secrets: dict[str, bytes] = {}
        self.consumers: dict[str, Consumer] = {}
        for one in context.consumers:
            for signing in one.signing_keys:
                if signing.id in secrets:
                    raise PolicyError("two signing keys have the same id")
                secrets[signing.id] = signing.secret.reveal().encode()
                self.consumers[signing.id] = consumer_of(one, context.plans, credential=signing.id)
        if not secrets:
            raise PolicyError("no consumer has a signing key")

        class Keys(HTTPSignatureKeyResolver):
            def resolve_public_key(self, key_id: str) -> Any:
                return secrets.get(key_id)

        self.store = context.store("redis") if options.replay and options.replay_store == "redis" else None
        self.verifier = HTTPMessageVerifier(signature_algorithm=algorithms.HMAC_SHA256, key_resolver=Keys())
        self.verifier.max_clock_skew = timedelta(seconds=options.clock_skew)
        self.max_age = timedelta(seconds=options.max_age)

    @classmethod
    def references(cls, options: HmacOptions) -> Iterable[Reference]:
        yield Reference("credential", "signing_keys", ())
        if options.replay and options.replay_store == "redis":
            yield Reference("store", "redis", ("replay_store",))

    def request(self, exchange: Exchange) -> Problem | WholeBody | Awaitable[Problem | None] | None:
        options = self.options
        head = exchange.request
        given = head.get("signature-input")
        if given is None or head.get("signature") is None:
            return refused("unauthorized", CHALLENGE, "The request must be signed.")
        if len(given) > MAX_INPUT:
            return refused("invalid_signature", CHALLENGE, "The signature is too long.")
        if options.body and exchange.announces_body and exchange.request_body is None:
            return WholeBody(options.max_body)
        wanted = list(options.components)
        body = None
        if options.body:
            body = exchange.request_body or b""
            if body:
                wanted.append(DIGEST)
        try:
            results = self.verifier.verify(
                Asked(exchange), max_age=self.max_age, expect_tag=options.tag, require_components=wanted, body=body
            )
        except Exception:                             # its reasons quote what was sent
            return refused("invalid_signature", CHALLENGE)
        if len(results) != 1:
            return refused("invalid_signature", CHALLENGE)
        parameters = results[0].parameters
        if self.store is not None:
            return self.once(exchange, parameters, self.store)
        if options.replay and (problem := self.replayed(parameters)) is not None:
            return problem
        return self.passed(exchange, parameters)

    def passed(self, exchange: Exchange, parameters: dict[str, Any]) -> Problem | None:
        exchange.consumer = self.consumers[str(parameters["keyid"])]
        if not self.options.forward:
            exchange.request.remove("signature")
            exchange.request.remove("signature-input")
        return None

    @property
    def longest(self) -> float:
        """Seconds in which a request could come again."""
        return self.options.max_age + 2 * self.options.clock_skew + 1

    def nonce(self, parameters: dict[str, Any]) -> bytes | None:
        """What stands for a nonce in a memory; None when there is none, or too long a one."""
        nonce = parameters.get("nonce")
        if not nonce or len(nonce) > MAX_NONCE:
            return None
        return f"hmac\0{parameters['keyid']}\0{nonce}".encode()

    def replayed(self, parameters: dict[str, Any]) -> Problem | None:
        """A bucket that holds one token for as long as the request could come again."""
        nonce = self.nonce(parameters)
        if nonce is None:
            return refused("invalid_signature", CHALLENGE, NO_NONCE)
        table = self.context.bucket_table
        taken = table.try_take(table.key_of(nonce), int(self.longest * SECOND), 1)
        if taken is None:
            return Problem(503, "limiter_full", "There is no room for another nonce.", side=2)
        return None if taken[0] else refused("request_replayed", CHALLENGE)

    async def once(self, exchange: Exchange, parameters: dict[str, Any], store: Store) -> Problem | None:
        nonce = self.nonce(parameters)
        if nonce is None:
            return refused("invalid_signature", CHALLENGE, NO_NONCE)
        try:
            new = await store.put_new(f"nonce/{hashlib.sha256(nonce).hexdigest()}", b"1", self.longest)
        except StoreError as error:
            return unavailable(f"Nonces cannot be looked up ({error.reason}).")
        return self.passed(exchange, parameters) if new else refused("request_replayed", CHALLENGE)
