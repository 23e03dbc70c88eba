from fastgw._core.bans import BanTable
from fastgw._core.bucket import BucketTable

class Arrivals:
    def __init__(
        self,
        counts: BucketTable,
        bans: BanTable,
        *,
        every_ns: int = ...,
        burst: int = ...,
        failures: int = ...,
        window_ns: int = ...,
        length_ns: int = ...,
    ) -> None: ...
    def look(self, address: bytes) -> int: ...
    def fail(self, address: bytes) -> None: ...
