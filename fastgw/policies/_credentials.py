"""What policies share that look at a credential: answers from a cache, and who is behind it."""

from __future__ import annotations

import time
from typing import Any

from fastgw._core.exchange import Problem


class Remembered:
    """`Remembered(size)`: at most so many answers, each until its time. Two generations, as _core/verified.pyx has
    them: what is asked for stays. Keys are digests; nothing that was sent is kept."""

    def __init__(self, size: int) -> None:
        self.half = (size + 1) // 2
        self.young: dict[bytes, tuple[float, Any]] = {}
        self.old: dict[bytes, tuple[float, Any]] = {}

    def __len__(self) -> int:
        return len(self.young) + len(self.old)

    def find(self, digest: bytes) -> Any:
        """None when there is nothing, or not any more."""
        found = self.young.get(digest)
        if found is None:
            found = self.old.pop(digest, None)
            if found is None:
                return None
            self._put(digest, found)
        if found[0] <= time.monotonic():
            self.young.pop(digest, None)
            return None
        return found[1]

    def keep(self, digest: bytes, seconds: float, answer: Any) -> None:
        if self.half and seconds > 0:
            self._put(digest, (time.monotonic() + seconds, answer))

    def _put(self, digest: bytes, entry: tuple[float, Any]) -> None:
        if len(self.young) >= self.half:
            self.old = self.young
            self.young = {}
        self.young[digest] = entry


def refused(code: str, challenge: str, detail: str | None = None) -> Problem:
    """401. RFC 9110 §11.6.1: it says how to authenticate."""
    return Problem(401, code, detail, headers={"WWW-Authenticate": challenge})


def unavailable(detail: str) -> Problem:
    return Problem(503, "authorizer_unavailable", detail, headers={"Retry-After": "1"}, side=2)
