from collections.abc import Mapping
from typing import Any

from fastgw._core.exchange import Hook
from fastgw._core.health import HealthTable, Outliers
from fastgw._core.pool import Balancer
from fastgw._core.template import Compiled

KINDS: tuple[str, ...]

class Load:
    in_flight: int

class Cookie:
    name: bytes
    def __init__(self, name: bytes, attributes: bytes = ..., always_secure: bool = ...) -> None: ...

class LoadBalancer(Balancer):
    kind: str
    panicking: bool
    ejected: int
    def __init__(
        self,
        kind: str = ...,
        key: Compiled | None = ...,
        bounded: float = ...,
        decay_ns: int = ...,
        slow_start_ns: int = ...,
        min_healthy: float = ...,
        panic: bool = ...,
        zone: str = ...,
        labels: Mapping[str, str] | None = ...,
        subset: int = ...,
        seed: bytes = ...,
        cookie: Cookie | None = ...,
        load: Load | None = ...,
        live: bool = ...,
        service: str = ...,
        health: HealthTable | None = ...,
        outliers: Outliers | None = ...,
        ring: bool = ...,
        breaker: Any = ...,
    ) -> None: ...
    def refresh(self) -> None: ...
    def fill(self) -> bool: ...

class StickyCookie(Hook): ...
