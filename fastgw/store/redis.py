"""The store in Redis: one server, one that Sentinels know, or a Cluster."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from redis.exceptions import NoScriptError

from fastgw.config.schema.stores import Redis
from fastgw.store.base import Store, StoreError, StoreState
from fastgw.store.breaker import Breaker
from fastgw.store.clients import Client, connect
from fastgw.store.lanes import Lane, Told
from fastgw.store.wire import Words

logger = logging.getLogger("fastgw.store")


class Script:
    """A Lua script: `EVALSHA`, and `EVAL` with the whole text for a server that does not know it yet."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def words(self, keys: Sequence[str], arguments: Sequence[Any]) -> Words:
        return ("EVALSHA", self.digest, len(keys), *keys, *arguments)


ADD = Script("""
local sum = redis.call('INCRBY', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return sum
""")

CLAIM = Script("""
local found = redis.call('GET', KEYS[1])
if not found then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return found
""")

SWAP = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '0' then redis.call('DEL', KEYS[1])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
""")


def milliseconds(ttl: float) -> int:
    return max(1, int(ttl * 1000))


class Tally:
    """What a store counts. Its lanes know this, and not the store: it can go as soon as no policy uses it."""

    def __init__(self, options: Redis) -> None:
        self.options = options
        self.calls = self.failures = 0

    def failed(self, error: StoreError, calls: int, opened: bool) -> None:
        self.failures += calls
        if opened:
            text = "the store %s fails (%s); it is left alone for %g s"
            logger.error(text, self.options.where, error, self.options.breaker.pause)


async def send(client: Client, scripts: Mapping[str, Script], server: str, commands: Sequence[Words]) -> list[Any]:
    """One round trip, and another one for scripts that the server does not know."""
    replies = await client.send(commands, server)
    unknown = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if unknown:
        whole: list[Words] = [("EVAL", scripts[commands[n][1]].text, *commands[n][2:]) for n in unknown]
        for n, reply in zip(unknown, await client.send(whole, server), strict=True):
            replies[n] = reply
    return replies


async def after(lanes: Sequence[Lane], client: Client) -> None:
    """Closes a client when nothing is under way any more."""
    for lane in lanes:
        while lane.waiting or lane.running:
            await asyncio.wait(lane.running) if lane.running else await asyncio.sleep(0)
    await client.close()


class RedisStore(Store):
    """Commands of one turn of the loop share a round trip, over at most `max_connections` per server (`lanes.py`).

    In a Cluster each server has its own lane and its own breaker: one that is gone takes nothing from the others.
    """

    name = "redis"

    def __init__(self, options: Redis, now: Callable[[], float] = time.monotonic) -> None:
        self.options = options
        self.now = now
        self.client: Client | None = None
        self.broken = Breaker(options.breaker, now)      # while there is no client
        self.lanes: dict[str, Lane] = {}
        self.scripts: dict[str, Script] = {}
        self.tally = Tally(options)

    def __repr__(self) -> str:
        return f"<RedisStore {self.options.where}>"

    def __del__(self) -> None:
        """Whose configuration is gone closes its connections; what is under way ends by itself."""
        client = getattr(self, "client", None)
        if client is not None:
            with contextlib.suppress(RuntimeError):  # no loop runs: the process ends
                asyncio.get_running_loop().create_task(after(list(self.lanes.values()), client))

    def key(self, key: str) -> str:
        return f"{self.options.prefix}:{key}"

    # ------------------------------------------------------------------ commands

    def submit(self, key: str, words: Words, told: Told) -> None:
        """Asks; `told(answer, error)` is called once, within the deadline, never from in here. `key` (with the prefix)
        says which server of a Cluster is asked. StoreError when it is known at once that there will be no answer."""
        self.tally.calls += 1
        try:
            self.lane_of(key).submit(words, told)
        except StoreError:
            self.tally.failures += 1
            raise

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any], told: Told) -> None:
        """The same, of a script. Its keys (with the prefix) must be on one server: `{…}` in them decides."""
        self.scripts[script.digest] = script
        self.submit(keys[0], script.words(keys, arguments), told)

    async def execute(self, key: str, *words: Any) -> Any:
        """The answer to a command."""
        return await self.answer(lambda told: self.submit(key, words, told))

    async def evaluate(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """The answer of a script."""
        return await self.answer(lambda told: self.run(script, keys, arguments, told))

    async def answer(self, ask: Callable[[Told], None]) -> Any:
        # a Future and no asyncio.timeout: a hook takes its first step outside any Task
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def told(result: Any, error: StoreError | None) -> None:
            if future.done():
                return                               # who asked has gone
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        ask(told)
        return await future

    # ------------------------------------------------------------------ the way

    def lane_of(self, key: str) -> Lane:
        client = self.client
        if client is None:
            client = self.opened()
        server = client.server_of(key)
        lane = self.lanes.get(server)
        if lane is None:
            breaker = Breaker(self.options.breaker, self.now)
            lane = Lane(self.options, breaker, partial(send, client, self.scripts, server), self.tally.failed)
            self.lanes[server] = lane
        return lane

    def opened(self) -> Client:
        if not self.broken.admits():
            raise StoreError("paused", "it failed before")
        try:
            self.client = connect(self.options)
        except OSError as error:                     # an SSLError is one
            failure = StoreError("unreachable", f"its certificates cannot be read: {type(error).__name__}")
            self.tally.failed(failure, 0, self.broken.bad())
            raise failure from None
        return self.client

    # ------------------------------------------------------------------ what every store does

    async def get(self, key: str) -> bytes | None:
        key = self.key(key)
        found: bytes | None = await self.execute(key, "GET", key)
        return found

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        key = self.key(key)
        await self.execute(key, "SET", key, value, "PX", milliseconds(ttl))

    async def put_new(self, key: str, value: bytes, ttl: float) -> bool:
        key = self.key(key)
        return bool(await self.execute(key, "SET", key, value, "PX", milliseconds(ttl), "NX"))

    async def claim(self, key: str, value: bytes, ttl: float) -> bytes | None:
        found: bytes | None = await self.evaluate(CLAIM, (self.key(key),), value, milliseconds(ttl))
        return found

    async def swap(self, key: str, old: bytes, new: bytes | None, ttl: float = 0.0) -> bool:
        end = 0 if new is None else milliseconds(ttl)
        return bool(await self.evaluate(SWAP, (self.key(key),), old, new or b"", end))

    async def delete(self, key: str) -> bool:
        key = self.key(key)
        return bool(await self.execute(key, "DEL", key))

    async def add(self, key: str, amount: int, ttl: float) -> int:
        # one step, so that no counter is left without an end
        return int(await self.evaluate(ADD, (self.key(key),), amount, milliseconds(ttl)))

    def state(self) -> StoreState:
        lanes = self.lanes.values()
        paused = self.broken.paused or any(lane.breaker.paused for lane in lanes)
        trips = sum(lane.round_trips for lane in lanes)
        return StoreState(self.name, self.tally.calls, self.tally.failures, paused, trips)

    async def close(self) -> None:
        for lane in self.lanes.values():
            await lane.close()
        if self.client is not None:
            await self.client.close()
            self.client = None
