from collections.abc import Iterable
from typing import Any

class Keys:
    def __init__(
        self,
        zone: bytes,
        extra: Iterable[Any] | None = ...,
        query: bool = ...,
        ignored: Iterable[bytes] = ...,
        personal: bool = ...,
    ) -> None: ...

def normalised(name: bytes, value: bytes) -> bytes: ...
