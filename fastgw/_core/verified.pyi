from collections.abc import Awaitable, Callable, Container, Iterable
from typing import Any

from fastgw._core.exchange import Consumer, Exchange, Hook, Problem

class Verified:
    consumer: Consumer | None
    claims: dict[str, Any]
    lines: bytes
    until: int
    since: int
    refusal: Problem | None
    key: Any
    recheck: int
    def __init__(
        self,
        consumer: Consumer | None,
        claims: dict[str, Any],
        lines: bytes,
        until: int,
        since: int,
        refusal: Problem | None,
        key: Any = ...,
    ) -> None: ...

class TokenCache:
    def __init__(self, size: int) -> None: ...
    def __len__(self) -> int: ...
    def get(self, token: bytes, now: int) -> Verified | None: ...
    def put(self, token: bytes, verified: Verified) -> None: ...
    def drop(self, keys: Container[Any]) -> None: ...

Verdict = Verified | Problem

class TokenAuth(Hook):
    cache: TokenCache
    def __init__(
        self,
        verify: Callable[[bytes, Verified | None, Exchange], Verdict | Awaitable[Verdict]],
        cache_size: int,
        max_size: int,
        user_header: bytes,
        scopes_header: bytes,
        forward: bool,
        excluded: Iterable[bytes],
        cookie: bytes | None = ...,
        query: bytes | None = ...,
        header: bool = ...,
        name: str = ...,
    ) -> None: ...
