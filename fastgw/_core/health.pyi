from collections.abc import Iterable
from typing import Any

REASONS: tuple[str, ...]
CHECKS: tuple[str, ...]
R_CHECK: int
R_ERRORS: int
R_FAILURES: int
R_SUCCESS_RATE: int
R_LATENCY: int

class HealthTable:
    def __init__(self, buffer: Any) -> None: ...
    @staticmethod
    def size(endpoints: int) -> int: ...
    def changed(self, service: str) -> None: ...
    def slot(self, service: str, url: str) -> int: ...
    def set_check(self, slot: int, service: str, state: int) -> None: ...
    def eject(self, slot: int, service: str, reason: int, base_ns: int, longest_ns: int) -> bool: ...
    def read(self, slot: int) -> dict[str, Any]: ...

class Outliers:
    def __init__(
        self,
        errors: int = ...,
        failures: int = ...,
        rates: bool = ...,
        base_ns: int = ...,
        longest_ns: int = ...,
        share: float = ...,
        grpc: Iterable[int] = ...,
    ) -> None: ...
