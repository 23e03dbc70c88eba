from collections.abc import Iterable

class Rewrite:
    def __init__(
        self,
        strip: bytes = ...,
        add: bytes = ...,
        path: tuple[bytes | int, ...] | None = ...,
        query: tuple[bytes | int, ...] = ...,
    ) -> None: ...

def rewritten(
    rewrite: Rewrite, path: str, query: str | None = ..., captures: Iterable[tuple[int, int]] = ...
) -> str: ...
