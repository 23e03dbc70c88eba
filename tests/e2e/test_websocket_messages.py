"""Policies that see the messages of WebSockets: what they refuse does not go on, and closes the socket."""

import json
import re
import time

import pytest

from fastgw.testing import FakeUpstream, GatewayProcess
from tests.wire.ws_peer import ACCEPT, BINARY, CLOSE, PING, PONG, TEXT, Echo, Peer, close, frame

DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
STUBBORN = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    + ACCEPT + b"\r\n" + DEFLATE + b"\r\n"
)  # fmt: skip
COMMAND = {"type": "object", "required": ["do"], "properties": {"do": {"enum": ["buy", "sell"]}}}
EVENT = {"type": "object", "properties": {"do": {"enum": ["buy"]}}}

FAILING = """
from fastgw import Policy


class Failing(Policy):
    name = "failing"
    inspects = ("client",)

    def websocket_message(self, exchange, message, text, side):
        raise ValueError("planted")
"""


def config_of(echo, raw):
    return {
        "observability": {"access_log": {"path": "stdout", "format": "json"}},
        "services": {"echo": f"http://127.0.0.1:{echo.port}", "raw": raw.url},
        "routes": [
            {"path": "/schema/*", "service": "echo", "websocket": True,
             "policies": [{"validate": {"messages": {"client": COMMAND, "service": EVENT, "size": "1KiB"}}}]},
            {"path": "/log/*", "service": "echo", "websocket": True,
             "policies": [{"validate": {"messages": {"client": COMMAND}, "mode": "log"}}]},
            {"path": "/waf/*", "service": "echo", "websocket": {"ping": "1h"},
             "policies": [{"waf": {"messages": True}}]},
            {"path": "/stubborn/*", "service": "raw", "websocket": True, "policies": [{"waf": {"messages": True}}]},
            {"path": "/unseen/*", "service": "echo", "websocket": True, "policies": ["waf"]},
            {"path": "/failing/*", "service": "echo", "websocket": True, "policies": ["messages_failing:Failing"]},
        ],
    }  # fmt: skip


class World:
    def __init__(self, gateway, echo, raw):
        self.gateway, self.echo, self.raw = gateway, echo, raw

    def peer(self, path, headers=b""):
        return Peer(self.gateway.address, path, headers, timeout=60)

    def ended(self, path):
        return until(lambda: next((one[1:] for one in self.echo.ends if one[0] == path), None))

    def line(self, path):
        def find():
            lines = (json.loads(line) for line in self.gateway.stdout.splitlines() if line.startswith("{"))
            return next((line for line in lines if line.get("path") == path), None)

        return until(find)


def until(find, seconds=60):
    end = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.01)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    (folder / "messages_failing.py").write_text(FAILING)

    def stubborn(connection):
        connection.read_head()
        connection.send(STUBBORN)
        connection.read_more()

    env = {"PYTHONPATH": str(folder)}
    with Echo() as echo, FakeUpstream(stubborn) as raw, GatewayProcess(config_of(echo, raw), env=env) as gateway:
        yield World(gateway, echo, raw)


def test_what_is_right_goes_on_as_it_came(world):
    with world.peer("/schema/right") as peer:
        for kind in (TEXT, BINARY):
            peer.send(frame(kind, b'{"do": "buy"}'))
            found = peer.frame()
            assert (found.opcode, found.payload) == (kind, b'{"do": "buy"}')
        # in pieces, with a ping among them that does not wait
        whole = frame(TEXT, b'{"do"', fin=False) + frame(PING, b"p") + frame(0, b"", fin=False) + frame(0, b': "buy"}')
        peer.chopped(whole)
        found = peer.frame()
        assert (found.opcode, found.payload) == (PONG, b"p")
        assert peer.message() == b'{"do": "buy"}'
        # many at once
        peer.send(frame(TEXT, b'{"do": "buy"}') * 50)
        assert [peer.message() for _ in range(50)] == [b'{"do": "buy"}'] * 50
        peer.send(close(1000))
        assert peer.closed() == 1000
    assert world.ended("/schema/right") == (1000, "")


@pytest.mark.parametrize("number, data, code, word", [
    (1, frame(TEXT, b'{"do": "burn"}'), 1008, "contract_broken"),
    (2, frame(TEXT, b"planted"), 1008, "contract_broken"),
    (3, frame(BINARY, b"\xff\xfe"), 1008, "contract_broken"),
    (4, frame(TEXT, b'{"do": "b\xff"}'), 1007, "websocket_protocol_error"),
    (5, frame(TEXT, b'{"do": "buy", "more": "' + b"a" * 1024 + b'"}'), 1009, "websocket_too_large"),
    (6, frame(TEXT, b"a" * 600, fin=False) + frame(0, b"a" * 600), 1009, "websocket_too_large"),
    (7, frame(TEXT, b"", fin=False) + frame(0, b"", fin=False) * 40_000, 1009, "websocket_too_large"),
    (8, frame(TEXT, b'{"do"', fin=False) + frame(0, b': "burn"}') + close(1000), 1008, "contract_broken"),
], ids=range(1, 9))  # fmt: skip
def test_what_is_not_does_not_go_on(world, number, data, code, word):
    path = f"/schema/wrong-{number}"
    before = len(world.echo.seen)
    with world.peer(path) as peer:
        peer.send(frame(TEXT, b'{"do": "buy"}'))
        assert peer.message() == b'{"do": "buy"}'
        peer.send(data)
        assert peer.closed() == code
    assert world.ended(path)[0] == 1001
    line = world.line(path)
    assert (line["status"], line["code"]) == (101, word)
    assert len(world.echo.seen) == before + 1
    assert "planted" not in world.gateway.stderr


def test_what_the_service_says_is_looked_at_too(world):
    with world.peer("/schema/service") as peer:
        peer.send(frame(TEXT, b'{"do": "sell"}'))      # which the service must not say
        assert peer.closed() == 1001
    assert world.ended("/schema/service") == (1008, "response_invalid")
    assert world.line("/schema/service")["code"] == "response_invalid"


def test_only_telling(world):
    with world.peer("/log/x") as peer:
        peer.send(frame(TEXT, b"anything"))
        assert peer.message() == b"anything"
    assert "message is not JSON" in until(lambda: world.gateway.stderr if "validate" in world.gateway.stderr else "")


@pytest.mark.parametrize("number, text", list(enumerate([
    b"1' OR '1'='1' -- ", b'{"name": "<script>alert(1)</script>"}', b'{"a": ["../../../../etc/passwd"]}',
    b"{<script>alert(1)</script>",
])))  # fmt: skip
def test_attacks(world, number, text):
    with world.peer(f"/waf/{number}") as peer:
        peer.send(frame(TEXT, b'{"say": "good morning"}'), frame(BINARY, b"\x00\x01\x02"))
        assert peer.message() == b'{"say": "good morning"}'
        assert peer.message() == b"\x00\x01\x02"
        peer.send(frame(TEXT, text))
        assert peer.closed() == 1008
    assert world.ended(f"/waf/{number}") == (1001, "attack_refused")
    assert world.line(f"/waf/{number}")["code"] == "attack_refused"


def test_without_messages_nothing_is_looked_at(world):
    with world.peer("/unseen/x", DEFLATE) as peer:
        assert b"permessage-deflate" in peer.head
        peer.send(frame(TEXT, b"1' OR '1'='1' -- "))
        assert peer.frame().opcode == TEXT
        peer.send(close(1000))
        assert peer.closed() == 1000


def test_compression_is_not_agreed_on(world):
    with world.peer("/waf/compressed", DEFLATE) as peer:
        assert b"permessage-deflate" not in peer.head
        peer.send(frame(TEXT, b"x", rsv=4))
        assert peer.closed() == 1002
    # nor with a service that wants it all the same
    with world.peer("/stubborn/x", DEFLATE) as peer:
        assert b"permessage-deflate" not in peer.head
        peer.send(frame(TEXT, b"x", rsv=4))
        found = peer.frame()
        assert (found.opcode, found.code) == (CLOSE, 1002)


def test_a_policy_that_fails_lets_nothing_pass(world):
    with world.peer("/failing/x") as peer:
        peer.send(frame(TEXT, b"x"))
        assert peer.closed() == 1011
    assert world.ended("/failing/x") == (1001, "policy_failed")
    assert "the policy failing failed on a message: ValueError" in world.gateway.stderr
    assert "planted" not in world.gateway.stderr


def test_it_is_counted(world):
    with world.peer("/schema/counted") as peer:
        peer.send(frame(TEXT, b"{}"))
        assert peer.closed() == 1008

    def count(name):
        found = re.search(rf"^{re.escape(name)} (\S+)$", world.gateway.admin("/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else 0.0

    assert until(lambda: count('fastgw_websocket_closes_total{code="1008"}')) >= 1
    assert until(lambda: count('fastgw_errors_total{code="contract_broken"}')) >= 1
