from typing import Any

class Split:
    services: tuple[Any, ...]
    weights: tuple[int, ...]
    kind: str
    def __init__(self, services: tuple[Any, ...], weights: tuple[int, ...], by: str | None = ...) -> None: ...
