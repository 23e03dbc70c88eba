from collections.abc import Callable, Iterable

from fastgw._core.cache_freshness import Rules
from fastgw._core.cache_key import Keys
from fastgw._core.cache_store import Storage
from fastgw._core.exchange import Exchange, Hook, Problem, Reply

class Cache(Hook):
    def __init__(
        self,
        *,
        storage: Storage,
        keys: Keys,
        rules: Rules,
        name: bytes | None = ...,
        largest: int = ...,
        wait: int = ...,
        max_waiters: int = ...,
        pass_ns: int = ...,
        tags: Iterable[bytes] = ...,
        strip_tags: bool = ...,
        honour: bool = ...,
        purger: Callable[[Exchange, Callable[[Reply | Problem], None]], Reply | Problem | None] | None = ...,
        tiers: object = ...,
        teller: object = ...,
    ) -> None: ...
