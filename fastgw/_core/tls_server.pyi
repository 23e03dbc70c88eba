from collections.abc import Sequence
from typing import Any

from fastgw._core.accept import Codec

class ServerContext:
    client_auth: int
    def __init__(self, spec: Any, alpn: Sequence[bytes] | None = ...) -> None: ...

class Handshakes:
    """Handshakes under way."""

class TlsCodec(Codec):
    def __init__(self, spec: Any, h1: Codec, h2: Codec | None, gate: Handshakes) -> None: ...
