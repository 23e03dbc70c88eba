from typing import Any

from fastgw._core.pool import Opener

class H2Opener(Opener):
    negotiate: bool
    demand: bool
    max_streams: int
    window: int
    ping_ns: int
    pong_ns: int
    def __init__(
        self,
        plain: Any,
        *,
        negotiate: bool = ...,
        demand: bool = ...,
        max_streams: int = ...,
        window: int = ...,
        ping_ns: int = ...,
        pong_ns: int = ...,
    ) -> None: ...
