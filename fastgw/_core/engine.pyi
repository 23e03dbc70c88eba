import asyncio
import socket
from collections.abc import Callable, Collection
from typing import Any

from fastgw._core.exchange import Exchange
from fastgw._core.plan import Plan
from fastgw._core.pool import Endpoint, Limits, Opener
from fastgw._core.record import Stats

class Engine:
    loop: asyncio.AbstractEventLoop
    closed: bool
    h1: Any
    relay: Any
    opener: Any
    reactor: Any
    stats: Stats
    kept: dict[Any, Any]
    ports: dict[str, int]
    def __init__(self, loop: asyncio.AbstractEventLoop, stats: Stats) -> None: ...
    @property
    def plan(self) -> Plan | None: ...
    @property
    def connections(self) -> int: ...
    @property
    def active(self) -> int: ...
    def adopt(self, plan: Plan) -> None: ...
    def endpoint(
        self,
        service: str,
        name: str,
        url: str,
        host: bytes,
        addresses: tuple[tuple[int, bytes], ...],
        limits: Limits,
        identity: object = ...,
        make: Callable[[], Any] | None = ...,
        opener: Opener | None = ...,
    ) -> Endpoint: ...
    def settle(self, service: str, used: Collection[Endpoint]) -> None: ...
    def set_addresses(self, url: str, addresses: tuple[tuple[int, bytes], ...]) -> None: ...
    def listen(self, sock: socket.socket, name: str | None = ...) -> int: ...
    def unlisten(self, lid: int) -> socket.socket: ...
    def drain(self, spread: float = ...) -> None: ...
    def close(self) -> None: ...
    def set_access_log(self, sink: Callable[[Exchange], None] | None) -> None: ...
    def snapshot(self) -> dict[str, Any]: ...
