from collections.abc import Callable, Sequence

from fastgw._core.exchange import Hook
from fastgw._core.offload import Offload

def preference(names: Sequence[bytes], lines: Sequence[bytes]) -> int:
    """Which of the encodings, best first, a client wants that sent these Accept-Encoding lines; -1 for none."""

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
