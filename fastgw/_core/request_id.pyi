from fastgw._core.exchange import Hook

class RequestId(Hook):
    def __init__(self, header: bytes, accept: bool, response: bool, limit: int) -> None: ...
