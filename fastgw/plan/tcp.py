"""Listeners of `protocol: tcp`, as plain data for the workers; and where a connection to one of them goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from fastgw.config import Config
    from fastgw.config.schema.server import Listener


@dataclass(frozen=True, slots=True)
class TcpSpec:
    """`options` are the keyword arguments of _core.tunnel.TunnelCodec; times in ns, 0 is none."""

    service: str
    options: dict[str, Any] = field(default_factory=dict)


def compile_tcp(config: Config) -> dict[str, TcpSpec]:
    """Listener's address → what its connections are."""
    found = {}
    for listener in config.server.listeners:
        tcp = listener.tcp
        if listener.protocol == "tcp" and tcp is not None and tcp.service is not None:
            options = {
                "idle_ns": int(tcp.idle_timeout * 1e9),
                "total_ns": int((tcp.total_timeout or 0) * 1e9),
                "most": tcp.max_connections or 0,
            }
            found[str(listener.bind)] = TcpSpec(tcp.service, options)
    return found


ANY = ("0.0.0.0", "::")


def listener_of(config: Config, host: str, port: int) -> Listener | None:
    """Who takes a connection to that address: one that listens just there, then one on every address."""
    there = [listener for listener in config.server.listeners if listener.bind.port == port and not listener.bind.unix]
    exact = [listener for listener in there if listener.bind.host == host]
    return next(iter(exact + [listener for listener in there if not host or listener.bind.host in ANY]), None)


def explain_connection(config: Config, url: str) -> dict[str, Any]:
    """Where a connection to `tcp://host:port` goes. ValueError when the URL is none."""
    parts = urlsplit(url)
    if parts.port is None or parts.path not in ("", "/"):
        raise ValueError(f"{url!r} has no port; write tcp://host:port")
    listener = listener_of(config, parts.hostname or "", parts.port)
    if listener is None:
        return {"listener": None, "reason": "no listener has this address"}
    data: dict[str, Any] = {"listener": str(listener.bind), "protocol": listener.protocol}
    if listener.proxy_protocol is not None:
        data["proxy_protocol"] = [str(network) for network in listener.proxy_protocol.trusted_proxies]
    if listener.protocol != "tcp" or listener.tcp is None:
        return {**data, "reason": "the listener speaks HTTP; ask with 'METHOD URL'"}
    data["tls"] = "terminated here" if listener.tls is not None else "none: bytes go on as they are"
    service = listener.tcp.service
    if service is not None:
        data["service"] = service
        given = config.services[service]
        data["endpoints"] = [str(endpoint.url) for endpoint in given.endpoints]
        if given.discovery is not None:
            data["discovery"] = given.discovery.type
    return data
