"""A gateway in this process, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from fastgw.gateway import Gateway
from fastgw.testing.client import DEFAULT_TIMEOUT, RawClient

Result = TypeVar("Result")


class GatewayThread:
    """`with GatewayThread(config) as gateway:` is `async with Gateway(config)` for tests that are not asyncio.

    `config` is what `Gateway` takes. A mapping without listeners gets one on a free port of 127.0.0.1. Starts in
    milliseconds, where `GatewayProcess` takes the time of some processes; policies of the test itself can be used.
    """

    def __init__(self, config: Mapping[str, Any] | str, *, admin: bool = False) -> None:
        if isinstance(config, Mapping):
            server = {"listeners": [{"bind": "127.0.0.1:0"}], **(config.get("server") or {})}
            config = {**config, "server": server}
        self.gateway = Gateway(config, admin=admin)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()
            self._loop.close()

    async def _serve(self) -> None:
        async with self.gateway:
            self._ready.set()
            await self._stop.wait()

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.gateway.ports[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.ports[0]}"

    def client(self, timeout: float = DEFAULT_TIMEOUT) -> RawClient:
        return RawClient(self.address, timeout)

    def call(self, function: Callable[[], Result]) -> Result:
        """Runs it in the gateway's thread, as everything that touches the gateway must; its result."""

        async def run() -> Result:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def __enter__(self) -> GatewayThread:
        self._thread.start()
        if not self._ready.wait(30):
            raise RuntimeError("the gateway did not start in 30 s")
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        if self._thread.is_alive():
            raise RuntimeError("the gateway does not stop")
        if self._failure is not None and error is None:
            raise self._failure
