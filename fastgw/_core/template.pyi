from collections.abc import Sequence

from fastgw._core.exchange import Exchange

class Compiled:
    constant: bytes | None
    def __init__(self, parts: Sequence[bytes | tuple[str, bytes]]) -> None: ...
    def render(self, ex: Exchange, url: bool = ...) -> bytes: ...
