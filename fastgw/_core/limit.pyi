from collections.abc import Sequence

from fastgw._core.bucket import BucketTable
from fastgw._core.exchange import Hook

class RateLimit(Hook):
    label: str
    def __init__(
        self,
        table: BucketTable,
        policy_key: bytes,
        interval: int,
        burst: int,
        keys: Sequence[tuple[str, bytes]],
        label: str,
        window: int,
        quota: int,
        headers: bool,
        open_when_full: bool,
    ) -> None: ...
