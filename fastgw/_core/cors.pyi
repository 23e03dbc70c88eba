from collections.abc import Sequence

from fastgw._core.exchange import Hook

class Cors(Hook):
    def __init__(
        self,
        origins: Sequence[bytes],
        methods: Sequence[bytes],
        headers: Sequence[bytes],
        expose: Sequence[bytes],
        credentials: bool,
        max_age: int,
        private_network: bool = ...,
    ) -> None: ...
