from fastgw._core.accept import Codec

class H1Codec(Codec):
    h2: Codec | None
    def __init__(self, h2: Codec | None = ...) -> None: ...

class RedirectCodec(H1Codec):
    def __init__(self, port: int, name: str | None = ..., ports: dict[str, int] | None = ...) -> None: ...
