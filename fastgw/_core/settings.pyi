from typing import Any, Final

PATH_MODES: Final[tuple[str, ...]]

class Settings:
    def __init__(self, **values: Any) -> None: ...
    def trusts(self, address: str) -> bool: ...
