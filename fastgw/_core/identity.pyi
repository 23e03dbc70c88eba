from collections.abc import Iterable

from fastgw._core.exchange import Hook
from fastgw._core.template import Compiled

class Identity(Hook):
    def __init__(self, headers: Iterable[tuple[bytes, Compiled]], forbidden: Iterable[bytes]) -> None: ...
