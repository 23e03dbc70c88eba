from collections.abc import Iterable

class Budget:
    ratio: float
    floor: float
    tokens: float
    def __init__(self, ratio: float = ..., floor: float = ...) -> None: ...

class Retry:
    attempts: int
    budget: Budget
    def __init__(
        self,
        budget: Budget,
        *,
        attempts: int = ...,
        methods: Iterable[str] = ...,
        statuses: Iterable[int] = ...,
        grpc: Iterable[int] = ...,
        connect: bool = ...,
        reset: bool = ...,
        timeout: bool = ...,
        base_ns: int = ...,
        max_ns: int = ...,
        per_try_ns: int = ...,
        body: int = ...,
        trust_key: bool = ...,
    ) -> None: ...
