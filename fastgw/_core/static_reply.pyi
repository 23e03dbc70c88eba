from collections.abc import Iterable, Sequence

from fastgw._core.exchange import Hook

Parts = Sequence[bytes | tuple[str, bytes]]

class StaticReply(Hook):
    def __init__(
        self, status: int, body: bytes, content_type: bytes | None, headers: Iterable[tuple[bytes, Parts]]
    ) -> None: ...

class Redirect(Hook):
    def __init__(self, status: int, location: Parts, keep_path: bool, keep_query: bool) -> None: ...
