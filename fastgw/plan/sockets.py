"""The WebSockets of a route in words, for `explain`."""

from __future__ import annotations

from fastgw.config.fields import format_duration, format_size
from fastgw.config.schema.routes import Route
from fastgw.config.schema.websocket import WebSocket

SIDES = {"client": "the client's", "service": "the service's", "both": "each side's"}


def socket_words(route: Route) -> list[str]:
    """One line for each thing that holds for its sockets; none where it has no WebSockets."""
    stream = route.websocket_broadcast
    given = route.websocket or (WebSocket() if stream else None)
    if given is None or not given.enabled:
        return []
    found = []
    if stream is not None:
        kind = "Server-Sent Events" if stream.source == "sse" else "a WebSocket"
        slow = "lose the oldest messages" if stream.slow == "drop" else "are closed (1013)"
        found.append(f"all listen to one stream of the service: GET {stream.path}, {kind}; those that are slow {slow}")
    found.append(f"closed when quiet for {format_duration(given.idle_timeout)} (1001)")
    if given.max_age is not None:
        found.append(f"closed when open for {format_duration(given.max_age)} (1001)")
    for what, size in (("frames", given.max_frame), ("messages", given.max_message)):
        if size is not None:
            found.append(f"{what} of {format_size(size)} at most (1009)")
    if (rate := given.messages) is not None:
        each = f"{rate.rate} in {format_duration(rate.per)}, {rate.burst or rate.rate} at once"
        found.append(f"{SIDES[rate.direction]} messages: {each} (1008)")
    if (ping := given.ping) is not None:
        who = "both sides" if ping.to == "both" else f"the {ping.to}"
        waits = f"after {format_duration(ping.interval)} of silence, {format_duration(ping.timeout)} to answer"
        found.append(f"pings for {who} {waits} (1011)")
    if given.recheck:
        found.append("closed when the token expires (1008)")
    return found
