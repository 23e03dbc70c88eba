from collections.abc import Iterable, Mapping

from fastgw._core.exchange import Consumer, Hook
from fastgw._core.usage import UsageTable

Managed = tuple[str, str, tuple[str, ...] | None, int]
"""id, name of the consumer, scopes (None: the consumer's), ns since the epoch of the end (0: none)."""

class Key:
    consumer: Consumer
    until: int
    def __init__(self, consumer: Consumer, until: int) -> None: ...

class KeyTable:
    usage: UsageTable
    version: int
    broken: bool
    def __init__(self, usage: UsageTable | None = ...) -> None: ...
    def __len__(self) -> int: ...
    def replace(self, managed: Mapping[bytes, Managed]) -> None: ...
    def meet(self, people: Mapping[str, Consumer]) -> None: ...
    def hold(self, seconds: float) -> None: ...
    def change(self, put: Mapping[bytes, Managed], drop: Iterable[bytes]) -> None: ...

class KeyAuth(Hook):
    def __init__(
        self,
        keys: dict[bytes, Key],
        consumers: dict[str, Consumer],
        table: KeyTable | None,
        header: bytes | None,
        query: bytes | None,
        cookie: bytes | None,
        forward: bool,
        optional: bool = ...,
        anonymous: Consumer | None = ...,
        excluded: Iterable[bytes] = ...,
    ) -> None: ...
