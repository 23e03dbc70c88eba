from fastgw._core.bucket import BucketTable
from fastgw._core.holds import HoldTable

ALGORITHMS: tuple[str, ...]

Told = tuple[bool, int, int, int, int, int, int]

class One:
    phase: int
    interval: int
    def __init__(
        self,
        table: BucketTable,
        holds: HoldTable | None,
        algorithm: str,
        requests: int,
        per: int,
        burst: int = ...,
        queue: int = ...,
        delay: int = ...,
        name: bytes = ...,
    ) -> None: ...
    def take(self, key: int, now: int | None = ..., cost: int = ...) -> Told | None: ...
    def peek(self, key: int, now: int | None = ..., cost: int = ...) -> Told | None: ...
    def charge(self, key: int, now: int | None = ..., cost: int = ...) -> Told | None: ...
    def undo(self, key: int, cost: int, now: int, mark: int) -> None: ...
    def forget(self, key: int) -> bool: ...

def take_all(ones: list[One], key: int, now: int | None = ..., cost: int = ...) -> tuple[int, int]: ...
