"""`hmac`: who calls, by a signature over the request (HTTP Message Signatures, RFC 9421)."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Iterable
from typing import Any, Literal

from pydantic import model_validator

from fastgw._core.exchange import Exchange, Problem, WholeBody
from fastgw.config.fields import Duration, Size, wrong
from fastgw.config.registry import Reference
from fastgw.config.schema.base import Room, key
from fastgw.policies._credentials import refused, unavailable
from fastgw.policies._http_signatures import Key, Parameters, Refused, Signatures, key_of
from fastgw.policies._members import consumer_of
from fastgw.policies._verifying import Verifying
from fastgw.policies.base import BuildContext, Policy, PolicyError
from fastgw.store import Store, StoreError

MAX_INPUT = 4096
MAX_NONCE = 256
CHALLENGE = "Signature"
NO_NONCE = "The signature has no nonce, or too long a one."
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


class Hmac(Policy):
    """Finds the consumer by a signature over the request, made with a secret he shares with the gateway, or with his
    private key.

    RFC 9421: `Signature-Input` and `Signature`, with `keyid`, `created` and `nonce`. The algorithm is the key's, of the
    consumer's `signing_keys`; one that a signature names must be the same. What is signed is
    the request as the gateway routes it, with the path normalised. A nonce is remembered in the memory that workers
    share (503 `limiter_full` without room) or in Redis (503 `authorizer_unavailable` without an answer). Private keys'
    signatures, and those written in an unusual way, share the time that new tokens have (503 `verification_busy`). 401
    `unauthorized`, `invalid_signature`, `request_replayed`. Needs the extra `fastgw[signatures]`. Order: before
    everything that asks who calls. Failure: closed.
    """

    name = "hmac"
    Options = HmacOptions
    identifies = True
    options: HmacOptions

    def __init__(self, options: HmacOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        keys: dict[str, Key] = {}
        for one in context.consumers:
            for signing in one.signing_keys:
                if signing.id in keys:
                    raise PolicyError("two signing keys have the same id")
                keys[signing.id] = key_of(signing, consumer_of(one, context.plans, credential=signing.id))
        if not keys:
            raise PolicyError("no consumer has a signing key")
        self.keys = keys
        self.store = context.store("redis") if options.replay and options.replay_store == "redis" else None
        self.signatures = Signatures(
            keys, options.components, options.max_age, options.clock_skew, options.tag, options.body
        )
        # one budget with `jwt`: whoever sends what takes long has a share of the worker's time, not all of it
        self.verifying: Verifying[Any] = context.shared.get_or_create("verifying", Verifying)

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
        if self.signatures.costs_little(given):
            try:
                found = self.signatures.plain(exchange)
            except Refused:
                return refused("invalid_signature", CHALLENGE)
            if found is not None:
                return self.settle(exchange, found)
        verdict = self.verifying.run(lambda: self.verify(exchange), exchange.client_ip)
        if isinstance(verdict, Awaitable):
            return self.later(exchange, verdict)
        return verdict if isinstance(verdict, Problem) else self.settle(exchange, verdict)

    def verify(self, exchange: Exchange) -> Parameters | Problem:
        try:
            return self.signatures.verify(exchange)
        except Refused:
            return refused("invalid_signature", CHALLENGE)

    async def later(self, exchange: Exchange, verdict: Awaitable[Any]) -> Problem | None:
        found = await verdict
        if isinstance(found, Problem):
            return found
        settled = self.settle(exchange, found)
        return await settled if isinstance(settled, Awaitable) else settled

    def settle(self, exchange: Exchange, parameters: Parameters) -> Problem | Awaitable[Problem | None] | None:
        """It is signed well. Was it seen before?"""
        if self.store is not None:
            return self.once(exchange, parameters, self.store)
        if self.options.replay and (problem := self.replayed(parameters)) is not None:
            return problem
        return self.passed(exchange, parameters)

    def passed(self, exchange: Exchange, parameters: Parameters) -> Problem | None:
        exchange.consumer = self.keys[parameters["keyid"]].consumer
        if not self.options.forward:
            exchange.request.remove("signature")
            exchange.request.remove("signature-input")
        return None

    @property
    def longest(self) -> float:
        """Seconds in which a request could come again."""
        return self.options.max_age + 2 * self.options.clock_skew + 1

    def nonce(self, parameters: Parameters) -> bytes | None:
        """What stands for a nonce in a memory; None when there is none, or too long a one."""
        nonce = parameters.get("nonce")
        if not nonce or len(nonce) > MAX_NONCE:
            return None
        return f"hmac\0{parameters['keyid']}\0{nonce}".encode()

    def replayed(self, parameters: Parameters) -> Problem | None:
        """A bucket that holds one token for as long as the request could come again."""
        nonce = self.nonce(parameters)
        if nonce is None:
            return refused("invalid_signature", CHALLENGE, NO_NONCE)
        table = self.context.bucket_table
        taken = table.try_take(table.key_of(nonce), int(self.longest * SECOND), 1)
        if taken is None:
            return Problem(503, "limiter_full", "There is no room for another nonce.", side=2)
        return None if taken[0] else refused("request_replayed", CHALLENGE)

    async def once(self, exchange: Exchange, parameters: Parameters, store: Store) -> Problem | None:
        nonce = self.nonce(parameters)
        if nonce is None:
            return refused("invalid_signature", CHALLENGE, NO_NONCE)
        try:
            new = await store.put_new(f"nonce/{hashlib.sha256(nonce).hexdigest()}", b"1", self.longest)
        except StoreError as error:
            return unavailable(f"Nonces cannot be looked up ({error.reason}).")
        return self.passed(exchange, parameters) if new else refused("request_replayed", CHALLENGE)
