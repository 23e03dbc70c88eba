from collections.abc import Sequence

from fastgw._core.bucket import BucketTable
from fastgw._core.template import Compiled

class LimitKey:
    parts: int
    def __init__(self, table: BucketTable, keys: Sequence[tuple[str, bytes | Compiled]]) -> None: ...
    def names_of(self, fallbacks: int = ...) -> str: ...
    def hash_of(self, values: Sequence[str]) -> int: ...
