"""Listeners of `protocol: tcp`, as plain data for the workers; and where a connection to one of them goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from fastgw.config import Config
    from fastgw.config.schema.server import Listener
    from fastgw.config.schema.tcp import Tcp


@dataclass(frozen=True, slots=True)
class TcpSpec:
    """`options` are the keyword arguments of _core.tunnel.TunnelCodec; times in ns, 0 is none.

    names   DNS name or wildcard → service, of TLS that passes through; None: nobody looks for a name
    """

    service: str | None
    names: dict[bytes, str] | None = None
    options: dict[str, Any] = field(default_factory=dict)


def compile_tcp(config: Config) -> dict[str, TcpSpec]:
    """Listener's address → what its connections are."""
    found = {}
    for listener in config.server.listeners:
        tcp = listener.tcp
        if listener.protocol == "tcp" and tcp is not None:
            options = {
                "idle_ns": int(tcp.idle_timeout * 1e9),
                "total_ns": int((tcp.total_timeout or 0) * 1e9),
                "most": tcp.max_connections or 0,
            }
            names = None
            if listener.passthrough:
                options["hello_ns"] = int(tcp.hello_timeout * 1e9)
                names = {name.encode(): route.service for route in tcp.sni for name in route.names}
            found[str(listener.bind)] = TcpSpec(tcp.service, names, options)
    return found


ANY = ("0.0.0.0", "::")


def route_of(tcp: Tcp, name: str) -> tuple[int | None, str | None]:
    """The number of the `sni` that has a name, and its service; (None, the one for others) when none has."""
    known = {wanted: number for number, route in enumerate(tcp.sni) for wanted in route.names}
    labels = name.lower().split(".")
    for wanted in (name.lower(), *("*." + ".".join(labels[n:]) for n in range(1, len(labels)))):
        if wanted in known:
            return known[wanted], tcp.sni[known[wanted]].service
    return None, tcp.service


def listener_of(config: Config, host: str, port: int) -> Listener | None:
    """Who takes a connection to that address ("": to any): one that listens just there, then one on every address."""
    there = [listener for listener in config.server.listeners if listener.bind.port == port and not listener.bind.unix]
    exact = [listener for listener in there if listener.bind.host == host]
    return next(iter(exact + [listener for listener in there if not host or listener.bind.host in ANY]), None)


def explain_connection(config: Config, url: str) -> dict[str, Any]:
    """Where a connection to `tcp://host:port` goes, or one of TLS to `tls://name:port`. ValueError: no such URL."""
    parts = urlsplit(url)
    if parts.port is None or parts.path not in ("", "/"):
        raise ValueError(f"{url!r} has no port; write tcp://host:port or tls://name:port")
    host = parts.hostname or ""
    asked, address = (host, "") if parts.scheme == "tls" else ("", host)
    listener = listener_of(config, address, parts.port)
    if listener is None:
        return {"listener": None, "reason": "no listener has this address"}
    data: dict[str, Any] = {"listener": str(listener.bind), "protocol": listener.protocol}
    if listener.proxy_protocol is not None:
        data["proxy_protocol"] = [str(network) for network in listener.proxy_protocol.trusted_proxies]
    if listener.protocol != "tcp" or listener.tcp is None:
        return {**data, "reason": "the listener speaks HTTP; ask with 'METHOD URL'"}
    data["tls"] = "terminated here" if listener.own_tls is not None else "none: bytes go on as they are"
    service = listener.tcp.service
    if listener.passthrough:
        data["tls"] = "passes through"
        data["name"] = asked
        number, service = route_of(listener.tcp, asked)
        if service is None:
            return {**data, "reason": "no sni has this name, and there is no `service` for others: it is refused"}
        data["route"] = "service, for other names" if number is None else f"sni[{number}]"
    if service is not None:
        data["service"] = service
        given = config.services[service]
        data["endpoints"] = [str(endpoint.url) for endpoint in given.endpoints]
        if given.discovery is not None:
            data["discovery"] = given.discovery.type
    return data
