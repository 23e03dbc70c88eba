from collections.abc import Callable, Sequence

from fastgw._core.exchange import Hook
from fastgw._core.offload import Offload

class Compress(Hook):
    active: int
    def __init__(
        self,
        codings: Sequence[
            tuple[bytes, int, Callable[[bytes], bytes | bytearray], Callable[[], tuple[Callable[..., bytes], ...]]]
        ],
        wanted: Callable[[bytes], bool],
        min_size: int,
        pause: int,
        etags: int,
        credentials: int,
        most: int,
        strip: bool,
        offload: Offload,
    ) -> None: ...
