from collections.abc import Callable
from typing import Any

from fastgw._core.exchange import Exchange, Hook

class Pressure:
    behind: int
    active: int
    sheds: dict[str, int]
    def saw(self, late: int) -> None: ...
    def view(self) -> dict[str, Any]: ...

class OverloadHook(Hook):
    pressure: Pressure
    def __init__(
        self, pressure: Pressure, lag: int, most: int, retry_after: int, report: Callable[[Exchange], None]
    ) -> None: ...
