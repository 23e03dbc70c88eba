from collections.abc import Iterable

from fastgw._core.exchange import Hook

class SecurityHeaders(Hook):
    def __init__(
        self, headers: Iterable[tuple[bytes, bytes]], hsts: bytes | None, removed: Iterable[bytes], replace: bool
    ) -> None: ...
