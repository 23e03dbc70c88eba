from collections.abc import Iterable, Mapping

WHY: tuple[str, ...]

class Rules:
    def __init__(
        self,
        *,
        ttls: Mapping[int, float] | None = ...,
        override: bool = ...,
        heuristic: float = ...,
        heuristic_max: int = ...,
        while_revalidate: int = ...,
        if_error: int = ...,
        keep: int = ...,
        cookies: str = ...,
        targets: Iterable[bytes] = ...,
        types: Iterable[bytes] = ...,
        personal: bool = ...,
    ) -> None: ...

def judged(
    raw: bytes, rules: Rules, identified: bool = ..., now: int = ..., delay: int = ...
) -> tuple[str, int, int, int, int, int, bool]: ...
