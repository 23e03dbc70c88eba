"""The agent's side of the channel to one worker."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastgw.server import control

ANSWER_SECONDS = 5.0


class Link:
    """The channel to one worker."""

    def __init__(self, slot: int, sock: socket.socket) -> None:
        self.slot = slot
        self.sock = sock
        self.pid = 0
        self.generation = 0
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.next_id = 0

    @property
    def serves(self) -> bool:
        return self.pid != 0

    async def ask(self, message: control.Message, fds: Sequence[int] = (), timeout: float = ANSWER_SECONDS) -> Any:
        """The worker's answer. RuntimeError when it failed or does not answer."""
        self.next_id += 1
        number = self.next_id
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting[number] = future
        try:
            if not control.send(self.sock, {**message, "id": number}, fds):
                raise RuntimeError(f"worker {self.slot} is not there")
            return await asyncio.wait_for(future, timeout)
        except TimeoutError:
            raise RuntimeError(f"worker {self.slot} did not answer in {timeout:g} s") from None
        finally:
            self.waiting.pop(number, None)


async def ask_all(links: Iterable[Link], message: control.Message, timeout: float) -> list[Any]:
    """What those workers answer that do; the others are left out."""
    answers = await asyncio.gather(
        *(link.ask(message, timeout=timeout) for link in links if link.serves), return_exceptions=True
    )
    return [answer for answer in answers if not isinstance(answer, BaseException)]


def close_all(opened: Mapping[str, Sequence[int]]) -> None:
    """Descriptors of new listeners, by name."""
    for fds in opened.values():
        for fd in fds:
            os.close(fd)
