"""The agent's part in mirroring: what its workers found is put together, and forgotten by all of them."""

from __future__ import annotations

from typing import Any

from fastgw.admin.link import Link, ask_all
from fastgw.server.compiled import Release
from fastgw.server.mirrors import mirrors_view
from fastgw.server.shared import SharedMemory

SECONDS = 2.0


class MirrorViews:
    """Of an Agent: two answers of the admin API."""

    links: dict[int, Link]
    current: Release
    memory: SharedMemory

    async def mirrors(self) -> dict[str, list[dict[str, Any]]]:
        told = await ask_all(self.links.values(), {"op": "mirrors"}, SECONDS)
        return mirrors_view(self.current.config(), told, self.memory.stats, self.memory.service_slots.by_slot())

    async def reset_mirrors(self, route: str) -> None:
        await ask_all(self.links.values(), {"op": "reset_mirrors", "route": route}, SECONDS)
