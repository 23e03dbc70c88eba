"""What guards connections and open sockets, made native."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastgw._core.arrivals import Arrivals
from fastgw._core.bans import BanTable
from fastgw._core.bucket import BucketTable
from fastgw._core.ws import Rules
from fastgw._core.ws_messages import Inspection
from fastgw.policies.base import Policy


def arrivals_by(given: Mapping[str, int], counts: BucketTable | None, bans: BanTable | None) -> Arrivals | None:
    """What is asked of connections before they are any; None where the file asks nothing."""
    if not given:
        return None
    return Arrivals(counts or BucketTable.private(4096), bans or BanTable.private(256), **given)


def socket_rules(websocket: Mapping[str, Any] | None, looking: Sequence[Policy]) -> Rules | None:
    """The rules of a route's WebSockets; None where it has none. `looking`: policies that see messages."""
    if websocket is None or not looking:
        return Rules(**websocket) if websocket is not None else None
    sides = [
        tuple((one.name, one.websocket_message) for one in looking if side in one.inspects)
        for side in ("client", "service")
    ]
    return Rules(**websocket, inspection=Inspection(sides[0], sides[1], min(one.message_size for one in looking)))
