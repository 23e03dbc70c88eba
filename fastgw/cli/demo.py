"""`fastgw demo [FILE]`: the demo services, and in front of them the gateway when a configuration is given."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from asyncio.subprocess import Process

from fastgw.testing.demo_services import DEMO_PORTS, LIBRARY_PORT, DemoServers, demo_library

STOP_SECONDS = 40.0
"""How long the gateway may take to drain before it is killed; above the default of its drain timeout."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "demo",
        help="run small real services to put the gateway in front of",
        description="Runs the demo services (users, orders, products, and library, which speaks gRPC) in this "
        "process. With FILE, also starts `fastgw run FILE` and stops with it. Ctrl-C stops everything.",
    )
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="start the gateway with this configuration too"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address of the services (default: %(default)s)")
    for name, port in DEMO_PORTS.items():
        parser.add_argument(
            f"--{name}", type=port_number, default=port, metavar="PORT", help=f"port of {name} ({port})"
        )
    parser.add_argument(
        "--library", type=port_number, default=LIBRARY_PORT, metavar="PORT", help=f"port of library ({LIBRARY_PORT})"
    )
    parser.set_defaults(run=run)
    return parser


def port_number(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535, 0 takes a free one)")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """0 after Ctrl-C or TERM, 1 when a port can not be had, else what the gateway ended with."""
    ports = {name: getattr(args, name) for name in DEMO_PORTS}
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(serve(args.host, ports, args.library, args.file))
    except OSError as error:
        print(f"fastgw demo: {error}", file=sys.stderr)
        return 1


def new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


async def serve(host: str, ports: dict[str, int], library_port: int, file: str | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with DemoServers(host, ports) as demo:
        with demo_library(host, library_port) as library:
            for name in demo.ports:
                print(f"demo service {name:<9} {demo.url(name)}", flush=True)
            print(f"demo service library   {library or 'is not served: pip install fastgw[grpc]'}", flush=True)
            if file is None:
                print(hints(demo), flush=True)
                await stop.wait()
                return 0
            gateway = await asyncio.create_subprocess_exec(sys.executable, "-m", "fastgw", "run", file)
            return await outlast(gateway, stop)


async def outlast(gateway: Process, stop: asyncio.Event) -> int:
    """Waits until the gateway ends or we are told to stop, then until the gateway has drained."""
    ended = asyncio.ensure_future(gateway.wait())
    told = asyncio.ensure_future(stop.wait())
    await asyncio.wait((ended, told), return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not ended.done():
        # Ctrl-C in a terminal reaches the gateway too; a TERM to this process alone does not.
        gateway.terminate()
        try:
            await asyncio.wait_for(asyncio.shield(ended), STOP_SECONDS)
        except TimeoutError:
            print(f"fastgw demo: the gateway did not stop in {STOP_SECONDS:.0f} s, killed", file=sys.stderr)
            gateway.kill()
    code = await ended
    return code if code >= 0 else 128 - code


def hints(demo: DemoServers) -> str:
    first = next(iter(demo.ports))
    base = demo.url(first)
    return (
        "\ntry:\n"
        f"  curl -s {base}/api/{first}\n"
        f"  curl -s {base}/api/{first}/1\n"
        f'  curl -s -d \'{{"name": "Edsger"}}\' {base}/api/{first}\n'
        f"  curl -s {base}/echo          # what reached the service\n"
        f"  curl -sN {base}/events       # a clock, as Server-Sent Events\n"
        f"  python -m websockets {base.replace('http', 'ws', 1)}/socket      # sends back what it gets\n"
        "Ctrl-C stops."
    )
