from collections.abc import Callable, Sequence
from typing import Any

from fastgw._core.exchange import Hook, Problem
from fastgw._core.offload import Offload

class Decompress(Hook):
    def __init__(
        self,
        codings: Sequence[bytes],
        layers: int,
        limit: int,
        decode: Callable[[bytes, tuple[str, ...]], bytes],
        stream: Callable[[tuple[str, ...]], Any],
        failed: Callable[[Exception, bool], Problem],
        requests: bool,
        responses: bool,
        original: bool,
        strip: bool,
        offload: Offload,
    ) -> None: ...
