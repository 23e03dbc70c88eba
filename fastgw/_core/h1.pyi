from fastgw._core.accept import Codec

class H1Codec(Codec):
    """HTTP/1.1."""

class RedirectCodec(H1Codec):
    def __init__(self, port: int, name: str | None = ..., ports: dict[str, int] | None = ...) -> None: ...
