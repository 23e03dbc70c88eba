from typing import Any

from fastgw._core.pool import Endpoint, Service

class Feed(Endpoint):
    service: Service
    events: bool
    def __init__(
        self,
        relay: Any,
        name: str,
        source: str,
        path: bytes,
        queue: int,
        queue_size: int,
        slow: str,
        max_message: int,
        retry_ns: int,
        retry_max_ns: int,
    ) -> None: ...
