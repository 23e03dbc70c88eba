"""Three endpoints, each a process that can be killed, stopped, made to fail or slow, and clients without a pause."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

from fastgw.testing import GatewayProcess, free_port

CLIENTS = 6

SERVER = r"""
import asyncio, signal, sys

number, port = sys.argv[1], int(sys.argv[2])

class Play(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.rest = transport, b""

    def data_received(self, data):
        *whole, self.rest = (self.rest + data).split(b"\r\n\r\n")
        for _ in whole:
            asyncio.get_running_loop().call_later(3 if slow else 0, self.answer)

    def answer(self):
        status = b"503 Service Unavailable" if failing else b"500 Internal Server Error" if broken else b"200 OK"
        self.transport.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 1\r\n\r\n" + number.encode())

slow = failing = broken = False

def toggle(name):
    globals()[name] = not globals()[name]

async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, toggle, "failing")
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, toggle, "slow")
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, toggle, "broken")
    server = await asyncio.get_running_loop().create_server(Play, "127.0.0.1", port, reuse_address=True)
    print("ready", flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


class Endpoint:
    """One endpoint: a process that can be killed, stopped, and started again at the same address."""

    def __init__(self, number):
        self.number = number
        self.port = free_port()
        self.process = None
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-c", SERVER, str(self.number), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self):
        self.process.kill()
        self.process.wait(60)
        self.process.stdout.close()

    def toggle(self, what):
        """"failing": from now on it answers 503, or no longer; "broken": 500. "slow": it takes 3 s."""
        how = {"failing": signal.SIGUSR1, "slow": signal.SIGUSR2, "broken": signal.SIGHUP}
        os.kill(self.process.pid, how[what])

    def freeze(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self):
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)


class Load:
    """Clients that ask without a pause. `answers`: (when, who or None, status) of each request, `longest` in seconds;
    None: the gateway answered itself."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.answers = []
        self.longest = 0.0
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(CLIENTS)]

    def run(self):
        while not self.ended.is_set():
            with self.gateway.client(60) as client:
                for _ in range(20):
                    begun = time.monotonic()
                    answer = client.request(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
                    who = int(answer.body) if answer.body.isdigit() else None
                    self.answers.append((time.monotonic(), who, answer.status))
                    self.longest = max(self.longest, time.monotonic() - begun)
                    if self.ended.is_set():
                        return

    def since(self, when):
        return [answer for answer in list(self.answers) if answer[0] >= when]

    def failures(self, when=0.0):
        return [answer for answer in self.since(when) if answer[2] != 200]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self.threads)


@contextmanager
def three_endpoints():
    with ExitStack() as stack:
        endpoints = [Endpoint(i) for i in range(3)]

        def end():
            for one in endpoints:
                one.thaw()
                one.kill()

        stack.callback(end)
        yield endpoints, stack


def gateway_for(world, **service):
    endpoints, stack = world
    config = {
        "server": {"listeners": ["127.0.0.1:${FASTGW_PORT}"], "workers": 2},
        "observability": {"access_log": {"enabled": False}},
        "services": {"s": {"endpoints": [one.url for one in endpoints], **service}},
        "routes": [{"path": "/*", "service": "s"}],
    }
    return stack.enter_context(GatewayProcess(config))


def states(gateway):
    return [row["state"] for row in json.loads(gateway.admin("/services/s/endpoints")[1])]


def asked_since(load, when, who):
    return any(answer[1] == who for answer in load.since(when))
