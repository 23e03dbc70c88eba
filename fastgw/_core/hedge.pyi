from collections.abc import Iterable, Mapping

from fastgw._core.retry import Budget

class Latencies:
    share: float
    value: int
    def __init__(self, share: float) -> None: ...
    def add(self, ns: int) -> None: ...

class Hedge:
    delay: int
    most: int
    budget: Budget
    latencies: Latencies | None
    def __init__(
        self,
        budget: Budget | None = ...,
        *,
        delay: int = ...,
        percentile: float = ...,
        most: int = ...,
        methods: Iterable[str] = ...,
        by_service: Mapping[str, Hedge] | None = ...,
    ) -> None: ...
