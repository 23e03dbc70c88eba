"""`python -m fastgw.testing.single FILE`: one data plane in one process, nothing around it.

No supervisor, no agent, no metrics: what tests and sanitizer runs want when a process must be as small as it can
be. The admin listener answers every request with 200 once the plan is in force. SIGTERM drains and ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import time
from typing import Any

from fastgw._core.engine import Engine
from fastgw._core.record import Stats
from fastgw.config import ConfigError, load
from fastgw.plan import Host, build_now, compile_spec
from fastgw.policies import RESOLVER


def listener(bind: Any) -> socket.socket:
    if bind.unix:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(bind.unix)
    else:
        sock = socket.socket(socket.AF_INET6 if ":" in bind.host else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((bind.host, bind.port))
    sock.listen(4096)
    sock.setblocking(False)
    return sock


async def ready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()


async def serve(file: str) -> None:
    config = load(file, resolver=RESOLVER)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = Engine(loop, Stats())
    engine.adopt(build_now(compile_spec(config), engine, Host(strict=True)))
    for spec in config.server.listeners:
        engine.listen(listener(spec.bind))
    admin = await asyncio.start_server(ready, sock=listener(config.admin.bind))
    await stop.wait()
    admin.close()
    engine.drain()
    until = time.monotonic() + config.server.timeouts.drain
    while engine.connections and time.monotonic() < until:
        await asyncio.sleep(0.02)
    engine.close()


def main() -> int:
    try:
        import uvloop

        uvloop.run(serve(sys.argv[1]))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
