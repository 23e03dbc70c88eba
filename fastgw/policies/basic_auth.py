"""`basic_auth`: who calls, by name and password (RFC 7617)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Awaitable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastgw._core.exchange import Consumer, Exchange, Problem
from fastgw.config.fields import Duration
from fastgw.config.registry import Reference
from fastgw.config.schema.base import Room, key
from fastgw.policies._credentials import Remembered, refused
from fastgw.policies._members import ANONYMOUS, Paths, consumer_of, named
from fastgw.policies._passwords import password_hash, verifies
from fastgw.policies.base import BuildContext, Policy, PolicyError

MAX_CREDENTIALS = 1024


class CheckedPasswords(Room):
    """Passwords that were found right are not hashed again for a while."""

    ttl: Duration = key(300.0, "How long.", ge=0, le=86400)
    size: int = key(10_000, "How many, per worker; 0 hashes each time.", ge=0, le=1_000_000)


class BasicAuthOptions(Room):
    """How passwords are asked for and looked at. They stand, hashed, with the consumers."""

    realm: str = key("fastgw", "What the client is told it is asked for.", pattern=r'^[ !#-\[\]-~]{1,200}$')
    threads: int = key(2, "That hash, per worker, beside the loop.", ge=1, le=64)
    queue: int = key(32, "Passwords that may wait for one, per worker; more are refused with 503.", ge=1, le=10_000)
    cache: CheckedPasswords = key(CheckedPasswords(), "Right passwords.")
    forward: bool = key(False, "Let the upstream see name and password.")
    optional: bool = key(
        False,
        "Requests without a password pass too, as the consumer `anonymous` where the file has one, else as nobody.",
    )
    excluded_paths: Paths = key((), "Paths that need none: exact, or `/prefix/*`.", max_length=1000)


class Passwords:
    """Of one plan: hashing in threads, with a bound, and what was found right."""

    def __init__(self, options: BasicAuthOptions, context: BuildContext) -> None:
        self.secret = os.urandom(32)
        self.known = Remembered(options.cache.size)
        self.pool = ThreadPoolExecutor(options.threads, "fastgw-password")
        self.room = options.queue + options.threads
        self.under_way = 0
        self.users: dict[str, tuple[str, Consumer]] = {}
        for one in context.consumers:
            if one.password is not None:
                self.users[one.name] = (one.password.reveal(), consumer_of(one, context.plans))
        if not self.users:
            raise PolicyError("no consumer has a password")
        # somebody who does not exist takes as long as somebody who does
        self.decoy = password_hash(os.urandom(16).hex(), like=next(iter(self.users.values()))[0])

    def digest(self, user: str, password: str, wanted: str) -> bytes:
        """Keyed, so that what is kept here is no hash of a password that could be searched elsewhere."""
        text = b"".join(len(part).to_bytes(4) + part for part in (user.encode(), password.encode(), wanted.encode()))
        return hmac.digest(self.secret, text, hashlib.sha256)

    async def check(self, password: str, wanted: str) -> bool:
        self.under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, verifies, password, wanted)
        finally:
            self.under_way -= 1


class BasicAuth(Policy):
    """Finds the consumer by name and password.

    Hashes are Argon2 or bcrypt (`password` of a consumer; `fastgw keys password` makes one); they are computed in
    threads, at most `queue` waiting, and a right password is remembered under a keyed digest. A name that is not there
    takes as long as one that is. Put a `rate_limit` by `client_ip` before it: guessing costs the gateway more than
    the guesser. 401 `unauthorized`, `invalid_credentials`; 503 `authenticator_busy`. Needs the extra
    `fastgw[passwords]`. Order: before everything that asks who calls. Failure: closed.
    """

    name = "basic_auth"
    Options = BasicAuthOptions
    identifies = True
    options: BasicAuthOptions

    @classmethod
    def references(cls, options: BasicAuthOptions) -> Iterable[Reference]:
        yield Reference("credential", "password", ())

    def __init__(self, options: BasicAuthOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.passwords = Passwords(options, context)
        self.challenge = f'Basic realm="{options.realm}", charset="UTF-8"'
        self.anonymous = named(context, ANONYMOUS) if options.optional else None
        self.exact = frozenset(path for path in options.excluded_paths if not path.endswith("/*"))
        self.below = tuple(path[:-1] for path in options.excluded_paths if path.endswith("/*"))

    def request(self, exchange: Exchange) -> Problem | Awaitable[Problem | None] | None:
        if (self.exact or self.below) and self.excluded(exchange.path):
            return None
        given = exchange.request.get_all("authorization")
        if not given or given[0][:6].lower() != "basic ":
            if self.options.optional and not given:
                exchange.consumer = self.anonymous
                return None
            return refused("unauthorized", self.challenge, "Name and password are required.")
        user, password = credentials(given[0][6:]) if len(given) == 1 else (None, "")
        if user is None:
            return refused("invalid_credentials", self.challenge, "The credentials are malformed.")
        passwords = self.passwords
        wanted, consumer = passwords.users.get(user, (passwords.decoy, None))
        digest = passwords.digest(user, password, wanted)
        if consumer is not None and passwords.known.find(digest) is not None:
            self.passed(exchange, consumer)
            return None
        if passwords.under_way >= passwords.room:
            return Problem(503, "authenticator_busy", None, headers={"Retry-After": "1"}, side=2)
        return self.verified(exchange, password, wanted, digest, consumer)

    def excluded(self, path: str) -> bool:
        return path in self.exact or path.startswith(self.below) or f"{path}/" in self.below

    async def verified(
        self, exchange: Exchange, password: str, wanted: str, digest: bytes, consumer: Consumer | None
    ) -> Problem | None:
        good = await self.passwords.check(password, wanted)
        if not good or consumer is None:
            return refused("invalid_credentials", self.challenge)
        self.passwords.known.keep(digest, self.options.cache.ttl, True)
        self.passed(exchange, consumer)
        return None

    def passed(self, exchange: Exchange, consumer: Consumer) -> None:
        exchange.consumer = consumer
        if not self.options.forward:
            exchange.request.remove("authorization")


def credentials(text: str) -> tuple[str | None, str]:
    """RFC 7617 §2: user-pass = user-id ":" password, in base64. (None, "") for what is none."""
    if len(text) > MAX_CREDENTIALS:
        return None, ""
    try:
        found: Any = base64.b64decode(text.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return None, ""
    user, colon, password = found.partition(":")
    if not colon or not user or any(c < " " or c == "\x7f" for c in found):
        return None, ""
    return user, password
