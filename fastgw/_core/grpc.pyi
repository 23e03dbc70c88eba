from typing import Any

from fastgw._core.exchange import Hook
from fastgw._core.record import Stats

class GrpcHook(Hook):
    def __init__(self, reactor: Any, stats: Stats) -> None: ...
