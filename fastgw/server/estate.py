"""What one supervisor leaves to the next in a binary upgrade, and how it travels.

The two may be of different versions, so nothing is pickled: a line that names the format, one JSON document in a memory
file, and descriptors (SCM_RIGHTS) in the order in which the document names them, over a SEQPACKET socket pair.

    packet 1      `fastgw 1`, and the memory file with the document
    packet 2 …    `+`, each with up to 200 descriptors

    {"version": "0.1.0", "pid": 17, "generation": 4, "source": "/etc/gateway.yaml",
     "sockets": {"127.0.0.1:8080": 2, …}, "activated": {…}, "admin": {…},     address: how many descriptors
     "segments": ["buckets/1/16781312", …],                                   one descriptor each
     "tickets": {address: [client_auth, client_ca, crl, [key, …]]},           bytes as base64
     "addresses": {url: [[family, sockaddr], …]}, "endpoints": {service: […]}, "keys": […]}
"""

from __future__ import annotations

import os
import socket
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import orjson

from fastgw.config.schema.address import Origin
from fastgw.plan.tls import Tickets
from fastgw.policies._keysets import KeySet, Source
from fastgw.server import control
from fastgw.server.activation import Sockets
from fastgw.upstreams.discovery import EndpointSet, Found

FORMAT = b"fastgw 1"
MORE = b"+"
MOST_SOCKETS = 65536
SECONDS = 30.0
"""In which all of it must be there: the other side sends it in one go."""


class EstateError(Exception):
    """What was handed over cannot be used; the message says why."""


@dataclass(slots=True)
class Estate:
    """Sockets by the address of their listener, as `str(Bind)` writes it.

    source     the file in force: another than that of the command line after `fastgw apply`
    activated  those that a service manager opened; never closed
    admin      that of the admin listener, if it has one of its own
    segments   layout → descriptor of shared memory; see server.shared
    tickets    session ticket keys by listener, so that TLS sessions go on
    addresses  what names of endpoints meant last; url → addresses
    endpoints  what discovery knew last
    keys       what issuers told last
    """

    generation: int = 0
    version: str = ""
    pid: int = 0
    source: str = ""
    sockets: Sockets = field(default_factory=dict)
    activated: Sockets = field(default_factory=dict)
    admin: Sockets = field(default_factory=dict)
    segments: dict[str, int] = field(default_factory=dict)
    tickets: Mapping[str, Tickets] = field(default_factory=dict, repr=False)
    addresses: Mapping[str, Any] = field(default_factory=dict)
    endpoints: Mapping[str, EndpointSet] = field(default_factory=dict)
    keys: Mapping[Source, KeySet] = field(default_factory=dict)


def send(channel: socket.socket, estate: Estate) -> None:
    """OSError when the other side is gone, or does not take all of it."""
    groups = {"sockets": estate.sockets, "activated": estate.activated, "admin": estate.admin}
    document = {
        "version": estate.version,
        "pid": estate.pid,
        "generation": estate.generation,
        "source": estate.source,
        **{name: {address: len(found) for address, found in group.items()} for name, group in groups.items()},
        "segments": list(estate.segments),
        "tickets": {name: write_tickets(found) for name, found in estate.tickets.items()},
        "addresses": {
            url: [[family, text(raw)] for family, raw in found] for url, found in estate.addresses.items()
        },
        "endpoints": {name: write_endpoints(found) for name, found in estate.endpoints.items()},
        "keys": [
            [asdict(source), [found.version, [dict(key) for key in found.keys], dict(found.metadata)]]
            for source, found in estate.keys.items()
        ],
    }
    sockets = (sock for group in groups.values() for found in group.values() for sock in found)
    fds = iter([*(sock.fileno() for sock in sockets), *estate.segments.values()])
    state = control.memory_file(orjson.dumps(document))
    try:
        socket.send_fds(channel, [FORMAT], [state])
    finally:
        os.close(state)
    while some := list(islice(fds, control.MAX_FDS)):
        socket.send_fds(channel, [MORE], some)


def receive(channel: socket.socket) -> Estate:
    """EstateError when it is of another format or not whole."""
    channel.settimeout(SECONDS)
    fds: list[int] = []
    try:
        document = orjson.loads(first(channel))
        groups = [document["sockets"], document["activated"], document["admin"]]
        numbers = [number for group in groups for number in group.values()]
        wanted = sum(numbers) + len(document["segments"])
        if min(numbers, default=1) < 1 or wanted > MOST_SOCKETS:
            raise EstateError(f"{wanted} sockets are handed over: that cannot be")
        while len(fds) < wanted:
            data, some = receive_fds(channel, 16, control.MAX_FDS)
            fds += some
            if data != MORE or not some:
                raise EstateError(f"{len(fds)} of {wanted} descriptors were handed over")
        rest = iter(fds)
        sockets, activated, admin = (take(group, rest) for group in groups)
        return Estate(
            int(document["generation"]),
            str(document["version"]),
            int(document["pid"]),
            str(document["source"]),
            sockets,
            activated,
            admin,
            dict(zip(document["segments"], rest, strict=True)),
            {name: read_tickets(found) for name, found in document["tickets"].items()},
            {
                url: tuple((int(family), b64decode(raw)) for family, raw in found)
                for url, found in document["addresses"].items()
            },
            {name: read_endpoints(found) for name, found in document["endpoints"].items()},
            dict(filter(None, map(read_keys, document["keys"]))),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise EstateError(f"what was handed over cannot be read: {error!r}") from None


def first(channel: socket.socket) -> bytes:
    data, fds = receive_fds(channel, 64, 1)
    if data != FORMAT or len(fds) != 1:
        raise EstateError(f"the gateway that runs hands over as {data!r}, not as {FORMAT!r}: it must be started anew")
    try:
        return control.read_file(fds[0])
    finally:
        os.close(fds[0])


def receive_fds(channel: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    data, fds, _, _ = socket.recv_fds(channel, size, most)
    for fd in fds:
        os.set_inheritable(fd, False)
    return data, fds


def take(group: Mapping[str, int], fds: Iterator[int]) -> Sockets:
    found: Sockets = {}
    for address, number in group.items():
        found[address] = [socket.socket(fileno=fd) for fd in islice(fds, number)]
        for sock in found[address]:
            sock.setblocking(False)
    return found


def text(data: bytes) -> str:
    return b64encode(data).decode()


def write_tickets(found: Tickets) -> list[Any]:
    keys = [text(key) for key in found.ticket_keys]
    return [found.client_auth, text(found.client_ca), text(found.crl), keys]


def read_tickets(found: list[Any]) -> Tickets:
    auth, client_ca, crl, keys = found
    return Tickets(int(auth), b64decode(client_ca), b64decode(crl), tuple(b64decode(key) for key in keys))


def write_endpoints(found: EndpointSet) -> list[Any]:
    rows = [[list(one.origin), one.weight, one.zone, one.labels, one.priority] for one in found.endpoints]
    return [found.service, found.source, found.version, found.changed, rows]


def read_endpoints(value: list[Any]) -> EndpointSet:
    service, source, version, changed, rows = value
    endpoints = []
    for origin, weight, zone, labels, priority in rows:
        pairs = tuple((str(name), str(word)) for name, word in labels)
        endpoints.append(Found(Origin(*origin), int(weight), str(zone), pairs, int(priority)))
    return EndpointSet(str(service), str(source), int(version), tuple(endpoints), float(changed))


def read_keys(value: list[Any]) -> tuple[Source, KeySet] | None:
    """None of a version that describes issuers in another way: they are asked anew."""
    (described, (version, keys, metadata)) = value
    try:
        source = Source(**{**described, "algorithms": tuple(described["algorithms"])})
    except (KeyError, TypeError):
        return None
    return source, KeySet(int(version), tuple(keys), metadata)
