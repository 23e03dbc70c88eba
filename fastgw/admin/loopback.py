"""Whether a request is meant for this host by itself."""

from __future__ import annotations

import ipaddress
import re

AUTHORITY = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::[0-9]*)?")


def is_loopback(host: bytes) -> bool:
    """Whether a Host header means this host by itself: `localhost`, or an address of it, with or without a port."""
    found = AUTHORITY.fullmatch(host.strip())
    if found is None:
        return False
    name = (found[1] or found[2]).decode("latin-1").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
