"""`fastgw run FILE`: the gateway."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import signal
import sys
from typing import Any

import uvloop

from fastgw.config import Config, ConfigError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "run",
        help="run the gateway",
        description="Runs the gateway until SIGTERM or Ctrl-C. SIGHUP takes the file anew, SIGUSR1 opens the access "
        "log anew. Exit code 1: the configuration has problems; 3: an address cannot be listened at, or the access log "
        "cannot be opened.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--workers", type=int, metavar="N", help="instead of server.workers; 0 is one process")
    parser.add_argument("--single", action="store_true", help="the same as --workers 0")
    parser.add_argument("--demo", action="store_true", help="also run the demo services of `fastgw demo`")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastgw.observe import access_log
    from fastgw.observe import logging as process_log
    from fastgw.server.activation import ActivationError, activated
    from fastgw.server.compiled import compile_config, worker_count
    from fastgw.server.shared import SharedMemory
    from fastgw.server.sockets import ListenError

    try:
        given = activated()                          # before anything of ours can have one of their descriptors
    except ActivationError as error:
        print(f"fastgw: {error}", file=sys.stderr)
        return 3
    if not os.path.exists(args.file):
        print(f"fastgw: there is no file {args.file}", file=sys.stderr)
        return 2
    try:
        first = compile_config(args.file, 1, None, None)
        labels = first.config.observability.metrics.max_label_values
        workers = 0 if args.single else args.workers if args.workers is not None else worker_count(first.config)
        memory = SharedMemory(workers, labels)
        compiled = compile_config(args.file, 1, memory.route_slots, memory.service_slots)
        memory.adopt(compiled.route_slots, compiled.service_slots)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    for warning in compiled.warnings:
        print(warning, file=sys.stderr)
    try:
        access_log.probe(compiled.config.observability.access_log)
    except OSError as error:
        print(f"fastgw: the access log {error.filename} cannot be opened: {error.strerror}", file=sys.stderr)
        return 3
    log = compiled.config.observability.logging
    process_log.configure(log.level, log.format)
    demo = start_demo() if args.demo else 0
    try:
        if args.demo:
            print(try_this(compiled.config), flush=True)
        if workers == 0:
            return uvloop.run(single(args.file))
        from fastgw.admin.agent import agent_main
        from fastgw.server.supervisor import Supervisor

        return Supervisor(compiled, args.file, workers, memory, agent_main, given).run()
    except ListenError as error:
        print(f"fastgw: {error}", file=sys.stderr)
        return 3
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

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, reload)
        assert gateway.plane is not None
        loop.add_signal_handler(signal.SIGUSR1, gateway.plane.reopen_log)
        notifier.ready("serving in one process")
        await stop.wait()
        notifier.stopping("draining")
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
        if route.websocket_broadcast or (route.websocket is not None and route.websocket.enabled):
            others.append(f"  python -m websockets ws{base.removeprefix('http')}{example}   # pip install websockets")
        elif len(lines) <= 8:
            key = "-H 'X-API-Key: demo-key' " if "key_auth" in names else ""
            lines.append(f"  curl -i {key}{base}{example}")
    lines += others[:3]
    lines += [f"  curl -s {admin}/services", f"  curl -s {admin}/metrics | head -40", "", "Ctrl-C stops it.", ""]
    return "\n".join(lines)
