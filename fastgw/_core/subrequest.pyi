from fastgw._core.headers import Head

class FetchError(Exception):
    code: str
    def __init__(self, code: str, detail: str | None = ...) -> None: ...

class Fetched:
    status: int
    headers: Head
    body: bytes
