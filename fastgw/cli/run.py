"""`fastgw run FILE`: the gateway."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import uvloop

from fastgw.config import Config, ConfigError

if TYPE_CHECKING:
    from fastgw.server.activation import Sockets
    from fastgw.server.upgrade import Predecessor

logger = logging.getLogger("fastgw.supervisor")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "run",
        help="run the gateway",
        description="Runs the gateway until SIGTERM or Ctrl-C. SIGHUP takes the file anew, SIGUSR1 opens the access "
        "log anew, SIGUSR2 is `fastgw upgrade`. Exit code 1: the configuration has problems; 3: an address cannot be "
        "listened at, or the access log cannot be opened.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--workers", type=int, metavar="N", help="instead of server.workers; 0 is one process")
    parser.add_argument("--single", action="store_true", help="the same as --workers 0")
    parser.add_argument("--pid-file", default="", metavar="PATH", help="where to write the supervisor's process id")
    parser.add_argument("--demo", action="store_true", help="also run the demo services of `fastgw demo`")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastgw.server.activation import ActivationError, activated
    from fastgw.server.estate import EstateError
    from fastgw.server.upgrade import predecessor

    before: Predecessor | None = None
    try:
        before = predecessor()
        given = activated()                          # before anything of ours can have one of their descriptors
        if before is not None:
            given = before.estate.activated
        return start(args, given, before)
    except (ActivationError, EstateError) as error:
        print(f"fastgw: {error}", file=sys.stderr)
        return 3
    except StartError as error:
        if before is not None:
            before.failed(error.text)
        print(error.text, file=sys.stderr)
        return error.code


class StartError(Exception):
    def __init__(self, text: str, code: int) -> None:
        super().__init__(text, code)
        self.text = text
        self.code = code


def start(args: argparse.Namespace, given: Sockets, before: Predecessor | None) -> int:
    """Raises StartError while nothing runs."""
    from fastgw.observe import access_log
    from fastgw.observe import logging as process_log
    from fastgw.server.compiled import compile_config, worker_count
    from fastgw.server.estate import Estate
    from fastgw.server.shared import SharedMemory
    from fastgw.server.sockets import ListenError

    left = before.estate if before is not None else Estate()
    file = left.source or args.file
    if not os.path.exists(file):
        raise StartError(f"fastgw: there is no file {file}", 2)
    generation = left.generation + 1
    try:
        first = compile_config(file, generation, None, None, left.tickets)
        labels = first.config.observability.metrics.max_label_values
        workers = 0 if args.single else args.workers if args.workers is not None else worker_count(first.config)
        memory = SharedMemory(workers, labels, left.segments, first.config.cache)
        slots = memory.route_slots, memory.service_slots
        compiled = compile_config(file, generation, *slots, first.spec.tls)
        memory.adopt(compiled.route_slots, compiled.service_slots)
    except ConfigError as error:
        raise StartError(str(error), 1) from None
    for warning in compiled.warnings:
        print(warning, file=sys.stderr)
    try:
        access_log.probe(compiled.config.observability.access_log)
    except OSError as error:
        raise StartError(f"fastgw: the access log {error.filename} cannot be opened: {error.strerror}", 3) from None
    log = compiled.config.observability.logging
    process_log.configure(log.level, log.format)
    demo = start_demo() if args.demo else 0
    try:
        if args.demo:
            print(try_this(compiled.config), flush=True)
        if workers == 0 and before is not None:
            raise StartError("fastgw: one process (server.workers: 0) cannot take over: start it anew", 3)
        if workers == 0:
            return uvloop.run(single(args.file))
        from fastgw.admin.agent import agent_main
        from fastgw.server.listeners import Listeners
        from fastgw.server.supervisor import Supervisor
        from fastgw.server.upgrade import command_line

        if before is not None:
            before.report(memory)
        listeners = Listeners(workers, given, left.sockets | left.admin if before is not None else None)
        command = [] if args.demo else command_line()
        supervisor = Supervisor(
            compiled, args.file, workers, memory, agent_main, listeners, before, command, args.pid_file
        )
        return supervisor.run()
    except ListenError as error:
        raise StartError(f"fastgw: {error}", 3) from None
    finally:
        if demo:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(demo, signal.SIGTERM)
                os.waitpid(demo, 0)


async def single(file: str) -> int:
    """Everything in this process: for debugging."""
    from fastgw.gateway import Gateway
    from fastgw.server.notify import Notifier

    notifier = Notifier()
    loop = asyncio.get_running_loop()
    async with Gateway(file, admin=True) as gateway:
        stop = gateway.stop_wanted
        tasks: set[asyncio.Task[Any]] = set()

        def reload() -> None:
            task = loop.create_task(gateway.reload())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        hurry = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: hurry.set() if stop.is_set() else stop.set())
        loop.add_signal_handler(signal.SIGHUP, reload)
        assert gateway.plane is not None
        loop.add_signal_handler(signal.SIGUSR1, gateway.plane.reopen_log)
        loop.add_signal_handler(signal.SIGUSR2, logger.error, "no upgrade: one process has no supervisor")
        notifier.ready("serving in one process")
        await stop.wait()
        notifier.stopping("draining")
        await gateway.leave(hurry)
    return 0


def start_demo() -> int:
    """The demo services in a process of their own; its pid."""
    ready, tell = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(tell)
        os.read(ready, 1)
        os.close(ready)
        return pid
    from fastgw.server.process import become_child
    from fastgw.testing.demo_services import DemoServers, demo_library

    os.close(ready)
    become_child("fastgw-demo", parent)

    async def serve() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        async with DemoServers():
            with demo_library():
                os.write(tell, b"1")
                await stop.wait()

    try:
        asyncio.run(serve())
    except OSError as error:
        print(f"fastgw: the demo services cannot start: {error}", file=sys.stderr)
        os._exit(3)
    os._exit(0)


def try_this(config: Config) -> str:
    """Command lines that work with config.example.yaml and the demo services (whose key is `demo-key`)."""
    listener = next((entry.bind for entry in config.server.listeners if not entry.bind.unix), None)
    base = f"http://127.0.0.1:{listener.port}" if listener else "http://localhost"
    admin = f"http://127.0.0.1:{config.admin.bind.port}"
    lines = ["", "fastgw is running. Try:", ""]
    others: list[str] = []
    for route in config.routes:
        if not route.path or not route.service or route.headers or route.client_ip:
            continue
        names = {use.name for use in config.chain(route)}
        example = re.sub(r"\{[a-z_]+(:\[0-9\]\+)?\}", "1", route.path.removesuffix("/*"))
        if "{" in example or "~" in example or "jwt" in names:
            continue
        if names & {"grpc_web", "grpc_transcode"}:
            if example == "/v1":
                others.append(f"  curl -i {base}/v1/shelves/1/books/1   # JSON for a gRPC service")
            continue
        if "cache" in names:
            others.append(f"  curl -i {base}{example}/{route.service}   # twice: the second comes out of the cache")
            continue
        if route.websocket_broadcast or (route.websocket is not None and route.websocket.enabled):
            others.append(f"  python -m websockets ws{base.removeprefix('http')}{example}   # pip install websockets")
        elif len(lines) <= 8:
            key = "-H 'X-API-Key: demo-key' " if "key_auth" in names else ""
            lines.append(f"  curl -i {key}{base}{example}")
    lines += others[:4]
    lines += [f"  curl -s {admin}/services", f"  curl -s {admin}/metrics | head -40", "", "Ctrl-C stops it.", ""]
    return "\n".join(lines)
