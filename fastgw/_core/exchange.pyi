from collections.abc import Awaitable, Iterable, Mapping
from enum import IntEnum
from typing import Any

from fastgw._core.headers import Head

class Verdict(IntEnum):
    CONTINUE = 0
    REPLIED = 1
    WAIT = 2
    COLLECT = 3

class Phase(IntEnum):
    PHASE_REQUEST = 1
    PHASE_AROUND = 2
    PHASE_RESPONSE = 4
    PHASE_REQUEST_BODY = 8
    PHASE_RESPONSE_BODY = 16
    PHASE_RECORD = 32
    PHASE_TAP = 64
    PHASE_SOCKET = 128
    PHASE_SEND = 256
    PHASE_FILTER = 512

MAX_CAPTURES: int

class Hook:
    """One policy in a chain, native or wrapped. Made by a policy's `hook()`."""

    name: str
    phases: int
    preflight: bool
    buffer_request: int
    buffer_response: int

class Consumer:
    name: str
    groups: tuple[str, ...]
    metadata: Mapping[str, Any]
    credential: str | None
    plan: str | None
    scopes: frozenset[str] | None
    def __init__(
        self,
        name: str,
        groups: Iterable[str] = ...,
        metadata: Mapping[str, Any] | None = ...,
        credential: str | None = ...,
        plan: str | None = ...,
        scopes: Iterable[str] | None = ...,
    ) -> None: ...

class Route:
    name: str
    index: int
    slot: int
    param_names: tuple[str, ...]
    spec: Any
    def __init__(
        self,
        name: str,
        index: int = ...,
        slot: int = ...,
        param_names: tuple[str, ...] = ...,
        chain: tuple[Any, ...] = ...,
        service: Any = ...,
        split: Any = ...,
        rewrite: Any = ...,
        host_rewrite: bytes | None = ...,
        total_ns: int = ...,
        websocket: Any = ...,
        retry: Any = ...,
        hedge: Any = ...,
        admissions: tuple[Any, ...] = ...,
        header_limit: int = ...,
        header_count: int = ...,
        response_ns: int = ...,
        idle_ns: int = ...,
        connect_ns: int = ...,
        body_limit: int = ...,
        spec: Any = ...,
    ) -> None: ...

class Reply:
    """A local answer: what a policy returns in the place of dispatching."""

    def __init__(
        self,
        status: int,
        body: bytes | str | None = ...,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = ...,
        content_type: str | None = ...,
    ) -> None: ...

class Problem:
    """A refusal with a stable code; answered as problem+json (or text/html by Accept)."""

    status: int
    code: str
    detail: str | None
    side: int
    members: dict[str, Any]
    headers: list[tuple[str, str]]

    def __init__(
        self,
        status: int,
        code: str,
        detail: str | None = ...,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = ...,
        side: int = ...,
        members: Mapping[str, Any] | None = ...,
    ) -> None: ...

class WholeBody:
    """What a request hook returns to be asked again when the request's body is there."""

    limit: int
    def __init__(self, limit: int) -> None: ...

class Refused(Exception):
    """Raised by a body filter: the Problem is the answer, or, when the answer's head is out already, it is cut off."""

    problem: Problem
    def __init__(self, problem: Problem) -> None: ...

class Exchange:
    generation: int
    request: Head
    response: Head
    request_trailers: Head | None
    response_trailers: Head | None
    translated: bool
    grpc_status: int
    route: Route | None
    plan: Any
    consumer: Consumer | None
    claims: Mapping[str, Any] | None
    client_cert: Any
    """client_certificate.ClientCertificate of the connection, or None."""
    code: str | None
    bytes_in: int
    bytes_out: int
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def scheme(self) -> str: ...
    @property
    def client_ip(self) -> str: ...
    @property
    def params(self) -> dict[str, str]: ...
    @property
    def id(self) -> str: ...
    @id.setter
    def id(self, value: str) -> None: ...
    @property
    def trace_id(self) -> str | None: ...
    @property
    def vars(self) -> dict[str, Any]: ...
    @property
    def status(self) -> int: ...
    @status.setter
    def status(self, value: int) -> None: ...
    @property
    def announces_body(self) -> bool: ...
    @property
    def is_local(self) -> bool: ...
    @property
    def request_body(self) -> bytes | None: ...
    @property
    def response_body(self) -> bytes | None: ...
    @response_body.setter
    def response_body(self, value: bytes) -> None: ...
    def speak_grpc(self, content_type: str) -> None: ...
    def send_as(self, method: str, target: str, body: bytes | None = ...) -> None: ...
    def hold_response(self, limit: int) -> None: ...
    def fetch(
        self,
        service: str,
        method: str = ...,
        path: str = ...,
        headers: Mapping[str, str] | None = ...,
        body: bytes | None = ...,
        timeout: float = ...,
        max_body: int = ...,
    ) -> Awaitable[Any]: ...
