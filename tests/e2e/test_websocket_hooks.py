"""Policies between a service's 101 and the client: what they put in its place is an answer like any other."""

import asyncio
import threading

import pytest

from fastgw._core.exchange import Problem
from fastgw.policies.base import Policy
from fastgw.testing import FakeUpstream, Incomplete
from fastgw.testing.inprocess import GatewayThread
from tests.wire.ws_peer import ACCEPT, KEY, TEXT, Peer, frame

HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\n\r\n"
)
LET, WAITS = threading.Event(), threading.Event()


class Refuse(Policy):
    """The answer itself is at fault."""

    name = "refuse"

    def response_head(self, exchange):
        return Problem(403, "forbidden", "Not this one.")


class Wait(Policy):
    name = "wait"

    async def response_head(self, exchange):
        WAITS.set()
        while not LET.is_set():
            await asyncio.sleep(0.01)


@pytest.fixture
def world():
    ended = threading.Event()

    def play(connection):
        connection.read_head()
        connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n" + frame(TEXT, b"at once", masked=False)
        )
        try:
            while True:
                connection.read_more()
        except Incomplete:
            ended.set()

    LET.clear()
    WAITS.clear()
    with FakeUpstream(play) as upstream:
        config = {
            "services": {"raw": upstream.url},
            "routes": [
                {"path": f"/{name}", "service": "raw", "websocket": rules, "policies": [f"{__name__}:{policy}"]}
                for name, policy, rules in (
                    ("refused", "Refuse", True),
                    ("refused-read", "Refuse", {"max_message": 1000}),
                    ("waits", "Wait", {"max_message": 1000, "idle_timeout": "1s"}),
                )
            ]
            + [{"path": "/plain", "policies": [{"respond": {"body": "here"}}]}],
        }
        with GatewayThread(config) as gateway:
            gateway.ended = ended
            yield gateway


@pytest.mark.parametrize("path", [b"/refused", b"/refused-read"])
def test_a_refusal_in_the_place_of_the_101(world, path):
    with world.client() as client:
        client.send(HANDSHAKE % path)
        answer = client.response()
        assert answer.status == 403 and b"Not this one." in answer.body
        assert answer.get("Upgrade") is None
        assert world.ended.wait(60)
        # and the connection is one for requests still
        client.send(b"GET /plain HTTP/1.1\r\nHost: h\r\n\r\n")
        assert bytes(client.response().body) == b"here"


def test_a_hook_that_waits(world):
    """What the service sent meanwhile comes after the 101; no time of the socket runs before."""
    threading.Timer(1.5, LET.set).start()
    with Peer(world.address, "/waits") as peer:
        assert LET.is_set()
        assert peer.message() == b"at once"


def test_a_client_that_leaves_while_a_hook_waits(world):
    client = world.client()
    client.send(HANDSHAKE % b"/waits")
    assert WAITS.wait(60)
    client.close()
    assert world.ended.wait(60)
