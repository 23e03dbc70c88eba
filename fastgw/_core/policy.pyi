from typing import Any

from fastgw._core.exchange import Hook

class PythonHook(Hook):
    policy: Any
    def __init__(self, policy: Any, base: type[Any]) -> None: ...
