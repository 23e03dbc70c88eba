from typing import Any

class Inspection:
    def __init__(self, client: tuple[Any, ...], service: tuple[Any, ...], limit: int) -> None: ...
