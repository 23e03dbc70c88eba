from collections.abc import Mapping

from fastgw._core.accept import Codec
from fastgw._core.pool import Service

class Tunnels:
    open: int

class TunnelCodec(Codec):
    def __init__(
        self,
        service: Service | None,
        count: Tunnels,
        *,
        idle_ns: int = ...,
        total_ns: int = ...,
        most: int = ...,
        names: Mapping[bytes, Service] | None = ...,
        hello_ns: int = ...,
    ) -> None: ...
