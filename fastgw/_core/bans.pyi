from collections.abc import Callable, Iterable

from typing_extensions import Buffer

from fastgw._core.bucket import BucketTable
from fastgw._core.cidr import CidrTable
from fastgw._core.exchange import Exchange, Hook

class BanTable:
    def __init__(self, buffer: Buffer) -> None: ...
    @staticmethod
    def size(bans: int) -> int: ...
    @classmethod
    def private(cls, bans: int) -> BanTable: ...
    def add(self, hashing: BucketTable, address: str, seconds: float, status: int = ...) -> bool: ...
    def seconds_left(self, hashing: BucketTable, address: str) -> float: ...
    def lift(self, hashing: BucketTable, address: str) -> bool: ...
    def entries(self) -> list[tuple[str, float, int]]: ...

class BanHook(Hook):
    def __init__(
        self,
        table: BanTable,
        counts: BucketTable,
        identity: bytes,
        events: int,
        window: int,
        length: int,
        statuses: Iterable[int],
        codes: Iterable[str],
        exempt: CidrTable | None,
        report: Callable[[Exchange], None],
        enforce: bool,
    ) -> None: ...

class MemoryHook(Hook):
    def __init__(
        self, sample: Callable[[], bool], every: int, retry_after: int, report: Callable[[Exchange], None]
    ) -> None: ...
