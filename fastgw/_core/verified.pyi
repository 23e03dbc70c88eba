from collections.abc import Callable, Iterable
from typing import Any

from fastgw._core.exchange import Consumer, Hook, Problem

class Verified:
    consumer: Consumer | None
    claims: dict[str, Any]
    lines: bytes
    until: int
    since: int
    refusal: Problem | None
    def __init__(
        self,
        consumer: Consumer | None,
        claims: dict[str, Any],
        lines: bytes,
        until: int,
        since: int,
        refusal: Problem | None,
    ) -> None: ...

class TokenCache:
    def __init__(self, size: int) -> None: ...
    def __len__(self) -> int: ...
    def get(self, token: bytes, now: int) -> Verified | None: ...
    def put(self, token: bytes, verified: Verified) -> None: ...

class TokenAuth(Hook):
    cache: TokenCache
    def __init__(
        self,
        verify: Callable[[bytes], Verified | Problem],
        cache_size: int,
        max_size: int,
        user_header: bytes,
        scopes_header: bytes,
        forward: bool,
        excluded: Iterable[bytes],
    ) -> None: ...
