"""The demo services over real sockets, and `fastgw demo` as a real process."""

import argparse
import asyncio
import json
import signal
import socket
import subprocess
import sys

import grpc
import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from fastgw.cli import demo as demo_verb
from fastgw.testing.demo_services import MAX_BODY, DemoServers, demo_library
from fastgw.testing.demo_sockets import MAX_MESSAGE, EchoSocket

FREE = {"users": 0, "orders": 0, "products": 0}


def answered(coroutine_function):
    """Runs one coroutine against fresh services: `answered(f)` calls `f(demo, client)`."""

    async def main():
        async with DemoServers(ports=FREE) as demo, httpx.AsyncClient(timeout=60) as client:
            return await coroutine_function(demo, client)

    return asyncio.run(main())


@pytest.mark.parametrize("path", ["/1", "/users/1", "/api/users/1"])
def test_an_item_is_had_with_and_without_the_prefix(path):
    async def get(demo, client):
        return await client.get(demo.url("users") + path)

    answer = answered(get)
    assert answer.status_code == 200
    assert answer.json()["name"] == "Ada Lovelace"
    assert answer.headers["server"] == "fastgw-demo/users"


def test_collection_health_missing_item_and_old_product_address():
    async def get_all(demo, client):
        paths = ["/api/products", "/health", "/api/products/99", "/api/catalog/product?id=2"]
        return [await client.get(demo.url("products") + path) for path in paths]

    collection, health, missing, old = answered(get_all)
    assert [item["id"] for item in collection.json()["products"]] == [1, 2, 3]
    assert health.json() == {"status": "ok", "service": "products"}
    assert missing.status_code == 404
    assert old.json()["name"] == "Slide rule"


def test_post_creates_and_refuses_what_is_not_an_object():
    async def post(demo, client):
        url = demo.url("orders") + "/api/orders"
        return [await client.post(url, content=body) for body in (b'{"quantity": 2}', b"[]", b"{")]

    created, wrong, broken = answered(post)
    assert created.status_code == 201
    assert created.json() == {"quantity": 2, "id": 100}
    assert (wrong.status_code, broken.status_code) == (400, 400)


def test_echo_tells_what_reached_the_service():
    async def put(demo, client):
        return await client.put(demo.url("users") + "/echo?a=1", content=b"hi", headers={"X-Seen": "yes"})

    echo = answered(put).json()
    assert (echo["method"], echo["target"], echo["body"]) == ("PUT", "/echo?a=1", "hi")
    assert ["X-Seen", "yes"] in echo["headers"] or ["x-seen", "yes"] in echo["headers"]


def test_stream_is_chunked_and_events_tick():
    async def get(demo, client):
        stream = await client.get(demo.url("users") + "/stream?n=3&ms=1")
        events = await client.get(demo.url("users") + "/events?n=2&ms=1")
        return stream, events

    stream, events = answered(get)
    assert stream.headers["transfer-encoding"] == "chunked"
    assert [json.loads(line)["line"] for line in stream.text.splitlines()] == [1, 2, 3]
    assert events.headers["content-type"] == "text/event-stream"
    assert events.text.count("event: tick\n") == 2


@pytest.mark.parametrize("path, status", [("/status/503", 503), ("/status/204", 204), ("/status/999", 400)])
def test_status(path, status):
    async def get(demo, client):
        return await client.get(demo.url("users") + path)

    assert answered(get).status_code == status


def test_method_not_allowed_names_what_is():
    async def delete(demo, client):
        return await client.delete(demo.url("users") + "/api/users")

    answer = answered(delete)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")


def test_a_body_above_the_bound_is_refused_and_the_connection_ends():
    async def post(demo, client):
        return await client.post(demo.url("users") + "/echo", content=b"x" * (MAX_BODY + 1))

    answer = answered(post)
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")


async def raw(demo, name, sent):
    """Every byte the service answers to `sent`, until it closes."""
    reader, writer = await asyncio.open_connection(demo.host, demo.ports[name])
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def test_pipelined_requests_are_answered_in_order_and_close_is_honoured():
    async def pipelined(demo, client):
        first = b"GET /api/users/%d HTTP/1.1\r\nHost: a\r\n\r\n"
        last = b"HEAD /api/users/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        many = b"".join(first % (1 + n % 3) for n in range(40))
        return await raw(demo, "users", many + last)

    received = answered(pipelined)
    assert received.count(b"HTTP/1.1 200 OK") == 41
    first_names = [received.find(name) for name in (b"Ada", b"Grace", b"Alan")]
    assert first_names == sorted(first_names) and first_names[0] > 0
    assert received.endswith(b"Connection: close\r\n\r\n")


def test_what_is_not_http_is_refused():
    async def broken(demo, client):
        return await raw(demo, "users", b"nonsense\r\n\r\n")

    assert answered(broken).startswith(b"HTTP/1.1 400 ")


def test_close_cuts_a_stream_and_frees_the_port():
    async def main():
        async with DemoServers(ports={"users": 0}) as demo:
            reader, writer = await asyncio.open_connection(demo.host, demo.ports["users"])
            writer.write(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"event: tick\n")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"never")
        writer.close()
        with socket.create_server((demo.host, demo.ports["users"]), reuse_port=False):
            pass

    asyncio.run(main())


VERB = """
import argparse, sys
from fastgw.cli import demo
parser = argparse.ArgumentParser()
demo.add_parser(parser.add_subparsers(required=True))
args = parser.parse_args(sys.argv[1:])
sys.exit(args.run(args))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_verb_serves_and_stops_cleanly(number):
    ports = ["--users", "0", "--orders", "0", "--products", "0", "--library", "0"]
    command = [sys.executable, "-c", VERB, "demo", *ports]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().split()[-1]
            assert httpx.get(url + "/health", timeout=60).json()["service"] == "users"
            library = [process.stdout.readline() for _ in range(3)][-1].split()[-1]
            with grpc.insecure_channel(library.removeprefix("http://")) as channel:
                asked = channel.unary_unary("/fastgw.demo.v1.Library/GetBook")(b"\n\x11shelves/1/books/1", timeout=60)
            assert b"Emma" in asked
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")


def test_a_taken_port_of_the_library_is_named(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        args = argparse.Namespace(host="127.0.0.1", users=0, orders=0, products=0, library=port, file=None)
        assert demo_verb.run(args) == 1
    assert str(port) in capsys.readouterr().err


def test_without_grpcio_the_library_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastgw.testing.demo_grpc", None)
    with demo_library(port=0) as url:
        assert url is None


def test_a_taken_port_is_named(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        args = argparse.Namespace(host="127.0.0.1", users=port, orders=0, products=0, library=0, file=None)
        assert demo_verb.run(args) == 1
    assert str(port) in capsys.readouterr().err


@pytest.mark.parametrize("text", ["70000", "x", "-1"])
def test_a_port_out_of_range_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a port"):
        demo_verb.port_number(text)


def test_a_socket_sends_back_what_it_gets():
    async def talk(demo):
        base = demo.url("users").replace("http", "ws", 1)
        for path in ("/socket", "/users/socket"):
            async with connect(base + path, max_size=None) as ws:
                for message in ("hello", b"\x00\xff" * 70_000, "", "é"):
                    await ws.send(message)
                    assert await ws.recv() == message
                await ws.send(["in ", "pieces"])
                assert await ws.recv() == "in pieces"
                await (await ws.ping())
        async with connect(base + "/socket") as ws:
            await ws.send(b"x" * (MAX_MESSAGE + 1))
            with pytest.raises(ConnectionClosed) as closed:
                await ws.recv()
            assert closed.value.rcvd.code == 1009
        with pytest.raises(InvalidStatus) as refused:
            async with connect(base + "/echo"):
                pass
        assert refused.value.response.status_code == 200

    async def main():
        async with DemoServers(ports={"users": 0}) as demo:
            await talk(demo)

    asyncio.run(main())


@pytest.mark.parametrize(("data", "code"), [
    (b"\x81\x01x", 1002),                                    # no mask
    (b"\xc1\x80\0\0\0\0", 1002),                             # a reserved bit
    (b"\x80\x80\0\0\0\0", 1002),                             # goes on with nothing
    (b"\x01\x80\0\0\0\0\x81\x80\0\0\0\0", 1002),            # a message within a message
    (b"\x83\x80\0\0\0\0", 1002),
    (b"\x88\x82\0\0\0\0\x0f\xa1", 4001),
])  # fmt: skip
def test_how_a_socket_ends(data, code):
    for step in (1, 100):
        socket, said = EchoSocket(), b""
        for at in range(0, len(data), step):
            said += socket.feed(data[at : at + step])
        assert socket.closed and said == b"\x88\x02" + code.to_bytes(2, "big")
