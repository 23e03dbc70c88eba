"""`idempotency`: what is sent twice is done once (draft-ietf-httpapi-idempotency-key-header)."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import struct
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, StringConstraints, WithJsonSchema

from fastgw._core.exchange import Exchange, Hook, Problem, Reply, WholeBody
from fastgw._core.idempotency import IdempotencyHook
from fastgw.config.fields import Duration, HeaderName, Size
from fastgw.config.registry import Reference
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.stores import OnFailure, StoreName
from fastgw.policies._parts import listed
from fastgw.policies.base import BuildContext, Policy
from fastgw.store import StoreError

logger = logging.getLogger("fastgw.idempotency")

RUNNING, ANSWER, GONE = b"R", b"A", b"G"
"""What a key has: somebody works on it; an answer; or the answer cannot be given again. Then the fingerprint."""
PRINT = 32
HEAD = struct.Struct("!HI")
MAX_KEY = 255
MAX_WAITING = 1000
"""Requests of one route and worker that wait for another's answer; more get 409 at once."""
FIRST_LOOK, LONGEST_LOOK = 0.02, 0.25

Status = Annotated[
    str,
    BeforeValidator(str),
    StringConstraints(pattern=r"^[2-5](xx|[0-9]{2})$"),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": "^[2-5](xx|[0-9]{2})$"},
                              {"type": "integer", "minimum": 200, "maximum": 599}]}),
]  # fmt: skip
Statuses = Annotated[tuple[Status, ...], BeforeValidator(listed)]
Method = Literal["POST", "PATCH", "PUT", "DELETE"]


class IdempotencyOptions(Room):
    """Whose keys are honoured, what is kept of answers, and where."""

    store: StoreName = key(
        doc="Where answers are kept. `memory` is each worker's own, and a request that comes again may meet another "
        "worker: with several workers, or hosts, it takes `redis`.",
        example="redis",
    )
    on_failure: OnFailure = key(
        doc="While the store cannot be asked: `closed` refuses requests with a key (503 store_unavailable), `open` "
        "lets them pass as if they had none.",
        example="closed",
    )
    header: HeaderName = key("Idempotency-Key", "The request header that carries the key.")
    methods: tuple[Method, ...] = key(("POST", "PATCH"), "Requests by other methods pass.", min_length=1, max_length=4)
    required: bool = key(False, "Refuse requests by these methods that have no key (400).")
    identity_headers: tuple[HeaderName, ...] = key(
        ("Authorization", "Cookie"),
        "A key belongs to who calls: to the consumer, or to issuer and subject of a token, where a policy before found "
        "that out; else to the values of these request headers.",
        max_length=20,
    )
    ttl: Duration = key(86400.0, "How long an answer is given again.", ge=1, le=2592000, example="24h")
    lock: Duration = key(
        30.0, "A gateway that dies leaves its requests locked for so long; while one works it renews the lock.",
        ge=0.1, le=3600,
    )  # fmt: skip
    wait: Duration = key(
        0.0, "How long a request waits for the first with its key; then, or at once when 0, it gets 409.", ge=0, le=60,
        example="5s",
    )  # fmt: skip
    max_request: Size = key(
        1024 * 1024, "Of a body, which is held until it is whole, to be compared; more is 413.", ge=0, le=67108864,
        example="1MiB",
    )  # fmt: skip
    max_answer: Size = key(
        1024 * 1024, "Of an answer's body; a larger one passes and is not kept.", ge=1, le=67108864, example="1MiB"
    )
    statuses: Statuses = key(("2xx", "3xx", "4xx"), "Answers that are kept; after others the request may come again.",
                             min_length=1, max_length=100)  # fmt: skip
    except_statuses: Statuses = key(
        ("401", "403", "407", "408", "409", "421", "425", "429"), "Of these, answers that are not kept.", max_length=100
    )
    after_failure: Literal["again", "refuse"] = key(
        "again",
        "When the service may have had a request and did not answer it: `again`, retries, and the client with the "
        "same key, send it once more; `refuse`, nobody does, and the key gets 409 from then on. A request that was "
        "never sent may always come again.",
    )
    replayed_header: HeaderName = key("Idempotent-Replayed", "Says `true` on an answer that is given again.")


def key_of(given: str) -> str | None:
    """The draft's form, a String of RFC 8941 §3.3.3, or as most clients send it, bare. None: it is neither."""
    if len(given) >= 2 and given[0] == given[-1] == '"':
        given = given[1:-1].replace('\\"', "\0").replace("\\\\", "\1")
        if '"' in given or "\\" in given:
            return None
        given = given.replace("\0", '"').replace("\1", "\\")
    good = given.isascii() and given.isprintable() and 0 < len(given) <= MAX_KEY
    return given if good else None


def digest(*parts: str | bytes) -> bytes:
    """Of parts that cannot flow into each other."""
    found = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        found.update(len(raw).to_bytes(8, "big"))
        found.update(raw)
    return found.digest()


def unpack(head: bytes) -> list[tuple[str, str]]:
    """The lines of a head."""
    pairs = (line.partition(": ") for line in head.decode("latin-1").split("\r\n") if line)
    return [(name, value) for name, _, value in pairs]


@dataclass(slots=True, eq=False)
class Claim:
    """Of one request under way: what its key is locked by."""

    place: str
    fingerprint: bytes
    lock: bytes


class Idempotency(Policy):
    """The first answer to a request with an `Idempotency-Key` is kept, and given again when the request comes again.

    Meanwhile another with the key gets 409 `idempotency_running` (or waits, see `wait`); one that is not the same
    (method, host, path, query, body) 422 `idempotency_mismatch`; without a usable key, where it must have one, 400
    `idempotency_key_wrong`. A client that leaves does not end its request: the answer is kept for when it asks again.
    An answer over `max_answer` passes and is not kept (`Idempotency-Kept: no` when its length is known), and the key
    gets 409 `idempotency_not_kept`: it is not done twice for that. `retry` may send a request with a key again,
    whatever its method (see `after_failure`). gRPC and WebSockets pass.

    Order: after authentication and limits. Failure: see `on_failure`.
    """

    name = "idempotency"
    Options = IdempotencyOptions
    options: IdempotencyOptions

    @classmethod
    def references(cls, options: IdempotencyOptions) -> Iterable[Reference]:
        return [Reference("store", options.store, ("store",))]

    def __init__(self, options: IdempotencyOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.store = context.store(options.store)
        self.methods = frozenset(options.methods)
        self.kept = frozenset(n for n in range(200, 600) if self.listed(n, options.statuses)
                              and not self.listed(n, options.except_statuses))  # fmt: skip
        self.native = IdempotencyHook(self, Policy, options.max_answer, options.after_failure == "again")
        self.held: set[Claim] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.timer: asyncio.TimerHandle | None = None
        self.waiting = 0

    def hook(self) -> Hook:
        return self.native

    @staticmethod
    def listed(status: int, statuses: tuple[str, ...]) -> bool:
        return str(status) in statuses or f"{status // 100}xx" in statuses

    # ------------------------------------------------------------------ a request

    def request(self, exchange: Exchange) -> Any:
        options = self.options
        if exchange.method not in self.methods:
            return None
        given = exchange.request.get_all(options.header)
        if not given:
            if options.required:
                return Problem(400, "idempotency_key_wrong", f"This request needs the header {options.header}.")
            return None
        name = key_of(given[0]) if len(given) == 1 else None
        if name is None:
            detail = f"{options.header} is not one key of 1 to {MAX_KEY} printable characters."
            return Problem(400, "idempotency_key_wrong", detail)
        body = exchange.request_body
        if body is None and exchange.announces_body:
            return WholeBody(options.max_request)
        place = digest(self.context.route_name or "", self.caller(exchange), name)
        fingerprint = digest(exchange.method, exchange.host.lower(), exchange.path, exchange.query, body or b"")
        lock = RUNNING + fingerprint + secrets.token_bytes(16)
        return self.begin(exchange, Claim(f"idempotency/{place.hex()}", fingerprint, lock))

    def caller(self, exchange: Exchange) -> bytes:
        consumer, claims = exchange.consumer, exchange.claims
        if claims is not None and claims.get("sub") is not None:
            return digest("claims", str(claims.get("iss")), str(claims["sub"]), consumer.name if consumer else "")
        if consumer is not None:
            return digest("consumer", consumer.name)
        given = [(name.lower(), exchange.request.get_all(name)) for name in self.options.identity_headers]
        return digest("headers", *(f"{name}:{value}" for name, values in given for value in values))

    async def begin(self, exchange: Exchange, claim: Claim) -> Reply | Problem | None:
        options = self.options
        until = time.monotonic() + options.wait
        look = FIRST_LOOK
        while True:
            try:
                found = await self.store.claim(claim.place, claim.lock, options.lock)
            except StoreError as error:
                self.later(self.release(claim))      # it may have come about all the same
                if options.on_failure == "open":
                    return None
                detail = f"Idempotency keys cannot be looked up ({error.reason})."
                return Problem(503, "store_unavailable", detail, {"Retry-After": "1"}, side=2)
            except asyncio.CancelledError:
                self.later(self.release(claim))
                raise
            if found is None:
                self.hold(exchange, claim)
                return None
            if found[1 : 1 + PRINT] != claim.fingerprint:
                return Problem(422, "idempotency_mismatch", "This key came with another request before.")
            if found[:1] != RUNNING:
                return self.again(exchange, found)
            left = until - time.monotonic()
            if left <= 0 or self.waiting >= MAX_WAITING:
                detail = "The first request with this key is still under way."
                return Problem(409, "idempotency_running", detail, {"Retry-After": "1"})
            self.waiting += 1
            try:
                await asyncio.sleep(min(look, left))
            finally:
                self.waiting -= 1
            look = min(look * 2, LONGEST_LOOK)

    def again(self, exchange: Exchange, found: bytes) -> Reply | Problem:
        if found[:1] != ANSWER:
            return Problem(409, "idempotency_not_kept", "The request was made, and its answer was not kept.")
        at = 1 + PRINT
        status, length = HEAD.unpack_from(found, at)
        at += HEAD.size
        self.native.count(exchange, True)
        headers = [*unpack(found[at : at + length]), (self.options.replayed_header, "true")]
        return Reply(status, found[at + length :], headers)

    # ------------------------------------------------------------------ what becomes of it

    def hold(self, exchange: Exchange, claim: Claim) -> None:
        self.held.add(claim)
        self.native.begin(exchange, claim)
        if self.timer is None:
            self.rest()

    def rest(self) -> None:
        """Until locks are to be renewed. They end by themselves, so that a gateway that dies locks nothing for ever."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:                         # a trial without a gateway
            return
        self.timer = loop.call_later(self.options.lock / 3, lambda: self.later(self.renew()))

    def let_go(self, claim: Claim) -> None:
        self.held.discard(claim)
        if not self.held and self.timer is not None:
            self.timer.cancel()
            self.timer = None

    async def renew(self) -> None:
        fired = self.timer
        for claim in list(self.held):
            try:
                await self.store.swap(claim.place, claim.lock, claim.lock, self.options.lock)
            except StoreError:
                continue                             # two more chances
        if self.timer is fired:                      # else another one runs since
            self.timer = None
            if self.held:
                self.rest()

    def keep(self, claim: Claim, status: int, head: bytes, body: bytes | None) -> None:
        """The answer came to its end; `body` None: it was too large."""
        if status not in self.kept:
            self.later(self.release(claim))
        elif body is None:
            self.later(self.settle(claim, GONE + claim.fingerprint))
        else:
            answer = ANSWER + claim.fingerprint + HEAD.pack(status, len(head)) + head + body
            self.later(self.settle(claim, answer))

    def ended(self, claim: Claim, sent: bool) -> None:
        """There is no answer of the service; `sent`: it may have had the request."""
        if sent and self.options.after_failure == "refuse":
            self.later(self.settle(claim, GONE + claim.fingerprint))
        else:
            self.later(self.release(claim))

    def later(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            task = asyncio.get_running_loop().create_task(coroutine)
        except RuntimeError:                         # a trial without a gateway
            coroutine.close()
            return
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def settle(self, claim: Claim, value: bytes) -> None:
        """Until the store takes it, for as long as the lock would hold without us."""
        wait, until, failed = 0.05, time.monotonic() + self.options.lock, False
        while True:
            try:
                done = await self.store.swap(claim.place, claim.lock, value, self.options.ttl)
                reason = "its lock had ended"
                if done or failed:                   # of a call that failed we do not know whether it was done
                    break
            except StoreError as error:
                failed, reason = True, str(error)
                if time.monotonic() + wait < until:
                    await asyncio.sleep(wait)
                    wait *= 2
                    continue
            logger.warning("the answer to a request with an idempotency key was not kept: %s", reason)
            break
        self.let_go(claim)

    async def release(self, claim: Claim) -> None:
        """Without success the lock ends by itself."""
        self.let_go(claim)
        try:
            await self.store.swap(claim.place, claim.lock, None)
        except StoreError:
            logger.info("the lock of an idempotency key is left to its end")
