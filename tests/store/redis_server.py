"""Redis servers of a test's own, on free ports: one, one with Sentinels, a Cluster."""

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
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.arguments = arguments
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process = None

    @property
    def argv(self):
        return [SERVER, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                "--dir", str(self.folder), *self.arguments]  # fmt: skip

    def start(self):
        self.process = subprocess.Popen(self.argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as sock:
                sock.sendall(b"PING\r\n")
                if sock.recv(100)[:1] in b"+-":      # +PONG, or that a password is wanted
                    return self
            assert self.process.poll() is None, "redis-server ended"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.02)

    def info(self, section):
        """`INFO section` as a dict."""
        lines = self.command("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def command(self, *words):
        """The raw answer to one command."""
        with socket.create_connection(("127.0.0.1", self.port), 60) as sock:
            sock.sendall(b"*%d\r\n" % len(words))
            for word in words:
                raw = str(word).encode()
                sock.sendall(b"$%d\r\n%s\r\n" % (len(raw), raw))
            data = sock.recv(65536)
            # a string comes with its length, and perhaps in pieces
            while data[:1] == b"$" and (b"\r\n" not in data or len(data) < len_of_string(data)):
                more = sock.recv(65536)
                assert more, data
                data += more
            return data

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait(60)
            self.process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()


def len_of_string(data):
    """How long a bulk string is, with what is around it; `$-1` is none."""
    head, _, _ = data.partition(b"\r\n")
    size = int(head[1:])
    return len(head) + 2 + (size + 2 if size >= 0 else 0)


def until(done, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class SentinelSet:
    """Two servers, the second a replica of the first, and three Sentinels that know them as `main`."""

    def __init__(self, folder):
        self.master = RedisServer(folder / "a")
        self.replica = RedisServer(folder / "b", "--replicaof", "127.0.0.1", str(self.master.port))
        self.sentinels = []
        for number in range(3):
            own = folder / f"sentinel{number}"
            own.mkdir()
            conf = own / "sentinel.conf"
            port = self.master.port
            conf.write_text(f"sentinel monitor main 127.0.0.1 {port} 2\nsentinel down-after-milliseconds main 1500\n"
                            "sentinel failover-timeout main 3000\n")  # fmt: skip
            self.sentinels.append(Sentinel(own, conf))
        self.nodes = [f"127.0.0.1:{one.port}" for one in self.sentinels]
        self.servers = [self.master, self.replica, *self.sentinels]

    def __enter__(self):
        try:
            for server in self.servers:
                server.start()
            until(lambda: self.master.info("replication").get("connected_slaves") == "1", "no replica")
            for one in self.sentinels:
                # all of them must know the replica and each other before one may be voted for
                until(lambda one=one: self.known(one) == (b"1", b"2"), "the Sentinels do not know each other")
        except BaseException:
            self.__exit__()
            raise
        return self

    def known(self, sentinel):
        words = sentinel.command("SENTINEL", "MASTER", "main").split(b"\r\n")
        pairs = dict(zip(words[2::4], words[4::4], strict=False))
        return pairs.get(b"num-slaves"), pairs.get(b"num-other-sentinels")

    def __exit__(self, *_):
        for server in self.servers:
            server.kill()


class Sentinel(RedisServer):
    def __init__(self, folder, conf):
        super().__init__(folder)
        self.conf = conf

    @property
    def argv(self):
        return [SERVER, str(self.conf), "--sentinel", "--port", str(self.port), "--bind", "127.0.0.1",
                "--dir", str(self.folder)]  # fmt: skip


class ClusterOf3:
    """Three servers, each with a third of the slots; without one of them the others go on."""

    def __init__(self, folder, *arguments):
        self.servers = []
        for number in range(3):
            own = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "2000",
                   "--cluster-require-full-coverage", "no", *arguments)  # fmt: skip
            self.servers.append(RedisServer(folder / f"node{number}", *own))
        self.nodes = [f"127.0.0.1:{one.port}" for one in self.servers]

    def __enter__(self):
        try:
            for number, server in enumerate(self.servers):
                server.start()
                last = 16383 if number == 2 else (number + 1) * 5461 - 1
                assert server.command("CLUSTER", "ADDSLOTSRANGE", number * 5461, last) == b"+OK\r\n"
            first = self.servers[0]
            for server in self.servers[1:]:
                bus = server.arguments[server.arguments.index("--cluster-port") + 1]
                assert first.command("CLUSTER", "MEET", "127.0.0.1", server.port, bus) == b"+OK\r\n"
            for server in self.servers:
                until(lambda server=server: self.whole(server), "the Cluster does not come together")
        except BaseException:
            self.__exit__()
            raise
        return self

    def whole(self, server):
        text = server.command("CLUSTER", "INFO")
        return b"cluster_state:ok" in text and b"cluster_slots_ok:16384" in text

    def __exit__(self, *_):
        for server in self.servers:
            server.kill()
