from collections.abc import Iterable

from fastgw._core.exchange import Hook
from fastgw._core.static_reply import StaticReply

class Fallback(Hook):
    def __init__(
        self,
        *,
        circuit_open: bool,
        timeout: bool,
        failed: bool,
        statuses: Iterable[int] = ...,
        service: str | None = ...,
        total_ns: int = ...,
        body: int = ...,
        reply: StaticReply | None = ...,
    ) -> None: ...
