"""`websocket_broadcast`: many sockets listen to one stream of a service, a WebSocket or Server-Sent Events."""

import base64
import contextlib
import hashlib
import queue
import threading
import time

import pytest
import yaml

from fastgw.testing import FakeUpstream, GatewayProcess, Incomplete
from tests.e2e.test_websocket_rules import until
from tests.wire.ws_peer import BINARY, CLOSE, PING, PONG, TEXT, Ended, Peer, close, frame

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def header(request, name):
    return next((value for key, value in request.headers if key.lower() == name.lower()), None)


def accept(request):
    key = header(request, "Sec-WebSocket-Key").encode()
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


class Source:
    """The service: each stream that is opened is a queue of what it is to send; None ends it."""

    def __init__(self):
        self.opened = queue.Queue()
        self.streams = {}

    def play(self, connection):
        request = connection.read_head()
        said = queue.Queue()
        stream = Stream(request, said, connection)
        self.opened.put(stream)
        if "/sse" in request.target:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        elif "/wrong" in request.target:
            connection.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")
            return
        else:
            connection.send(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept(request) + b"\r\n\r\n"
            )
            reader = threading.Thread(target=stream.read)
            reader.start()
        while (data := said.get(timeout=60)) is not None:
            with contextlib.suppress(OSError, Incomplete):
                connection.send(data)


class Stream:
    def __init__(self, request, said, connection):
        self.request, self.said, self.connection = request, said, connection
        self.at = time.monotonic()                      # before it is answered
        self.heard = b""
        self.ended = threading.Event()

    def read(self):
        with contextlib.suppress(Incomplete, OSError):
            while True:
                self.connection.read_more()
                self.heard = bytes(self.connection.reader.buffer)
        self.ended.set()

    def say(self, *pieces):
        for piece in pieces:
            self.said.put(piece)

    def text(self, *messages):
        self.say(*(frame(TEXT, message, masked=False) for message in messages))

    def end(self):
        self.said.put(None)


@pytest.fixture
def world():
    source = Source()
    with FakeUpstream(source.play, timeout=60) as upstream:
        def route(at, **more):
            return {"path": at, "service": "feed", "websocket_broadcast": {
                "path": "/ws" + at, "retry": "50ms", "max_retry": "200ms", **more}}

        config = {
            "server": {"timeouts": {"drain": "4s", "body": "5m"}},
            "observability": {"access_log": {"enabled": False}},
            "services": {"feed": upstream.url},
            "routes": [
                route("/feed"),
                route("/events", source="sse", path="/sse?all=1"),
                {**route("/rules"), "websocket": {"messages": {"rate": 1, "per": "1h", "burst": 2}}},
                route("/small", max_message=1000, queue=5),
                route("/drop", queue=5),
                route("/close", queue_size="64KiB", slow="close"),
                route("/wrong", path="/wrong"),
                {**route("/key"), "policies": ["key_auth"]},
            ],
            "consumers": [{"name": "app", "keys": ["sha256:" + "0" * 64]}],
        }  # fmt: skip
        with GatewayProcess(config) as gateway:
            gateway.source = source
            yield gateway
        while not source.opened.empty():
            source.opened.get().end()
        for stream in source.streams.values():
            stream.end()


def opened(gateway, number=1):
    """The next stream."""
    stream = gateway.source.opened.get(timeout=60)
    gateway.source.streams[id(stream)] = stream
    return stream


def metric(gateway, name):
    text = gateway.admin("/metrics")[1]
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(name + " ")))


def test_all_hear_what_one_stream_says(world):
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(world.address, "/feed")) for _ in range(20)]
        stream = opened(world)
        assert stream.request.target == "/ws/feed" and header(stream.request, "Sec-WebSocket-Version") == "13"
        stream.text(b"one", b"")
        stream.say(frame(BINARY, b"\x00\xff" * 40_000, masked=False))
        # in fragments, with a ping of the service between
        stream.say(frame(TEXT, b"in ", fin=False, masked=False), frame(PING, b"you?", masked=False))
        stream.say(frame(0, b"pieces", masked=False))
        for peer in peers:
            assert [peer.frame()[:2] for _ in range(4)] == [
                (TEXT, b"one"), (TEXT, b""), (BINARY, b"\x00\xff" * 40_000), (TEXT, b"in pieces"),
            ]  # fmt: skip
        until(lambda: stream.heard)
        assert stream.heard[0] == 0x80 | PONG and stream.heard[1] == 0x80 | 4
        # one that comes later hears what is said from then on
        late = stack.enter_context(Peer(world.address, "/feed"))
        late.send(frame(PING, b"in?"))
        assert late.frame()[:2] == (PONG, b"in?")
        stream.text(b"two")
        assert late.message() == b"two" and peers[0].message() == b"two"
        assert world.source.opened.empty()
    until(lambda: metric(world, "fastgw_broadcast_streams_total") == 1)
    until(lambda: metric(world, "fastgw_broadcast_messages_total") == 5)


def test_what_a_client_says(world):
    """Messages go nowhere, pings and close frames are answered, rules hold."""
    with Peer(world.address, "/feed") as peer:
        stream = opened(world)
        peer.send(frame(TEXT, b"x" * 100_000), frame(BINARY, b"a", fin=False), frame(PING, b"p" * 125), frame(0, b"b"))
        assert peer.frame()[:2] == (PONG, b"p" * 125)
        peer.send(close(4001, b"bye"))
        assert peer.closed() == 4001
    with Peer(world.address, "/feed") as peer:
        peer.chopped(frame(PING, b"abc"))
        assert peer.frame()[:2] == (PONG, b"abc")
        peer.send(frame(3, b""))
        assert peer.closed() == 1002
    with Peer(world.address, "/rules") as peer:
        opened(world)
        peer.send(frame(TEXT, b"1"), frame(TEXT, b"2"), frame(TEXT, b"3"))
        assert peer.closed() == 1008
    assert stream.heard == b""


def test_events_become_messages(world):
    with Peer(world.address, "/events") as peer:
        stream = opened(world)
        assert stream.request.target == "/sse?all=1"
        assert header(stream.request, "Accept") == "text/event-stream"
        stream.say(b"\xef\xbb\xbfdata: one\n\n", b": a comment\n\nevent: x\nid: 7\ndata:two\ndata:  lines\r\n\r\n")
        stream.say(b"data", b": cr\r", b"\rdata: cut\r\n", b"\n", b"id: 8\n\n", b"data\n\n", b"data: \xff!\n\n")
        heard = [b"one", b"two\n lines", b"cr", b"cut", b"", "\ufffd!".encode()]
        assert [peer.message() for _ in heard] == heard
        stream.end()
        again = opened(world)
        assert header(again.request, "Last-Event-ID") == "8"
        again.say(b"data: again\n\n")
        assert peer.message() == b"again"


def test_an_endless_line_ends_its_stream(world):
    with Peer(world.address, "/events") as peer:
        stream = opened(world)
        for _ in range(20):
            stream.say(b"x" * 65_536)
        second = opened(world)
        second.say(b"data: here\n\n")
        assert peer.message() == b"here"


def test_a_stream_that_ends_is_opened_anew(world):
    """By its close frame, by its end; and one that is no stream at all is asked for again and again, but ever less."""
    with Peer(world.address, "/feed") as peer:
        stream = opened(world)
        stream.text(b"1")
        assert peer.message() == b"1"
        stream.say(close(1001, masked=False))
        until(lambda: stream.heard)
        assert stream.heard[0] == 0x80 | CLOSE and stream.heard[1] & 0x80
        stream.end()
        stream = opened(world)
        stream.text(b"2")
        assert peer.message() == b"2"
        stream.end()
        stream = opened(world)
        stream.text(b"3")
        assert peer.message() == b"3"
    with Peer(world.address, "/wrong") as peer:
        times = []
        for _ in range(5):
            times.append(opened(world).at)
        assert times[-1] - times[-2] > 0.09, "200 ms, less half by chance"
        peer.send(frame(PING, b"a"))
        assert peer.frame().opcode == PONG
    assert world.stderr.count("the stream ended (it answered 404)") == 1


def test_a_message_that_is_too_large_ends_the_stream(world):
    with Peer(world.address, "/small") as peer:
        stream = opened(world)
        stream.say(frame(TEXT, b"a" * 1000, masked=False), frame(TEXT, b"b" * 1001, masked=False))
        assert peer.message() == b"a" * 1000
        assert stream.ended.wait(60)
        stream.end()
        opened(world).text(b"c")
        assert peer.message() == b"c"


def flood(stream, count, size=20_000):
    for number in range(count):
        stream.text(b"%06d" % number + b"x" * size)


def test_a_client_that_is_slow_loses_the_oldest(world):
    with Peer(world.address, "/drop") as slow, Peer(world.address, "/drop") as quick:
        stream = opened(world)
        done = threading.Event()
        heard = []

        def listen():
            while (message := quick.message()) != b"end":
                heard.append(message[:6])
            done.set()

        reader = threading.Thread(target=listen)
        reader.start()
        count = 1000
        for number in range(count):
            stream.text(b"%06d" % number + b"x" * 20_000)
            until(lambda number=number: len(heard) > number)
        stream.text(b"end")
        assert done.wait(60)
        reader.join()
        assert heard == [b"%06d" % number for number in range(count)]
        late = []
        while (message := slow.message()) != b"end":
            late.append(int(message[:6]))
        assert late == sorted(late) and len(late) < count and late[-1] == count - 1
    until(lambda: metric(world, "fastgw_broadcast_dropped_total") == count - len(late))


def test_a_client_that_is_slow_is_closed(world):
    with Peer(world.address, "/close") as slow:
        stream = opened(world)
        flood(stream, 1000)
        dropped = until(lambda: metric(world, "fastgw_broadcast_dropped_total"))
        assert dropped == 1
        assert slow.closed() == 1013


def test_nobody_listens(world):
    """The stream goes on for some seconds, then it is closed; the next client has a new one."""
    with Peer(world.address, "/feed") as peer:
        stream = opened(world)
        stream.text(b"1")
        assert peer.message() == b"1"
    with Peer(world.address, "/feed") as peer:
        stream.text(b"2")
        assert peer.message() == b"2"
    assert stream.ended.wait(60)
    assert stream.heard[0] == 0x80 | CLOSE and len(stream.heard) == 2 + 4 + 2
    stream.end()
    with Peer(world.address, "/feed") as peer:
        opened(world).text(b"3")
        assert peer.message() == b"3"


def test_what_is_no_socket(world):
    for path, status in ((b"/feed", 400), (b"/key", 401)):
        with world.client() as client:
            client.send(b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % path)
            assert client.response().status == status
    assert world.source.opened.empty()


def test_reloads(world):
    """That leave the route as it is: sockets and stream go on, and new sockets listen to the same stream."""
    with Peer(world.address, "/feed") as peer:
        stream = opened(world)
        tree = yaml.safe_load(world.file.read_text())
        tree["routes"].append({"path": "/new", "policies": [{"respond": {"body": "new"}}]})
        world.file.write_text(yaml.safe_dump(tree, sort_keys=False))
        assert world.admin("/config/reload", "POST")[0] == 200
        with Peer(world.address, "/feed") as second:
            second.send(frame(PING))
            assert second.frame().opcode == PONG
            stream.text(b"both")
            assert peer.message() == second.message() == b"both"
        tree["routes"][0]["websocket_broadcast"]["path"] = "/ws/other"
        world.file.write_text(yaml.safe_dump(tree, sort_keys=False))
        assert world.admin("/config/reload", "POST")[0] == 200
        with Peer(world.address, "/feed") as third:
            other = opened(world)
            assert other.request.target == "/ws/other"
            other.text(b"new")
            stream.text(b"old")
            assert (peer.message(), third.message()) == (b"old", b"new")


def test_the_end(world):
    with Peer(world.address, "/feed") as peer:
        stream = opened(world)
        world.signal(15)
        assert peer.closed() == 1012
        assert stream.ended.wait(60)
        with pytest.raises(Ended):
            peer.frame()
    assert world.wait() == 0
