"""The rules of WebSockets hold for those over HTTP/2 (RFC 8441) too: they know of no codec."""

import os
import signal
from contextlib import contextmanager

import h2.events

from fastgw.testing import GatewayProcess
from tests.e2e.test_http2 import Http2Client
from tests.e2e.test_websocket_http2 import connect, head_of, received
from tests.e2e.test_websocket_rules import until
from tests.wire.ws_peer import PING, PONG, TEXT, Echo, close, frame


@contextmanager
def running(**websocket):
    with Echo() as echo:
        config = {
            "server": {"timeouts": {"drain": "4s"}},
            "observability": {"access_log": {"enabled": False}},
            "services": {"up": f"http://127.0.0.1:{echo.port}"},
            "routes": [{"path": "/ws", "service": "up", "websocket": websocket or True}],
        }
        with GatewayProcess(config) as process, Http2Client(process.port) as client:
            stream = connect(client, headers=[(":protocol", "websocket"), ("sec-websocket-version", "13")])
            assert head_of(client, stream)[":status"] == "200"
            yield process, echo, client, stream


def say(client, stream, data):
    client.h2.send_data(stream, data)
    client.flush()


def ended(client, stream):
    while not client.of(stream, h2.events.StreamEnded) and not client.of(stream, h2.events.StreamReset):
        assert client.read()
    return bool(client.of(stream, h2.events.StreamEnded))


def test_a_message_that_is_too_large():
    with running(max_message=1000) as (_, echo, client, stream):
        echoed = frame(TEXT, b"a" * 1000, masked=False)
        say(client, stream, frame(TEXT, b"a" * 1000))
        assert received(client, stream, len(echoed)) == echoed
        say(client, stream, frame(TEXT, b"b" * 1001))
        wanted = echoed + close(1009, b"message too large", masked=False)
        assert received(client, stream, len(wanted)) == wanted
        say(client, stream, close(1009))
        assert ended(client, stream)
        assert until(lambda: echo.ends) == [("/ws", 1001, "message too large")]


def test_pings_of_the_gateway():
    with running(ping={"interval": "100ms", "timeout": "5s"}) as (_, _, client, stream):
        got = received(client, stream, 12)
        assert got[:2] == bytes([0x80 | PING, 10])
        say(client, stream, frame(PONG, got[2:]) + frame(TEXT, b"x"))
        echoed = frame(TEXT, b"x", masked=False)
        # any number of pings may come before it
        while echoed not in got:
            got = received(client, stream, len(got) + 1)


def test_the_end_of_the_gateway():
    for rules in ({}, {"max_message": 1000}):
        with running(**rules) as (process, echo, client, stream):
            os.kill(process.pid, signal.SIGTERM)
            # the library takes nothing more after a GOAWAY (RFC 9113 6.8 says that streams go on): the bytes themselves
            data = b""
            while more := client.sock.recv(65536):
                data += more
            wanted = close(1012, b"service restart", masked=False)
            ends_stream = bytes([0, 0, 0, 0, 1]) + stream.to_bytes(4, "big")
            assert data.index(wanted) < data.index(ends_stream)
            assert until(lambda echo=echo: echo.ends) == [("/ws", 1012, "service restart")]
            assert process.wait() == 0
