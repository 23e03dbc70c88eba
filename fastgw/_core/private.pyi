from typing import Any

from fastgw._core.pool import Opener

class PrivateOpener(Opener):
    def __init__(self, reactor: Any, max_head: int = ..., max_headers: int = ...) -> None: ...
