from collections.abc import Iterable
from typing import Any

STATES: tuple[str, ...]
EVENTS: tuple[str, ...]
TRANSITIONS: tuple[tuple[str, str, str], ...]
REASONS: tuple[str, ...]

class CircuitTable:
    def __init__(self, buffer: Any) -> None: ...
    @staticmethod
    def size(circuits: int) -> int: ...
    def place(self, scope: str, service: str, name: str) -> int: ...
    def read(self, place: int, window_ns: int, now_ns: int | None = ...) -> dict[str, Any]: ...
    def command(self, place: int, event: str, now_ns: int | None = ...) -> bool: ...

class BreakerRules:
    def __init__(
        self,
        *,
        failures: int = ...,
        error_rate: float = ...,
        least: int = ...,
        window_ns: int = ...,
        slow_ns: int = ...,
        slow_rate: float = ...,
        open_ns: int = ...,
        probes: int = ...,
        statuses: Iterable[int] = ...,
        grpc: Iterable[int] = ...,
    ) -> None: ...

class Breaker:
    def __init__(
        self, table: CircuitTable, rules: BreakerRules, scope: str, service: str, name: str = ...
    ) -> None: ...
    def ask(self, place: int, now: int) -> int: ...
    def tell(self, place: int, mark: int, now: int, well: bool, slow: bool = ...) -> int: ...
    def over(self, place: int, mark: int) -> None: ...
    def gone(self, place: int, mark: int) -> None: ...
