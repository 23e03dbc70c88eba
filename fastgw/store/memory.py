"""The store of one process: each worker has its own, and it ends with the worker.

For one worker, for tests, and for what may differ between workers. What must hold for a host (a revoked token, a
nonce that was seen) needs Redis.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fastgw.store.base import Store, StoreError, StoreState

MAX_KEYS = 100_000
MAX_BYTES = 64 * 1024 * 1024
LOOKED_AT = 32
"""Keys whose age is looked at by each write: what expires is gone before as much again was written."""


class MemoryStore(Store):
    """Bounded in keys and bytes: a write beyond fails, so that nothing is forgotten early. `now` gives seconds."""

    name = "memory"

    def __init__(
        self, max_keys: int = MAX_KEYS, max_bytes: int = MAX_BYTES, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_keys = max_keys
        self.max_bytes = max_bytes
        self.now = now
        self.found: dict[str, tuple[bytes, float]] = {}
        self.bytes = 0
        self.calls = self.failures = 0

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self.found)} keys>"

    def drop(self, key: str) -> None:
        value, _ = self.found.pop(key)
        self.bytes -= len(key) + len(value)

    def live(self, key: str) -> tuple[bytes, float] | None:
        self.calls += 1
        found = self.found.get(key)
        if found is not None and found[1] <= self.now():
            self.drop(key)
            return None
        return found

    def write(self, key: str, value: bytes, until: float) -> None:
        now = self.now()
        for _ in range(min(LOOKED_AT, len(self.found))):
            old = next(iter(self.found))
            kept = self.found.pop(old)
            if kept[1] > now:
                self.found[old] = kept               # to the end: the next write looks at others
            else:
                self.bytes -= len(old) + len(kept[0])
        if key in self.found:
            self.drop(key)
        size = len(key) + len(value)
        if len(self.found) >= self.max_keys or self.bytes + size > self.max_bytes:
            self.failures += 1
            raise StoreError("full", f"{len(self.found)} keys")
        self.found[key] = value, until
        self.bytes += size

    async def get(self, key: str) -> bytes | None:
        found = self.live(key)
        return None if found is None else found[0]

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        self.calls += 1
        self.write(key, value, self.now() + ttl)

    async def put_new(self, key: str, value: bytes, ttl: float) -> bool:
        if self.live(key) is not None:
            return False
        self.write(key, value, self.now() + ttl)
        return True

    async def claim(self, key: str, value: bytes, ttl: float) -> bytes | None:
        found = self.live(key)
        if found is not None:
            return found[0]
        self.write(key, value, self.now() + ttl)
        return None

    async def swap(self, key: str, old: bytes, new: bytes | None, ttl: float = 0.0) -> bool:
        found = self.live(key)
        if found is None or found[0] != old:
            return False
        if new is None:
            self.drop(key)
        else:
            self.write(key, new, self.now() + ttl)
        return True

    async def delete(self, key: str) -> bool:
        if self.live(key) is None:
            return False
        self.drop(key)
        return True

    async def add(self, key: str, amount: int, ttl: float) -> int:
        found = self.live(key)
        if found is None:
            total, until = amount, self.now() + ttl
        else:
            try:
                total, until = int(found[0]) + amount, found[1]
            except ValueError:
                raise StoreError("refused", "the value is not a number") from None
        self.write(key, b"%d" % total, until)
        return total

    def state(self) -> StoreState:
        return StoreState(self.name, self.calls, self.failures, False)

    async def close(self) -> None:
        self.found.clear()
        self.bytes = 0
