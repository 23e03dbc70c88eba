from collections.abc import Callable, Sequence
from typing import Any

from fastgw._core.exchange import Exchange, Hook
from fastgw._core.pool import Endpoint, Service

class Probe:
    exchange: Exchange
    def __init__(
        self,
        raw: bytes,
        client_ip: str = ...,
        secure: bool = ...,
        route: str = ...,
        captures: dict[str, str] | None = ...,
        settings: Any = ...,
        trusted: bool = ...,
    ) -> None: ...
    def request(self, hook: Hook) -> int: ...
    def respond(self, raw: bytes) -> None: ...
    def response(self, hook: Hook) -> int: ...
    def pick(self, service: Service, attempts: int = ...) -> Endpoint | None: ...
    def begin(self, service: Service, endpoint: Endpoint) -> None: ...
    def end(self, service: Service, status: int = ..., code: str | None = ...) -> None: ...

class ScriptedAdmission:
    def __init__(
        self, ask: Callable[[Exchange], int | None], hear: Callable[[str, Exchange, Any], None]
    ) -> None: ...
    def resume(self, exchange: Exchange, verdict: int) -> None: ...

def count_picks(service: Service, probe: Probe, n: int) -> dict[str, int]: ...

def measure(
    hooks: Sequence[Hook],
    request: bytes,
    response: bytes,
    rounds: int,
    client_ip: str = ...,
    captures: dict[str, str] | None = ...,
) -> float: ...
