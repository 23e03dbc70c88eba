"""What a route may ask of its WebSockets: bounds, pings, ages, tokens; and their end when the gateway goes."""

import contextlib
import json
import os
import re
import signal
import threading
import time

import jwt as pyjwt
import pytest
import yaml

from fastgw.testing import FakeUpstream, GatewayProcess, Incomplete
from tests.patience import until
from tests.wire.ws_peer import ACCEPT, BINARY, CLOSE, PING, PONG, TEXT, Echo, Ended, Peer, close, frame

SECRET = "a-secret-of-thirty-two-characters!"
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    + ACCEPT + b"\r\n\r\n"
)  # fmt: skip


def config_of(echo, raw):
    return {
        "server": {"timeouts": {"drain": "4s"}},
        "observability": {"access_log": {"path": "stdout", "format": "json"}},
        "consumers": [{"name": "app", "keys": ["sha256:" + "0" * 64]}],
        "services": {"echo": f"http://127.0.0.1:{echo.port}", "raw": raw.url},
        "routes": [
            {"path": "/plain/*", "service": "echo", "websocket": True},
            {"path": "/frame/*", "service": "echo", "websocket": {"max_frame": 1000}},
            {"path": "/message/*", "service": "echo", "websocket": {"max_message": 1000}},
            {"path": "/rate/*", "service": "echo",
             "websocket": {"messages": {"rate": 1, "per": "1h", "burst": 5}}},
            {"path": "/rate-service/*", "service": "raw",
             "websocket": {"messages": {"rate": 1, "per": "1h", "burst": 5, "direction": "service"}}},
            {"path": "/ping/*", "service": "raw", "websocket": {"ping": {"interval": "200ms", "timeout": "1s"},
                                                                "idle_timeout": "2s"}},
            {"path": "/ping-service/*", "service": "raw",
             "websocket": {"ping": {"interval": "200ms", "timeout": "1s", "to": "service"}}},
            {"path": "/age/*", "service": "echo", "websocket": {"max_age": "1s"}},
            {"path": "/idle/*", "service": "echo", "websocket": {"idle_timeout": "1s"}},
            {"path": "/token/*", "service": "echo", "websocket": {"recheck": True},
             "policies": [{"jwt": {"secret": SECRET}}]},
            {"path": "/either/*", "service": "echo", "websocket": {"recheck": True},
             "policies": [{"any_of": [{"key_auth": {}}, {"jwt": {"secret": SECRET}}]}]},
            {"path": "/raw/*", "service": "raw", "websocket": True},
            {"path": "/strict/*", "service": "raw", "websocket": {"max_message": "1MiB"}},
        ],
    }  # fmt: skip


class World:
    def __init__(self, gateway, echo, scripts):
        self.gateway, self.echo, self.scripts = gateway, echo, scripts

    def peer(self, path, script=None, **kwargs):
        if script is not None:
            self.scripts[path] = script
        return Peer(self.gateway.address, path, **kwargs)

    def ended(self, path):
        """What the service's socket ended with."""
        return until(lambda: next((one[1:] for one in self.echo.ends if one[0] == path), None))

    def metric(self, name):
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.gateway.admin("/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else 0.0

    def line(self, path):
        """Of the access log, by the path of its request."""

        def find():
            lines = (json.loads(line) for line in self.gateway.stdout.splitlines() if line.startswith("{"))
            return next((line for line in lines if line.get("path") == path), None)

        return until(find)


@contextlib.contextmanager
def running():
    scripts = {}

    def play(connection):
        request = connection.read_head()
        connection.send(SWITCH)
        scripts[request.target](connection)

    with Echo() as echo, FakeUpstream(play) as raw, GatewayProcess(config_of(echo, raw)) as gateway:
        yield World(gateway, echo, scripts)


@pytest.fixture(scope="module")
def world():
    with running() as found:
        yield found


def received(connection):
    """All bytes of the gateway until it closes."""
    with contextlib.suppress(Incomplete):
        while True:
            connection.read_more()
    return bytes(connection.reader.buffer)


# ---------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("path", ["/frame/", "/message/"])
@pytest.mark.parametrize("chop", [False, True])
def test_a_message_that_is_too_large(world, path, chop):
    path += f"large-{chop}"
    with world.peer(path) as peer:
        peer.send(frame(BINARY, b"a" * 1000))
        assert peer.message() == b"a" * 1000
        data = frame(BINARY, b"b" * 1001)
        if chop:
            peer.chopped(data[:9])
        peer.send(data)
        assert peer.closed() == 1009
    assert world.ended(path) == (1001, "message too large")
    line = world.line(path)
    assert (line["status"], line["code"]) == (101, "websocket_too_large")


def test_fragments_count_together(world):
    with world.peer("/message/fragments") as peer:
        for _ in range(3):
            peer.send(frame(BINARY, b"a" * 500, fin=False), frame(PING, b"p" * 125), frame(0, b"a" * 500))
            assert peer.frame().opcode == PONG
            assert peer.message() == b"a" * 1000
        peer.send(frame(BINARY, b"a" * 500, fin=False), frame(0, b"a" * 500, fin=False), frame(0, b"a"))
        assert peer.closed() == 1009
    with world.peer("/frame/fragments") as peer:
        peer.send(*[frame(BINARY if n == 0 else 0, b"a" * 1000, fin=n == 4) for n in range(5)])
        # the service may answer in one frame, which is too large then
        assert peer.closed() == 1001


def test_a_message_of_the_service_that_is_too_large(world):
    with world.peer("/message/large") as peer:
        assert peer.closed() == 1001
    assert world.ended("/message/large") == (1009, "message too large")
    assert world.line("/message/large")["code"] == "upstream_body_too_large"


# ---------------------------------------------------------------------------------------- rates


def test_too_many_messages(world):
    with world.peer("/rate/x") as peer:
        for number in range(5):
            peer.send(frame(TEXT, b"%d" % number))
            assert peer.message() == b"%d" % number
        peer.send(frame(TEXT, b"6"))
        assert peer.closed() == 1008
    assert world.ended("/rate/x") == (1001, "too many messages")
    assert world.line("/rate/x")["code"] == "rate_limited"


def test_fragments_are_one_message_and_pings_count(world):
    with world.peer("/rate/y") as peer:
        peer.send(frame(TEXT, b"a", fin=False), *[frame(0, b"b", fin=False) for _ in range(20)], frame(0))
        assert peer.message() == b"a" + b"b" * 20
        peer.send(*[frame(PING) for _ in range(4)])
        assert [peer.frame().opcode for _ in range(4)] == [PONG] * 4
        peer.send(frame(PING))
        assert peer.closed() == 1008


def test_too_many_messages_of_the_service(world):
    def script(connection):
        connection.send(b"".join(frame(TEXT, b"%d" % n, masked=False) for n in range(10)))
        seen.append(received(connection))

    seen = []
    with world.peer("/rate-service/x", script) as peer:
        assert [peer.message() for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        assert peer.closed() == 1001
    (data,) = until(lambda: seen)
    assert data[0] == 0x88 and data[1] & 0x80, "a masked close frame"


# ---------------------------------------------------------------------------------------- pings


def test_a_client_that_answers_pings_stays(world):
    """Past the idle timeout; the service sees neither the pings nor the pongs, but a pong of the client's own."""
    seen = []
    with world.peer("/ping/x", lambda c: seen.append(received(c))) as peer:
        begin = time.monotonic()
        nonces = set()
        while time.monotonic() < begin + 2.5 or len(nonces) < 4:
            found = peer.frame()
            assert found.opcode == PING
            nonces.add(found.payload)
            peer.send(frame(PONG, found.payload))
        peer.send(frame(PONG, b"unasked"))
    (data,) = until(lambda: seen)
    assert len(data) == 6 + len(b"unasked") and data[0] == 0x8A
    until(lambda: world.metric("fastgw_websocket_pings_total") >= 4)


def test_a_client_that_does_not_answer(world):
    seen = []
    with world.peer("/ping/silent", lambda c: seen.append(received(c))) as peer:
        assert peer.frame().opcode == PING
        assert peer.closed() == 1011
    assert world.line("/ping/silent")["code"] == "websocket_pong_timeout"
    (data,) = until(lambda: seen)
    assert data[0] == 0x88


def test_a_ping_waits_for_the_border_of_a_frame(world):
    """The service's frame is under way for longer than the interval: no ping within it."""

    def script(connection):
        data = frame(TEXT, b"x" * 60, masked=False)
        for at in range(0, len(data), 5):
            connection.send(data[at : at + 5])
            connection.ended.wait(0.05)
        connection.ended.wait(5)

    with world.peer("/ping/slow", script) as peer:
        assert peer.message() == b"x" * 60
        assert peer.frame().opcode == PING


def test_anything_that_comes_is_an_answer(world):
    """A pong cannot overtake a long frame."""
    with world.peer("/ping/busy", lambda c: received(c)) as peer:
        data = frame(BINARY, b"y" * 100)
        begin = time.monotonic()
        for at in range(0, len(data), 7):
            peer.send(data[at : at + 7])
            time.sleep(0.1)
        assert time.monotonic() - begin > 1.3
        peer.send(close(1000))
        found = [peer.frame()]
        assert found[0].opcode == PING


def test_a_service_that_answers_pings_stays_and_one_that_does_not_goes(world):
    sent = []

    def script(connection):
        got = connection.reader
        for _ in range(3):
            while len(got.buffer) < 6 + 10:
                connection.read_more()
            data = bytes(got.buffer[:16])
            del got.buffer[:16]
            mask = data[2:6]
            payload = bytes(byte ^ mask[n & 3] for n, byte in enumerate(data[6:]))
            sent.append((data[0], payload))
            connection.send(frame(PONG, payload, masked=False))
        sent.append(received(connection))

    with world.peer("/ping-service/x", script) as peer:
        assert peer.closed() == 1001
    until(lambda: len(sent) == 4)
    assert [one[0] for one in sent[:3]] == [0x89] * 3 and len({one[1] for one in sent[:3]}) == 3
    assert world.line("/ping-service/x")["code"] == "websocket_pong_timeout"


# ---------------------------------------------------------------------------------------- times


def test_a_socket_that_is_open_for_too_long(world):
    with world.peer("/age/x") as peer:
        begin = time.monotonic()
        peer.send(frame(TEXT, b"a"))
        assert peer.message() == b"a"
        assert peer.closed() == 1001
        assert time.monotonic() - begin > 0.8
    assert world.ended("/age/x") == (1001, "open for too long")


def test_a_quiet_socket(world):
    with world.peer("/idle/x") as peer:
        assert peer.closed() == 1001
    assert world.ended("/idle/x") == (1001, "quiet for too long")
    assert world.line("/idle/x")["code"] == "websocket_idle_timeout"


def bearer(**claims):
    return b"Authorization: Bearer " + pyjwt.encode({"sub": "ada", **claims}, SECRET, "HS256").encode() + b"\r\n"


@pytest.mark.parametrize("path", ["/token/x", "/either/x"])
def test_a_token_that_expires_closes_the_socket(world, path):
    expires = int(time.time()) + 3
    with world.peer(path, headers=bearer(exp=expires)) as peer:
        peer.send(frame(TEXT, b"a"))
        assert peer.message() == b"a"
        assert peer.closed() == 1008
        assert expires - 0.1 <= time.time() < expires + 60
    assert world.ended(path) == (1001, "token expired")
    assert world.line(path)["code"] == "token_expired"


def test_a_token_far_in_the_future(world):
    with world.peer("/token/y", headers=bearer(exp=1e300)) as peer:
        peer.send(frame(TEXT, b"a"))
        assert peer.message() == b"a"


# ---------------------------------------------------------------------------------------- the end


def test_a_side_that_does_not_answer_a_close_frame_is_not_waited_for(world):
    closed = []
    with world.peer("/strict/mute", lambda c: closed.append(received(c))) as peer:
        begin = time.monotonic()
        peer.send(frame(BINARY, b"", size=2_000_000))
        assert peer.closed() == 1009
        assert time.monotonic() - begin < 30
    until(lambda: closed)


def test_metrics(world):
    before = [world.metric(name) for name in NAMES]
    with world.peer("/plain/metrics") as peer:
        peer.send(frame(TEXT, b"a", fin=False), frame(0, b"b"), frame(PING))
        assert {peer.frame().opcode for _ in range(2)} == {TEXT, PONG}
        assert world.metric("fastgw_websockets_open") >= 1
        peer.send(close(4001))
        assert peer.closed() == 4001
    until(lambda: world.metric(NAMES[-1]) == before[-1] + 1)
    after = [world.metric(name) for name in NAMES]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 4, 3, 1, 1, 1]
    assert until(lambda: world.metric("fastgw_websockets_open") == 0)


NAMES = (
    "fastgw_websockets_opened_total",
    'fastgw_websocket_frames_total{direction="in"}',
    'fastgw_websocket_frames_total{direction="out"}',
    'fastgw_websocket_messages_total{direction="in"}',
    'fastgw_websocket_messages_total{direction="out"}',
    'fastgw_websocket_closes_total{code="4xxx"}',
)


def test_sockets_survive_a_reload(world):
    """One that leaves their route as it is, and one that takes it away."""
    gateway = world.gateway
    with world.peer("/plain/reload") as plain, world.peer("/message/reload") as read:
        tree = yaml.safe_load(gateway.file.read_text())
        tree["routes"].append({"path": "/new", "policies": [{"respond": {"body": "new"}}]})
        gateway.file.write_text(yaml.safe_dump(tree, sort_keys=False))
        assert gateway.admin("/config/reload", "POST")[0] == 200
        with gateway.client() as client:
            client.send(b"GET /new HTTP/1.1\r\nHost: h\r\n\r\n")
            assert bytes(client.response().body) == b"new"
        for peer in (plain, read):
            peer.send(frame(TEXT, b"after"))
            assert peer.message() == b"after"
        tree["routes"] = [route for route in tree["routes"] if route["path"] != "/plain/*"]
        gateway.file.write_text(yaml.safe_dump(tree, sort_keys=False))
        assert gateway.admin("/config/reload", "POST")[0] == 200
        plain.send(frame(TEXT, b"still"))
        assert plain.message() == b"still"
        with gateway.client() as client:
            client.send(b"GET /plain/x HTTP/1.1\r\nHost: h\r\n\r\n")
            assert client.response().status == 404
        read.send(frame(BINARY, b"x" * 1001))
        assert read.closed() == 1009


def test_an_end_of_the_gateway_is_told_to_all():
    """1012 to both sides, spread over half the time for draining; after a whole frame where one is under way."""
    seen = {}

    def script(name):
        def play(connection):
            data = frame(BINARY, b"z" * 1000, masked=False)
            connection.send(data[:500])
            while len(connection.reader.buffer) < 2:
                connection.read_more()               # it is told
            connection.send(data[500:] + frame(TEXT, b"not any more", masked=False))
            seen[name] = received(connection)

        return play

    with running() as world, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(world.peer(f"/plain/{n}")) for n in range(10)]
        idle += [stack.enter_context(world.peer(f"/message/{n}")) for n in range(10)]
        busy = [stack.enter_context(world.peer(path, script(path))) for path in ("/raw/busy", "/strict/busy")]
        for peer in idle:
            peer.send(frame(TEXT, b"here"))
            assert peer.message() == b"here"
        for peer in busy:
            while len(peer.data) < 500:
                peer._more()
        times = []

        def wait(peer):
            assert peer.closed() == 1012
            times.append(time.monotonic())

        threads = [threading.Thread(target=wait, args=(peer,)) for peer in idle]
        for thread in threads:
            thread.start()
        os.kill(world.gateway.pid, signal.SIGTERM)
        for peer in busy:
            assert peer.message() == b"z" * 1000
            found = peer.frame()
            assert (found.opcode, found.code, found.payload[2:]) == (CLOSE, 1012, b"service restart")
            with pytest.raises(Ended):
                peer.frame()
        for thread in threads:
            thread.join(60)
        assert len(times) == 20 and max(times) - min(times) > 0.1
        for n in range(10):
            assert world.ended(f"/plain/{n}") == (1012, "service restart")
        for data in seen.values():
            assert data[0] == 0x88 and len(data) == 2 + 4 + 2 + len(b"service restart")
