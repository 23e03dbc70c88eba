from collections.abc import Iterable

from fastgw._core.accept import Gate

class ProxyGate(Gate):
    def __init__(self, *, trusted: Iterable[str], required: bool = ..., timeout_ns: int = ...) -> None: ...
