from collections.abc import Mapping
from typing import Any

from fastgw._core.exchange import Route
from fastgw._core.pool import Service
from fastgw._core.route import Router
from fastgw._core.settings import Settings

class Plan:
    router: Router
    routes: list[Route]
    settings: Settings
    services: dict[str, Service]
    error_pages: dict[str, Any]
    generation: int
    alive: int
    priorities: Any
    trial: Any
    strays: Route | None
    public: dict[bytes, Route] | None
    codecs: dict[str, Any]
    gates: dict[str, Any] | None
    def __init__(
        self,
        router: Router,
        routes: list[Route],
        settings: Settings,
        services: dict[str, Service],
        error_pages: Mapping[str, Any] | None = ...,
        generation: int = ...,
        public: Mapping[bytes, Route] | None = ...,
        codecs: Mapping[str, Any] | None = ...,
        gates: Mapping[str, Any] | None = ...,
    ) -> None: ...
