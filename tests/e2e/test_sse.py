"""Server-Sent Events: each one passes when it comes, and is never held for the next. The service sends an event only
after the client has shown that it has the one before."""

import queue
import ssl

import httpx
import pytest

from fastgw.testing import FakeUpstream, GatewayProcess, free_port
from fastgw.testing.certificates import Authority

COUNT = 20
EVENTS = [b"id: %d\nevent: tick\ndata: {\"n\": %d}\n\n" % (n, n) for n in range(COUNT)]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n%s\r\n"
TRANSPORTS = ("HTTP/1.1", "HTTP/1.1 over TLS", "h2c", "h2 over TLS")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    turns = queue.Queue()

    def play(connection):
        request = connection.read_head()
        chunked = request.target == "/chunked"
        connection.send(HEAD % (b"Transfer-Encoding: chunked\r\n" if chunked else b"Connection: close\r\n"))
        for event in EVENTS:
            turns.get(timeout=60)
            # in two pieces, as a service that does not buffer may write them
            for piece in (event[:7], event[7:]):
                connection.send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            connection.send(b"0\r\n\r\n")

    with FakeUpstream(play) as upstream:
        pki = Authority(tmp_path_factory.mktemp("pki"))
        pair = pki.leaf("localhost")
        tls = free_port()
        config = {
            "server": {"listeners": [
                "127.0.0.1:${FASTGW_PORT}",
                {"bind": f"127.0.0.1:{tls}", "tls": {"certificates": [{"cert": pair.cert, "key": pair.key}]}},
            ]},
            "services": {"events": upstream.url},
            "routes": [
                {"path": "/*", "service": "events"},
                {"path": "/edited/*", "service": "events", "strip_prefix": "/edited",
                 "policies": [{"headers": {"response": {"set": {"X-Edited": "yes"}}}}]},
            ],
        }  # fmt: skip
        with GatewayProcess(config) as gateway:
            gateway.tls, gateway.pki, gateway.turns = tls, pki, turns
            yield gateway


def client_of(world, transport):
    over_tls = transport.endswith("TLS")
    base = f"https://localhost:{world.tls}" if over_tls else world.url
    two = transport.startswith("h2")
    context = ssl.create_default_context(cafile=world.pki.cert)
    return httpx.Client(base_url=base, http2=two, http1=not two, verify=context, timeout=60)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("path", ["/chunked", "/until-close", "/edited/chunked"])
def test_events_pass_one_by_one(world, transport, path):
    with client_of(world, transport) as client:
        world.turns.put(None)
        with client.stream("GET", path, headers={"Accept": "text/event-stream"}) as answer:
            assert answer.status_code == 200
            assert answer.http_version == ("HTTP/2" if transport.startswith("h2") else "HTTP/1.1")
            assert answer.headers["content-type"] == "text/event-stream"
            pieces = answer.iter_raw()
            for number, event in enumerate(EVENTS):
                data = b""
                while len(data) < len(event):
                    data += next(pieces)
                assert data == event
                if number + 1 < COUNT:
                    world.turns.put(None)
            assert list(pieces) == []


def test_the_head_comes_before_the_first_event(world):
    """A client that is told nothing for minutes would not know that it is connected."""
    for transport in TRANSPORTS:
        with client_of(world, transport) as client, client.stream("GET", "/chunked") as answer:
            assert answer.status_code == 200
            for _ in range(COUNT):
                world.turns.put(None)
            assert answer.read() == b"".join(EVENTS)
