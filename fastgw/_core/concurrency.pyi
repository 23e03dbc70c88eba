from typing import Any

class Gradient:
    limit: float
    ideal: int
    sampled: int
    probing: bool
    def __init__(
        self,
        *,
        least: float = ...,
        most: float = ...,
        window: int = ...,
        percentile: float = ...,
        buffer: float = ...,
        interval: int = ...,
        probes: int = ...,
        jitter: float = ...,
    ) -> None: ...
    def add(self, took: int, now: int, in_flight: int) -> int: ...

REASON_NAMES: tuple[str, ...]
WAIT_BOUNDS: tuple[float, ...]
LAST_CLASSES: tuple[str, ...]

class Concurrency:
    classes: tuple[str, ...]
    in_flight: int
    refused: int
    room: int
    gradient: Gradient | None
    def __init__(
        self,
        reactor: Any,
        *,
        most: int = ...,
        gradient: Gradient | None = ...,
        room: int = ...,
        patience: int = ...,
        classes: tuple[str, ...] = ...,
        shares: Any = ...,
        tenants: Any = ...,
        target: int = ...,
        interval: int = ...,
        retry_after: int = ...,
    ) -> None: ...
    @property
    def limit(self) -> int: ...
    @property
    def queued(self) -> int: ...
    def view(self, most: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]: ...
