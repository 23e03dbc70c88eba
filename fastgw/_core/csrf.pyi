from collections.abc import Callable, Iterable

from fastgw._core.exchange import Exchange, Hook

class Csrf(Hook):
    def __init__(
        self, trusted: Iterable[bytes], sockets: bool, report: Callable[[Exchange, str], None] | None = ...
    ) -> None: ...
