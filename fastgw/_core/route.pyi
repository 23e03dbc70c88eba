from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

MAX_DEPTH: int

class Router:
    routes: int
    patterns: list[bytes]
    def add(
        self,
        route: int,
        hosts: Iterable[bytes],
        segments: list[tuple[str, Any]],
        kind: str,
        methods: Iterable[str],
        predicates: Sequence[tuple[str, str, bytes, bytes]],
        slash: str = ...,
        regex: str | None = ...,
    ) -> None: ...
    def dump(self) -> bytes: ...
    @classmethod
    def load(cls, data: bytes | memoryview) -> Router: ...
    def compile(self, compile_one: Callable[[bytes], Any]) -> Iterator[None]: ...

def lookup(
    router: Router,
    method: str = ...,
    host: str = ...,
    path: str = ...,
    query: str = ...,
    headers: Iterable[tuple[str, str]] = ...,
    address: str = ...,
) -> tuple[int, int, list[str], str]: ...
def agent_class(agent: bytes) -> str: ...
