from collections.abc import Iterable

from fastgw._core.exchange import Hook

class Coalesce(Hook):
    def __init__(
        self,
        headers: Iterable[bytes],
        across: bool,
        max_body: int,
        max_waiters: int,
        timeout: int,
        failing: bool,
    ) -> None: ...
