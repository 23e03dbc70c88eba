"""The agent's part in a binary upgrade: of the supervisor that takes over, and of the one that hands over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING, Any

from fastgw.server import control

if TYPE_CHECKING:
    from fastgw.admin.agent import Agent
    from fastgw.admin.link import Link

logger = logging.getLogger("fastgw.agent")

LOOK_SECONDS = 0.02


class Handing:
    """held        no worker accepts yet: the supervisor before serves
    under_way   a new supervisor is coming up: no configuration is taken until it is known which one serves
    over        the new one serves: it answers at the admin listener
    """

    def __init__(self, agent: Agent, held: bool) -> None:
        self.agent = agent
        self.held = held
        self.under_way = False
        self.over = False
        self.asked: asyncio.Future[dict[str, Any]] | None = None

    # ------------------------------------------------------------------ taking over

    async def accept(self) -> None:
        """Returns when every worker accepts; also when this agent is to end."""
        while self.held and not self.agent.stopped.is_set():
            links = list(self.agent.links.values())
            if self.agent.complete:
                found = await asyncio.gather(*map(self.let_accept, links))
                self.held = not all(found)
            else:
                await asyncio.sleep(LOOK_SECONDS)

    async def let_accept(self, link: Link) -> bool:
        try:
            await link.ask({"op": "accept"})
        except RuntimeError as error:
            logger.error("%s", error)
            with contextlib.suppress(ProcessLookupError):
                if link.pid:
                    os.kill(link.pid, signal.SIGKILL)  # the supervisor then gives the upgrade up
            link.pid = 0
            return False
        return True

    async def greeted(self, link: Link, message: control.Message) -> None:
        """One that was born before the supervisor knew that all accept."""
        if message["held"] and not self.held:
            await self.let_accept(link)

    # ------------------------------------------------------------------ handing over

    @property
    def busy(self) -> bool:
        return self.held or self.under_way or self.over

    def check(self) -> None:
        """Before a configuration is taken. RuntimeError."""
        if self.busy:
            raise RuntimeError("a binary upgrade is under way: ask again when it is over")

    async def upgrade(self) -> tuple[bool, dict[str, Any]]:
        """Asks the supervisor: (done, the new one's pid, or why not)."""
        if self.agent.rollout.running:
            return False, {"detail": "a configuration is tried with a share of the clients: promote or abort it first"}
        if self.asked is None:
            self.asked = asyncio.get_running_loop().create_future()
            control.send(self.agent.supervisor, {"op": "upgrade"})
        answer = await asyncio.shield(self.asked)
        if answer["error"]:
            return False, {"detail": answer["error"]}
        return True, {"pid": answer["pid"]}

    def hear(self, message: control.Message) -> None:
        """The supervisor: `upgrading`, or `upgraded`: a request was refused, or it is over."""
        if message["op"] == "upgrading":
            self.under_way = True
            return
        if message["over"]:
            self.under_way = False
        if not message["error"]:
            self.over = True
            self.agent.server.leave()
            if self.agent.memory.cache.disk is not None:
                self.agent.spawn(self.agent.memory.cache.disk.stop())    # it is the new one's from now on
        if self.asked is not None and not self.asked.done():
            self.asked.set_result(message)
            self.asked = None
