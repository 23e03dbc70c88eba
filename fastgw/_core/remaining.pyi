from collections.abc import Iterable
from typing import Any

from fastgw._core.exchange import Hook

class RemainingTime(Hook):
    header: bytes
    honour: bool
    def __init__(
        self, reactor: Any, header: bytes, honour: bool = ..., services: Iterable[str] | None = ...
    ) -> None: ...
