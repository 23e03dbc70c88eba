from collections.abc import Sequence
from typing import Any

class ClientContext:
    verify: bool
    reuse: bool
    identity: bytes
    def __init__(self, spec: Any, alpn: Sequence[bytes] | None = ...) -> None: ...

class UpstreamTls:
    name: str
    identity: bytes
    def __init__(self, context: ClientContext, server_name: bytes) -> None: ...
