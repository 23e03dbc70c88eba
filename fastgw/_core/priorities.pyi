from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastgw._core.exchange import Exchange

class Priorities:
    names: tuple[str, ...]
    default: int
    def __init__(
        self, names: tuple[str, ...], default: str, rules: Iterable[Mapping[str, Any]] = ..., routes: Any = ...
    ) -> None: ...
    def find(self, exchange: Exchange) -> str: ...

class Tenants:
    secret: bool
    def __init__(self, parts: Sequence[Any] | None = ..., weights: Any = ..., secret: bool = ...) -> None: ...
    def find(self, exchange: Exchange) -> tuple[bytes, int]: ...
