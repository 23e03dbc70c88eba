from fastgw._core.exchange import Consumer, Hook

class KeyAuth(Hook):
    def __init__(
        self, consumers: dict[bytes, Consumer], header: bytes | None, query: bytes | None, forward: bool
    ) -> None: ...
