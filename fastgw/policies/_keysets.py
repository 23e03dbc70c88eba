"""The keys of issuers, as a worker knows them: fetched by the agent once per host, here kept and looked up.

`Source` says what is to be fetched; it is part of the compiled configuration. `KeySet` is what was fetched; it travels
from the agent to the workers. `Keys` is what a policy holds: the keys that are in force at this moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from fastgw.policies.base import Shared

if TYPE_CHECKING:
    from fastgw.policies._jwk import SigningKey

LONGEST_WAIT = 6.0
MAX_WAITING = 1000


@dataclass(frozen=True, slots=True)
class Source:
    """Where the keys of an issuer are. Durations in seconds.

    jwks_url   None: by OIDC discovery, `issuer` + `/.well-known/openid-configuration`
    refresh    how often they are fetched
    overlap    how long a key is good that the issuer took away
    keep       how long the last good keys are good while the issuer does not answer; None: without end
    cooldown   between two questions for a key that is not known: so much do tokens with made-up keys cost
    """

    issuer: str
    jwks_url: str | None
    algorithms: tuple[str, ...]
    ca: str | None = None
    timeout: float = 5.0
    refresh: float = 900.0
    overlap: float = 600.0
    keep: float | None = None
    cooldown: float = 10.0


@dataclass(frozen=True, slots=True)
class KeySet:
    """What an issuer has told. `keys` are JWKs, `metadata` the texts of its discovery document."""

    version: int
    keys: tuple[Mapping[str, Any], ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


class Listener(Protocol):
    def keys_gone(self, gone: set[SigningKey]) -> None: ...


class Keys:
    """The keys of one issuer in this process. `known` is False until the issuer has answered once."""

    def __init__(self, source: Source, ask: Callable[[Source], None] | None) -> None:
        self.source = source
        self.ask = ask
        self.known = False
        self.metadata: Mapping[str, str] = {}
        self.pairs: list[tuple[Mapping[str, Any], SigningKey]] = []
        self.by_kid: dict[str | None, SigningKey] = {}
        self.listeners: WeakSet[Any] = WeakSet()
        self.asked: asyncio.Future[None] | None = None
        self.waiting = 0
        self.not_before = 0.0

    def __repr__(self) -> str:
        return f"<Keys of {self.source.issuer}: {len(self.pairs)}>"

    def take(self, told: KeySet) -> None:
        """What stayed the same stays the same object; listeners are told what went."""
        from fastgw.policies._jwk import read_jwks  # with the libraries that read keys: only where there are any

        before = self.pairs
        self.pairs = []
        for jwk, key in read_jwks(list(told.keys), self.source.algorithms)[0]:
            same = next((old for known, old in before if known == jwk), key)
            self.pairs.append((jwk, same))
        self.by_kid = {}
        for _, key in reversed(self.pairs):          # of two with one kid the first counts: the newer one
            self.by_kid[key.kid] = key
        self.metadata = told.metadata
        self.known = True
        gone = {key for _, key in before} - set(self.by_kid.values())
        if gone:
            for listener in list(self.listeners):
                listener.keys_gone(gone)

    def find(self, kid: str | None, algorithm: object) -> SigningKey | None:
        """By its kid; a token without one has the only key of its algorithm, if there is one only."""
        if kid is not None:
            return self.by_kid.get(kid)
        able = [key for _, key in self.pairs if key.algorithm == algorithm]
        return able[0] if len(able) == 1 else None

    # ------------------------------------------------------------------ a key that is not known

    def may_ask(self) -> bool:
        return self.ask is not None and (
            self.waiting < MAX_WAITING if self.asked is not None else time.monotonic() >= self.not_before
        )

    async def refetch(self) -> None:
        """Has the keys fetched anew; who asks meanwhile waits for the same answer. Returns when it is there, or when
        it takes too long."""
        asked = self.asked
        if asked is None:
            assert self.ask is not None
            loop = asyncio.get_running_loop()
            asked = self.asked = loop.create_future()
            loop.call_later(LONGEST_WAIT, self.checked, asked)
            self.ask(self.source)                    # may answer before it returns
        self.waiting += 1
        try:
            await asyncio.shield(asked)
        finally:
            self.waiting -= 1

    def checked(self, asked: asyncio.Future[None] | None = None) -> None:
        """The issuer was asked."""
        if self.asked is None or (asked is not None and asked is not self.asked):
            return
        if not self.asked.done():
            self.asked.set_result(None)
        self.asked = None
        self.not_before = time.monotonic() + self.source.cooldown


class KeyRing:
    """All issuers' keys of one process, over plans. `ask` brings a wish for a source to the agent."""

    def __init__(self) -> None:
        self.ask: Callable[[Source], None] | None = None
        self.keys: dict[Source, Keys] = {}

    def of(self, source: Source) -> Keys:
        found = self.keys.get(source)
        if found is None:
            found = self.keys[source] = Keys(source, self.wish)
        return found

    def wish(self, source: Source) -> None:
        if self.ask is not None:
            self.ask(source)
        else:
            self.of(source).checked()                # nobody fetches here: in a trial, or in `fastgw test`

    def take(self, told: Mapping[Source, KeySet | None], checked: tuple[Source, ...] = ()) -> None:
        """None for a source that is in no configuration any more."""
        for source, keys in told.items():
            if keys is None:
                self.keys.pop(source, None)
            else:
                self.of(source).take(keys)
        for source in checked:
            if source in self.keys:
                self.keys[source].checked()


def ring_of(shared: Shared) -> KeyRing:
    """The one of this process."""
    ring: KeyRing = shared.get_or_create("keys", KeyRing)
    return ring
