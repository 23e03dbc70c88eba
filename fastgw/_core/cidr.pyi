from collections.abc import Callable, Iterable
from enum import IntEnum

from fastgw._core.exchange import Exchange, Hook

class Listed(IntEnum):
    NOWHERE = 0
    ALLOWED = 1
    DENIED = 2

class CidrTable:
    entries: int
    def __init__(self, sources: Iterable[tuple[int, str, bytes]]) -> None: ...
    def become(self, other: CidrTable) -> None: ...
    def look_up(self, address: str) -> Listed: ...

class IpFilter(Hook):
    def __init__(
        self, table: CidrTable, closed: bool, report: Callable[[Exchange], None] | None = ..., keep: object = ...
    ) -> None: ...
