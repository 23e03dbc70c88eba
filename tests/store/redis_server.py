"""A Redis server of a test's own, on a free port or a socket."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time

import pytest

from fastgw.testing import free_port

SERVER = shutil.which("redis-server")
needed = pytest.mark.skipif(SERVER is None, reason="no Redis is installed (Debian: redis-server)")


class RedisServer:
    """`with RedisServer(folder) as server: server.url`; `kill`, `pause`, `go_on`, `start` again on the same port."""

    def __init__(self, folder, *arguments):
        self.folder = folder
        self.arguments = arguments
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [SERVER, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", str(self.folder), *self.arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as sock:
                sock.sendall(b"PING\r\n")
                if sock.recv(100)[:1] in b"+-":      # +PONG, or that a password is wanted
                    return self
            assert self.process.poll() is None, "redis-server ended"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.02)

    def command(self, *words):
        """The raw answer to one command."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as sock:
            sock.sendall(b"*%d\r\n" % len(words))
            for word in words:
                raw = str(word).encode()
                sock.sendall(b"$%d\r\n%s\r\n" % (len(raw), raw))
            return sock.recv(65536)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            self.process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()
