"""What a store can do."""

from __future__ import annotations

from dataclasses import dataclass


class StoreError(Exception):
    """The store did not do it, or not in time; a write may have happened all the same. `reason` is a word: `deadline`,
    `unreachable`, `refused` (it answered with an error), `busy`, `paused` (the breaker), `full`, `failed`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(slots=True, frozen=True)
class StoreState:
    """For metrics: calls since it was opened, those that failed, whether a breaker leaves it (or one of its servers)
    alone, and the round trips to servers: fewer than calls, as calls share them."""

    name: str
    calls: int
    failures: int
    paused: bool
    round_trips: int = 0


class Store:
    """Keys are text, values bytes, `ttl` seconds (a key without one would stay for ever: there is none).

    Every call raises StoreError when it cannot be done within the deadline.
    """

    name = ""

    async def get(self, key: str) -> bytes | None:
        raise NotImplementedError

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        raise NotImplementedError

    async def put_new(self, key: str, value: bytes, ttl: float) -> bool:
        """False, and nothing changed, when the key is there."""
        raise NotImplementedError

    async def claim(self, key: str, value: bytes, ttl: float) -> bytes | None:
        """None: it has this value now. Else nothing changed, and this is what it has."""
        raise NotImplementedError

    async def swap(self, key: str, old: bytes, new: bytes | None, ttl: float = 0.0) -> bool:
        """In one step, and only where the value is `old`: `new` in its place, or nothing (None)."""
        raise NotImplementedError

    async def delete(self, key: str) -> bool:
        """Was it there?"""
        raise NotImplementedError

    async def add(self, key: str, amount: int, ttl: float) -> int:
        """The sum; `ttl` counts from the first call on."""
        raise NotImplementedError

    def state(self) -> StoreState:
        raise NotImplementedError

    async def close(self) -> None:
        """No call afterwards."""
