from collections.abc import Iterable

from fastgw._core.exchange import Hook

Operation = tuple[str, bytes, object]

class HeaderEdits(Hook):
    def __init__(self, request: Iterable[Operation], response: Iterable[Operation]) -> None: ...
