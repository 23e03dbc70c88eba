"""A connection to Redis against servers that answer oddly; those that answer well are in test_store.py."""

import asyncio

import pytest
from redis.exceptions import AuthenticationError, DataError, NoScriptError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from fastgw.config.schema.stores import Redis
from fastgw.store.base import StoreError
from fastgw.store.clients import Client
from fastgw.store.redis import RedisStore
from fastgw.store.wire import Place, dial

PATIENCE = 30.0


class Odd:
    """Answers the nth piece that it reads, of all connections, with the nth of `pieces`: bytes, or None to close."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)
        self.read = []
        self.connections = 0

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    async def serve(self, reader, writer):
        self.connections += 1
        while data := await reader.read(65536):
            self.read.append(data)
            piece = self.pieces.pop(0) if self.pieces else b""
            if piece is None:
                break
            for at in range(len(piece)):
                writer.write(piece[at : at + 1])
                await writer.drain()
        writer.close()


def run(what):
    asyncio.run(asyncio.wait_for(what, 60))


def test_answers_in_pieces_and_errors_among_them():
    async def ask():
        async with Odd(b"+OK\r\n-NOSCRIPT none\r\n*2\r\n:1\r\n$2\r\n\r\n\r\n-ERR what\r\n$-1\r\n", b":7\r\n") as odd:
            wire = await dial(Place("127.0.0.1", odd.port), PATIENCE)
            found = await wire.ask([("SET", "a", b"\0"), ("EVALSHA", 1.5), ("X",), ("Y",), ("GET", "a")], PATIENCE)
            assert found[0] == b"OK" and found[2] == [1, b"\r\n"] and found[4] is None
            assert type(found[1]) is NoScriptError and type(found[3]) is ResponseError
            assert await wire.ask([("INCR", "é")], PATIENCE) == [7]
            assert odd.read[1] == b"*2\r\n$4\r\nINCR\r\n$2\r\n\xc3\xa9\r\n"
            wire.close()

    run(ask())


ODD = {"garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n", "two": b"+OK\r\n+OK\r\n", "closed": None}


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
def test_what_is_no_answer_ends_the_connection(answer):
    async def ask():
        async with Odd(answer) as odd:
            wire = await dial(Place("127.0.0.1", odd.port), PATIENCE)
            try:
                await wire.ask([("GET", "a")], PATIENCE)
            except RedisConnectionError:
                pass
            else:
                # the second one of two may come by itself: nobody has asked for it
                assert answer is not None
                while wire.alive:
                    await asyncio.sleep(0.01)
            assert not wire.alive
            with pytest.raises(RedisConnectionError):
                await wire.ask([("GET", "a")], PATIENCE)

    run(ask())


def test_silence_and_who_gives_up():
    async def ask():
        async with Odd() as odd:
            wire = await dial(Place("127.0.0.1", odd.port), PATIENCE)
            with pytest.raises(RedisTimeoutError):
                await wire.ask([("GET", "a")], 0.05)
            assert not wire.alive
            wire = await dial(Place("127.0.0.1", odd.port), PATIENCE)
            task = asyncio.create_task(wire.ask([("GET", "a")], PATIENCE))
            while len(odd.read) < 2:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not wire.alive                    # its answer would be the next one's
            wire = await dial(Place("127.0.0.1", odd.port), PATIENCE)
            with pytest.raises(DataError):
                await wire.ask([("GET", None)], PATIENCE)
            assert wire.alive                        # nothing was sent
            wire.close()

    run(ask())


def test_a_greeting_that_is_refused_tells_no_secret():
    async def ask():
        async with Odd(b"-WRONGPASS invalid username-password pair hunter2\r\n") as odd:
            place = Place("127.0.0.1", odd.port, greeting=(("AUTH", "hunter2"),))
            with pytest.raises(AuthenticationError) as caught:
                await dial(place, PATIENCE)
            assert "hunter2" not in f"{place!r} {caught.value!r}"

    run(ask())


def test_a_kept_connection_that_is_dead_is_replaced_once():
    async def ask():
        async with Odd(b"+a\r\n", None, b"+b\r\n", None, None, b"+never\r\n") as odd:
            client = Client(Redis(url=f"redis://127.0.0.1:{odd.port}", timeout=PATIENCE), None)
            assert await client.send([("GET", "a")], "") == [b"a"]
            assert await client.send([("GET", "a")], "") == [b"b"] and odd.connections == 2
            with pytest.raises(RedisConnectionError):
                await client.send([("GET", "a")], "")
            assert odd.connections == 3
            await client.close()

    run(ask())


def test_a_server_that_has_too_many_clients_did_not_answer():
    async def ask():
        full = b"-ERR max number of clients reached\r\n"
        async with Odd(full, full) as odd:
            store = RedisStore(Redis(url=f"redis://127.0.0.1:{odd.port}", timeout=5.0, deadline=5.0))
            with pytest.raises(StoreError) as caught:
                await store.get("a")
            assert caught.value.reason == "unreachable" and store.state().failures == 1
            await store.close()

    run(ask())
