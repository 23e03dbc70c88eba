"""Bodies pass as they come, both ways; a slow side slows the other one; who leaves is noticed at once."""

import hashlib
import os
import threading
import time

import pytest

from fastgw.testing import Incomplete, chunked
from fastgw.testing.process import private_bytes
from tests.e2e.test_proxying import get

MIB = 1024 * 1024
LARGE = 200 * MIB
BLOCK = bytes(range(256)) * 4096
measured = pytest.mark.skipif("FASTGW_SANITIZE" in os.environ, reason="AddressSanitizer keeps what was freed")


def memory(world):
    return sum(private_bytes(pid) for pid in world.gateway.processes())


def stalled(counter, quiet=0.4):
    """Waits until `counter()` has stood still for `quiet` seconds; its value."""
    last, since = counter(), time.monotonic()
    while time.monotonic() - since < quiet:
        time.sleep(0.02)
        now = counter()
        if now != last:
            last, since = now, time.monotonic()
    return last


def blocks(total):
    for _ in range(total // len(BLOCK)):
        yield BLOCK


@measured
def test_a_slow_reader_slows_the_upstream_and_costs_no_memory(world):
    sent = [0]

    def play(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
        connection.sock.settimeout(60)
        for block in blocks(LARGE):
            connection.sock.sendall(block)
            sent[0] += len(block)

    world.up.script(play)
    before = memory(world)
    expected = hashlib.sha256(b"".join(blocks(LARGE))).digest()
    with world.client(60, receive_buffer=65536) as client:
        client.send(get("/up/"))
        assert client.head().get("content-length") == str(LARGE)
        held = stalled(lambda: sent[0])
        assert held < 32 * MIB, "the upstream was read faster than the client reads"
        assert memory(world) - before < 4 * MIB
        digest = hashlib.sha256(client.reader.buffer)
        count = len(client.reader.buffer)
        peak = 0
        while count < LARGE:
            data = client.sock.recv(MIB)
            assert data, f"cut after {count}"
            digest.update(data)
            if count // (32 * MIB) != (count + len(data)) // (32 * MIB):
                peak = max(peak, memory(world))
            count += len(data)
        assert digest.digest() == expected
        assert peak - before < 4 * MIB


@measured
def test_a_slow_upstream_slows_the_upload_and_costs_no_memory(world):
    go = threading.Event()
    result = {}

    def play(connection):
        connection.read_head()
        connection.wait(go)
        digest = hashlib.sha256(connection.reader.buffer)
        count = len(connection.reader.buffer)
        connection.sock.settimeout(60)
        while count < LARGE:
            data = connection.sock.recv(MIB)
            digest.update(data)
            count += len(data)
        result["digest"] = digest.digest()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    world.up.script(play)
    before = memory(world)
    sent = [0]
    with world.client(60) as client:

        def upload():
            client.sock.sendall(get("/up/", f"Content-Length: {LARGE}\r\n", method="PUT"))
            for block in blocks(LARGE):
                client.sock.sendall(block)
                sent[0] += len(block)

        thread = threading.Thread(target=upload)
        thread.start()
        held = stalled(lambda: sent[0])
        assert held < 32 * MIB, "the client was read faster than the upstream reads"
        assert memory(world) - before < 4 * MIB
        go.set()
        thread.join(60)
        assert client.response().status == 200
    assert result["digest"] == hashlib.sha256(b"".join(blocks(LARGE))).digest()
    assert memory(world) - before < 4 * MIB


def test_each_piece_of_an_answer_comes_before_the_next_is_sent(world):
    turns = [threading.Event() for _ in range(4)]

    def play(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, turn in enumerate(turns):
            connection.wait(turn)
            connection.send(b"5\r\nline%d\r\n" % number)
        connection.send(b"0\r\n\r\n")

    world.up.script(play)
    with world.client() as client:
        client.send(get("/up/"))
        assert client.head().status == 200
        for number, turn in enumerate(turns):
            turn.set()
            while b"line%d" % number not in client.reader.received:
                client.reader.fill(time.monotonic() + 60)


def test_each_piece_of_an_upload_arrives_before_the_next_is_sent(world):
    def play(connection):
        connection.read_head()
        while b"end" not in connection.reader.buffer:
            connection.read_more()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    world.up.script(play)
    with world.client() as client:
        client.send(get("/up/", "Transfer-Encoding: chunked\r\n", method="POST"))
        world.up.wait_requests(1, complete=False)
        connection = world.up.connections[0]
        for number in range(4):
            client.send(b"5\r\nline%d\r\n" % number)
            world.up.wait_for(lambda n=number: b"line%d" % n in connection.received, "the piece")
        client.send(b"3\r\nend\r\n0\r\n\r\n")
        assert client.response().status == 200


def test_an_answer_may_begin_while_the_upload_still_runs(world):
    """An echo: every piece goes up and comes back before the next one is sent."""

    def play(connection):
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        seen = 0
        while seen < 4:
            while b"piece%d" % seen not in connection.received:
                connection.read_more()
            connection.send(b"6\r\npiece%d\r\n" % seen)
            seen += 1
        while not connection.received.endswith(b"0\r\n\r\n"):
            connection.read_more()
        connection.send(b"0\r\n\r\n")

    world.up.script(play)
    with world.client() as client:
        client.send(get("/up/", "Transfer-Encoding: chunked\r\n", method="POST"))
        assert client.head().status == 200
        for number in range(4):
            client.send(b"6\r\npiece%d\r\n" % number)
            while b"piece%d" % number not in client.reader.received:
                client.reader.fill(time.monotonic() + 60)
        client.send(b"0\r\n\r\n")
        while not client.reader.received.endswith(b"0\r\n\r\n"):
            client.reader.fill(time.monotonic() + 60)


@pytest.mark.parametrize("ending", ["hang", "close", "reset"])
def test_a_whole_early_answer_reaches_a_client_that_is_still_uploading(world, ending):
    def refuse(connection):
        connection.read_head()
        connection.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nno way")
        if ending == "hang":
            connection.hang()
        elif ending == "close":
            connection.half_close()
            connection.hang()

    world.up.script(refuse)
    with world.client() as client:
        client.send(get("/up/", f"Content-Length: {MIB}\r\n", method="POST") + b"x" * 1000)
        response = client.response()
        assert (response.status, response.body) == (403, b"no way")
        # what is left of the upload is nobody's request
        client.send(b"x" * (MIB - 1000))
        if response.keeps_alive:
            world.up.script(lambda connection: connection.read_request() and connection.send(b""))
        else:
            assert client.ended() != "timeout"
        assert client.rest() == b""


def test_a_client_that_leaves_before_the_answer_cancels_the_upstream(world):
    world.up.script(lambda connection: (connection.read_request(), connection.hang()))
    with world.client() as client:
        client.send(get("/up/"))
        world.up.wait_requests(1)
    world.up.wait_for(world.up.connections[0].ended.is_set, "the cancellation")


def test_a_client_that_leaves_within_the_answer_cancels_the_upstream(world):
    def endless(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.send(chunked([b"x" * 10_000])[:-5])

    world.up.script(endless)
    with world.client() as client:
        client.send(get("/up/"))
        assert client.head().status == 200
    world.up.wait_for(world.up.connections[0].ended.is_set, "the cancellation")


def test_a_client_that_leaves_a_quiet_stream_cancels_the_upstream(world):
    def quiet(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        connection.hang()

    world.up.script(quiet)
    with world.client() as client:
        client.send(get("/up/"))
        assert client.head().status == 200
    world.up.wait_for(world.up.connections[0].ended.is_set, "the cancellation")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_within_its_upload_never_looks_done(world, how):
    with world.client() as client:
        client.send(get("/up/", "Content-Length: 100\r\n", method="POST") + b"half")
        world.up.wait_requests(1, complete=False)
        getattr(client, how)()
    world.up.wait_for(world.up.connections[0].ended.is_set, "the cancellation")
    assert not world.up.requests[0].complete


def test_a_client_that_leaves_a_chunked_upload_never_looks_done(world):
    with world.client() as client:
        client.send(get("/up/", "Transfer-Encoding: chunked\r\n", method="POST") + b"4\r\nhalf\r\n")
        world.up.wait_requests(1, complete=False)
    world.up.wait_for(world.up.connections[0].ended.is_set, "the cancellation")
    assert not world.up.requests[0].complete


def test_a_slow_reader_of_one_answer_does_not_slow_others(world):
    def play(connection):
        request = connection.read_request()
        if request.target == "/up/large":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
            for block in blocks(64 * MIB):
                connection.send(block)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    world.up.script(play)
    with world.client(receive_buffer=65536) as slow:
        slow.send(get("/up/large"))
        assert slow.head().status == 200
        for _ in range(20):
            with world.client() as other:
                assert other.request(get("/up/")).status == 200


def test_a_cut_upload_does_not_disturb_the_next(world):
    for _ in range(5):
        with world.client() as client:
            client.send(get("/up/", "Content-Length: 100000\r\n", method="POST") + b"x" * 5000)
            client.reset()
        with world.client() as client:
            response = client.request(get("/up/"))
            assert (response.status, response.body) == (200, b"ok")


def test_the_cut_of_an_answer_is_visible_for_http10_too(world):
    def cut(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    world.up.script(cut)
    with world.client() as client, pytest.raises(Incomplete) as stop:
        client.request(get("/up/", version="1.0"))
    # nothing but RST can tell a client without framing that the end was no end
    assert stop.value.how == "reset"
