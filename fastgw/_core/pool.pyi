from collections.abc import Mapping, Sequence
from typing import Any

Address = tuple[int, bytes]

class Opener: ...

class Limits:
    max_connections: int
    max_idle: int
    queue_size: int
    queue_ns: int
    idle_ns: int
    connect_ns: int
    response_trailers: bool
    proxy_protocol: int
    def __init__(
        self,
        max_connections: int = ...,
        max_idle: int = ...,
        queue_size: int = ...,
        queue_ns: int = ...,
        idle_ns: int = ...,
        connect_ns: int = ...,
        response_trailers: int = ...,
        proxy_protocol: int = ...,
    ) -> None: ...

class Endpoint:
    name: str
    url: str
    host: bytes
    addresses: tuple[Address, ...]
    limits: Limits
    connections: int
    connecting: int
    busy: int
    connects: int
    connect_errors: int
    reuses: int
    retired: bool
    zone: str
    priority: int
    down: bool
    open: bool
    breaker: int
    health: int
    since: int
    in_flight: int
    latency: float
    latency_at: int
    labels: Mapping[str, str]
    @property
    def idle_count(self) -> int: ...
    @property
    def waiting_count(self) -> int: ...
    def set_addresses(self, addresses: tuple[Address, ...]) -> None: ...

class Balancer:
    watched: bool

class Service:
    name: str
    slot: int
    endpoints: tuple[Endpoint, ...]
    balancer: Any
    def __init__(
        self,
        name: str,
        endpoints: tuple[Endpoint, ...],
        weights: Sequence[int] | None = ...,
        slot: int = ...,
        host_header: bytes | None = ...,
        response_ns: int = ...,
        idle_ns: int = ...,
        balancer: Balancer | None = ...,
        retry: Any = ...,
        admissions: tuple[Any, ...] = ...,
    ) -> None: ...
    def set_endpoints(self, endpoints: tuple[Endpoint, ...], weights: Sequence[int] | None = ...) -> None: ...
