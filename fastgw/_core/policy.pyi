from typing import Any

from fastgw._core.exchange import Hook

class Later:
    @property
    def waited(self) -> bool: ...
    def __call__(self, answer: Any = ...) -> None: ...

class PythonHook(Hook):
    policy: Any
    def __init__(self, policy: Any, base: type[Any]) -> None: ...
