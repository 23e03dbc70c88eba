"""Socket addresses in the form the engine connects to: (family, raw sockaddr bytes)."""

from __future__ import annotations

import socket
import struct

from fastgw.config.schema.address import Origin

Address = tuple[int, bytes]


def sockaddr(family: int, host: str, port: int = 0) -> Address:
    """The struct sockaddr of an IP address, or of a unix socket's path."""
    if family == socket.AF_UNIX:
        return family, struct.pack("=H", family) + host.encode() + b"\0"
    if family == socket.AF_INET6:
        host, _, zone = host.partition("%")
        scope = socket.if_nametoindex(zone) if zone else 0
        packed = socket.inet_pton(family, host)
        return family, struct.pack("=H", family) + struct.pack("!HI", port, 0) + packed + struct.pack("=I", scope)
    return family, struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)


def known(origin: Origin) -> tuple[Address, ...]:
    """The addresses that need no look-up: a unix socket's or an IP address's; () for a name."""
    if origin.unix:
        return (sockaddr(socket.AF_UNIX, origin.unix),)
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return (sockaddr(family, origin.host, origin.port),)
        except OSError:
            continue
    return ()


def resolve(origin: Origin) -> tuple[Address, ...]:
    """Looks a name up (blocking); IPv4 and IPv6 in the resolver's order. OSError when there is no answer."""
    here = known(origin)
    if here:
        return here
    found: dict[Address, None] = {}
    for family, _, _, _, address in socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM):
        if family in (socket.AF_INET, socket.AF_INET6):
            found[sockaddr(family, str(address[0]), origin.port)] = None
    return tuple(found)


def host_of(address: Address) -> str:
    """The IP address as text, or a unix socket's path."""
    family, raw = address
    if family == socket.AF_UNIX:
        return raw[2:].rstrip(b"\0").decode()
    if family == socket.AF_INET6:
        return socket.inet_ntop(family, raw[8:24])
    return socket.inet_ntoa(raw[4:8])
