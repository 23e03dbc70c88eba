from collections.abc import Iterable
from typing import Protocol

from fastgw._core.exchange import Hook

Told = tuple[int, int, bytes, bytes | None]
"""An answer: status, grpc-status or -1, header lines, body or None where it is not all here."""

class Comparing(Protocol):
    def room(self) -> bool: ...
    def skipped(self, route: str, why: str) -> None: ...
    def submit(self, route: str, what: tuple[str, str, str], live: Told, shadow: Told) -> None: ...

class Tally:
    in_flight: int

class Mirror(Hook):
    def __init__(
        self,
        service: str,
        share: float,
        timeout: int,
        max_in_flight: int,
        max_body: int,
        removed: Iterable[bytes] = ...,
        added: Iterable[tuple[bytes, bytes]] = ...,
        tally: Tally | None = ...,
        compare: Comparing | None = ...,
        compare_body: int = ...,
    ) -> None: ...

